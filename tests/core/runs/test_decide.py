"""Seeds until it is decided: what is trained, what is reused, what is refused, and what a kill changes."""

import json
import re
import shutil
import signal
import time
from collections import Counter

import pytest

from core.cli.decide import parse
from core.cli.main import VERBS
from core.cli.main import run as command
from core.common import paths
from core.common.errors import UserError
from core.compare import looks
from core.compare.sequential import FIRST, Rule, deciding_look
from core.launch import Launch
from core.runs import decide as module
from core.runs.decide import decide
from core.runs.decision import FILE, Decide, Setting, plan_of, plan_of_pair
from core.runs.recorder import RunInfo
from core.runs.trained import Run
from core.runs.verdict import Pair
from experiments.tiny import EXPERIMENT, VARIANTS

NOISE = (0.01, -0.02, 0.004, 0.013, -0.007, 0.002, -0.011, 0.009, 0.001, -0.004, 0.006, -0.003)
QUICK = ("--model", "MLP", "--model.hidden", "[8]", "--augment", "[]", "--epochs", "1", "--limit", "60",
         "--workers", "0", "--threads", "1", "--mlflow", "false")  # fmt: skip


def setting(label="base"):
    declaration = EXPERIMENT.but(VARIANTS[label]) if label != "base" else EXPERIMENT
    return Setting(label, declaration, RunInfo("tiny", None if label == "base" else label, label))


MLP, PLAIN, BASE = setting("mlp"), setting("plain"), setting()


@pytest.fixture
def trained(lab, monkeypatch):
    """Replaces training by what is left of it on record. Its list has (variant, seed) of each run, in order."""
    done = []

    def train(experiment, launch, info, mirror):
        done.append((info.variant or "base", experiment.seed))
        try:
            score, status = train.score(*done[-1]), "FINISHED"
        except ArithmeticError:
            lab(experiment, 0.0, info.variant, "FAILED", parent=info.parent)
            raise
        return Run(paths.runs() / lab(experiment, score, info.variant, status, parent=info.parent))

    train.score = lambda name, seed: 0.9 + 0.1 * (name == "mlp") + 0.1 * NOISE[seed] * (1 + (name == "plain"))
    done = _Done(train)
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "prepare", lambda *words: None)
    return done


class _Done(list):
    """Runs that were trained, and the function that scores them."""

    def __init__(self, train):
        super().__init__()
        self.train = train


def go(plan):
    return decide(plan, Launch(mlflow=False))


def test_the_base_is_trained_once_for_all_and_a_clear_pair_stops_first(trained):
    found = go(plan_of([MLP, PLAIN], BASE, Decide(budget=8)))
    mlp, plain = found.pairs
    assert (mlp.verdict, mlp.winner) == ("shown", "mlp")
    assert (plain.verdict, plain.winner, plain.look.n) == ("undecided", None, 8)
    assert mlp.look.n < 8
    assert trained[:2] == [("base", 0), ("mlp", 0)]
    assert max(Counter(trained).values()) == 1
    assert found.trained == len(trained) == 8 + 8 + mlp.look.n
    assert "mlp beats base by 10.00 points (95 % interval" in mlp.sentence(None)


def test_each_setting_has_a_parent_with_a_summary(trained):
    found = go(plan_of([MLP], BASE, Decide(budget=4)))
    for member in found.members:
        [parent] = {run.record["parent"] for run in member.runs.values()}
        assert Run(paths.runs() / parent).status == "FINISHED"
        assert Run(paths.runs() / parent).record["decision"] == found.plan.id


def test_seeds_on_record_are_used_and_asking_again_trains_nothing(trained, lab):
    for seed in range(2):
        lab(BASE.at(seed), 0.9 + NOISE[seed] / 10)
    lab(BASE.at(2), 0.1, status="FAILED")
    lab(BASE.at(2), 0.1, trial=3)
    plan = plan_of([MLP], BASE, Decide(budget=6))
    found = go(plan)
    assert [seed for name, seed in trained if name == "base"] == list(range(2, found.pairs[0].look.n))
    before = len(trained)
    again = go(plan_of([MLP], BASE, Decide(budget=6)))
    assert again.plan.id == plan.id
    assert again.pairs == found.pairs
    assert (again.trained, len(trained)) == (0, before)


def test_looks_are_in_the_order_of_the_seeds_whatever_is_on_record(trained, lab):
    plan = plan_of([MLP], BASE, Decide(budget=12))
    for seed in range(4, 9):
        for one in (MLP, BASE):
            lab(one.at(seed), trained.train.score(one.label, seed), one.info.variant)
    later = go(plan)
    fresh = [seed for name, seed in trained if name == "mlp"]
    assert fresh == list(range(4))[: len(fresh)]
    for run in Run.of_experiment("tiny"):
        shutil.rmtree(run.folder)
    assert go(plan).pairs == later.pairs


def test_a_pair_is_decided_at_its_first_deciding_look_also_on_more_seeds(trained, lab):
    found = go(plan_of([MLP], BASE, Decide(budget=12)))
    n = found.pairs[0].look.n
    for seed in range(n, 12):
        for one in (MLP, BASE):
            lab(one.at(seed), 0.5, one.info.variant)
    assert go(plan_of([MLP], BASE, Decide(budget=12))).pairs == found.pairs


def test_smaller_than_the_least_difference_of_interest(trained):
    trained.train.score = lambda name, seed: 0.9 + NOISE[seed] + (name == "mlp") * NOISE[seed] / 100
    found = go(plan_of([MLP], BASE, Decide(budget=12, least=0.5)))
    [pair] = found.pairs
    assert (pair.verdict, pair.winner) == ("not as large", None)
    assert pair.sentence(found.plan.rule.least).startswith(
        "mlp against base: the difference is smaller than 0.50 points ("
    )


def test_a_metric_needs_a_direction_and_a_value(trained):
    with pytest.raises(UserError, match="whether larger or smaller"):
        plan_of([MLP], BASE, Decide(metric="val/nothing", budget=6))
    with pytest.raises(UserError, match="has not measured it; choose one of val/accuracy"):
        go(plan_of([MLP], BASE, Decide(metric="val/loss", budget=6)))


def test_a_seed_that_fails_is_left_out_and_three_at_the_start_end_it(trained):
    def some(name, seed):
        if (name, seed) == ("mlp", 1):
            raise ArithmeticError("not finite")
        return 0.9 + 0.1 * (name == "mlp") + NOISE[seed] / 10

    trained.train.score = some
    found = go(plan_of([MLP], BASE, Decide(budget=8)))
    assert found.pairs[0].verdict == "shown"
    assert found.members[0].failed == {1: "ArithmeticError: not finite"}
    assert 1 not in found.members[0].runs
    trained.clear()
    trained.train.score = lambda name, seed: 0.9
    assert go(found.plan).pairs == found.pairs  # the seed stays out
    assert trained == []

    def none(name, seed):
        raise ArithmeticError(f"{name} {seed}")

    trained.train.score = none
    trained.clear()
    with pytest.raises(ArithmeticError, match="base 2"):
        go(_fresh([PLAIN], 20))
    assert len(trained) == FIRST


def _fresh(settings, seed):
    moved = [Setting(one.label, one.at(seed), one.info) for one in (*settings, BASE)]
    return plan_of(moved[:-1], moved[-1], Decide(budget=8))


def test_a_plan_does_not_change_between_looks(trained, home):
    plan = plan_of([MLP, PLAIN], BASE, Decide(budget=8, least=0.5))
    written = json.loads((plan.folder / FILE).read_text())
    assert (written["budget"], written["least"], written["boundary"]) == (8, 0.005, plan.rule.boundary)
    refused = {
        "--budget: 8 on record, 9 now": ([MLP, PLAIN], BASE, Decide(budget=9, least=0.5)),
        "--least: 0.50 on record, none now": ([MLP, PLAIN], BASE, Decide(budget=8)),
        "--metric: val/accuracy on record, val/loss now": (
            [MLP, PLAIN],
            BASE,
            Decide(metric="val/loss", budget=8, least=0.5),
        ),
        "plain: in the plan on record, and left out now": ([MLP], BASE, Decide(budget=8, least=0.5)),
        "against base on record, against mlp now": ([BASE], MLP, Decide(budget=8, least=0.5)),
    }
    for message, (settings, against, options) in refused.items():
        with pytest.raises(UserError, match=re.escape(message)) as error:
            plan_of(settings, against, options)
        assert "add --seed 8" in str(error.value)
    assert len(list(paths.decisions().iterdir())) == 1
    assert _fresh([MLP, PLAIN], 8).id != plan.id  # other seeds: another decision
    plan_of([PLAIN], MLP, Decide())  # another pair: another decision


def test_accept_uses_the_plan_on_record(trained):
    plan = plan_of([PLAIN, MLP], BASE, Decide(budget=8, least=0.5))
    pair = plan_of_pair(MLP, BASE, {})
    assert (pair.id, pair.rule, pair.settings) == (plan.id, plan.rule, (MLP,))
    assert plan_of_pair(BASE, MLP, {"budget": 8}).id == plan.id
    with pytest.raises(UserError, match="--budget: 8 on record, 9 now"):
        plan_of_pair(MLP, BASE, {"budget": 9})
    assert {name for name, _ in trained} == set()
    assert go(pair).pairs[0].winner == "mlp"
    assert {name for name, _ in trained} == {"mlp", "base"}


def test_a_plan_whose_experiment_is_gone_blocks_no_other(home):
    plan = plan_of([MLP], BASE, Decide(budget=8))
    entry = json.loads((plan.folder / FILE).read_text())
    for each in (*entry["settings"], entry["against"]):
        each["experiment"] = "gone"
        each["declaration"]["model"]["class"] = "experiments.gone.model.Network"
    (plan.folder / FILE).write_text(json.dumps(entry))
    assert plan_of([MLP], BASE, Decide(budget=9)).id != plan.id
    (plan.folder / FILE).write_text("{")
    with pytest.raises(UserError, match="not a plan of a decision"):
        plan_of([PLAIN], BASE, Decide(budget=9))


def test_of_a_loss_the_smaller_one_is_better():
    rule = Rule(None, 5, 0.05)
    found = deciding_look({0: 0.5, 1: 0.52, 2: 0.49}, {0: 0.6, 1: 0.63, 2: 0.6}, rule)
    assert Pair("a", "b", found, -1, "val/loss").winner == "a"
    assert Pair("a", "b", found, 1, "val/accuracy").winner == "b"
    assert Pair("a", "b", found, -1, "val/loss").sentence(None).startswith("a beats b by 0.1067 (95 % interval 0.0")


def test_other_data_are_refused(trained, lab):
    lab(BASE.at(0), 0.9, data="d2")
    with pytest.raises(UserError, match="used different data"):
        go(plan_of([MLP], BASE, Decide(budget=5)))


def test_looks_count_for_compare(trained):
    found = go(plan_of([MLP], BASE, Decide(budget=6)))
    [(pair, seen)] = looks.read(paths.looks()).items()
    assert pair[0] == "val/accuracy"
    assert [one.n for one in seen] == list(range(FIRST, found.pairs[0].look.n + 1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "tiny", "--seeds", "decided"], "name the variants"),
        (["train", "tiny", "--seeds", "decided", "--variant", "mlp,mlpp", "--bs", "3"], "did you mean mlp?"),
        (["train", "tiny", "--seeds", "decided", "--variant", "mlp", "--budget", "2"], "the first look is at 3 seeds"),
        (["train", "tiny", "--seeds=decided", "--variant", "mlp", "--metric", "test/accuracy"], "val/ metrics alone"),
        (["train", "tiny", "--seeds", "decided", "--variant", "mlp", "--against", "mlp"], "the same declaration"),
        (["train", "tiny", "--seeds", "decided", "--variant", "mlp", "--folds", "3"], "--folds: only for training"),
        (
            ["train", "tiny", "--seeds", "decided", "--variant", "mlp", "--least", "0"],
            "--least: should be greater than 0",
        ),
        (["decide", "tiny/mlp"], "two settings are needed"),
        (["decide", "tiny/mlp", "nothing"], "nothing: neither EXPERIMENT, EXPERIMENT/VARIANT nor a run"),
        (["decide", "tiny/mlpp", "tiny"], "did you mean mlp?"),
        (["accept", "tiny/mlp"], "usage: labbook accept SETTING --over SETTING"),
        (["accept", "tiny/mlp", "tiny/plain", "--over", "tiny"], "tiny/plain: unexpected word"),
    ],
    ids=lambda value: "_".join(value[2:]) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_and_leave_nothing_on_record(words, message, home, capsys):
    assert command(words[0], words[1:], VERBS) == 2
    assert message in capsys.readouterr().err
    assert not paths.decisions().exists()


def test_a_run_stands_for_its_declaration(lab):
    run = lab(MLP.at(3), 0.9, "mlp")
    asked = parse("decide", [run, "tiny", "--least", "0.3", "--json"])
    assert asked.settings[0].declaration == MLP.at(0)
    assert (asked.given, asked.as_json) == ({"least": 0.3}, True)
    assert parse("decide", [run, "tiny", "--seed", "7"]).settings[0].declaration == MLP.at(7)


@pytest.mark.parametrize(("words", "status"), [(("mlp", ""), 0), (("", "mlp"), 1)])
def test_accept_answers_by_its_exit_status(trained, capsys, words, status):
    one, other = ("tiny/mlp" if word else "tiny" for word in words)
    options = ["--budget", "6", "--mlflow", "false"]
    assert command("accept", [one, "--over", other, *options], VERBS) == status
    assert ("yes" if status == 0 else "no") + ": tiny/mlp beats tiny by" in capsys.readouterr().out
    assert command("accept", [one, f"--over={other}", *options, "--json"], VERBS) == status
    found = json.loads(capsys.readouterr().out)
    assert (found["accepted"], found["trained"], found["pairs"][0]["better"]) == (status == 0, 0, "tiny/mlp")


def test_accept_has_no_answer_if_the_training_fails(trained, capsys):
    def fails(name, seed):
        raise OSError(28, "No space left on device")

    trained.train.score = fails
    assert command("accept", ["tiny/mlp", "--over", "tiny", "--mlflow", "false"], VERBS) == 3
    assert "no answer" in capsys.readouterr().err


def test_killed_between_seeds_the_same_command_goes_on(forge, home, tmp_path):
    words = ("experiments.tiny", "--variant", "plain", "--seeds", "decided", "--budget", "3", *QUICK)
    process = forge.start(*words)
    end = time.monotonic() + 120
    while "base: seed 1" not in process.text and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    status, text = forge.run(*words)
    assert status == 0, text
    assert "plain against base: " in text.splitlines()[-2]
    finished = Counter()
    for run in Run.of_experiment("tiny"):
        if "seeds" not in run.record:
            finished[run.record["variant"], run.record["declaration"]["seed"]] += run.status == "FINISHED"
    assert finished == {(variant, seed): 1 for variant in (None, "plain") for seed in range(3)}
    parents = [run for run in Run.of_experiment("tiny") if "decision" in run.record]
    assert [run.status for run in parents] == ["FINISHED"] * 2
    [folder] = paths.decisions().iterdir()
    status, text = forge.run("core", "resume", parents[0].id)
    assert status == 2
    assert "its seeds belong to a decision; to continue it, type again: python -m experiments.tiny" in text
    assert (folder / FILE).is_file()
