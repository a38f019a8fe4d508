"""labbook rerun: the same run once more, and what is said of it."""

import json
import re
import shutil

import pytest

from core.cli.rerun import main
from core.common.errors import UserError
from core.launch import Launch
from core.record import sources
from core.record.journal import Journal
from core.runs import recorder
from core.runs.rerun import Check, check_environment, compare_results, first_difference
from core.runs.train import train
from core.runs.trained import load
from experiments.tiny import EXPERIMENT

TINY = EXPERIMENT.but({"limit": 128, "epochs": 2})
QUIET = Launch(mlflow=False, threads=1)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run on record, in a home that the tests copy."""
    home = tmp_path_factory.mktemp("rerun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        train(TINY, QUIET, "tiny")
    return home


@pytest.fixture
def run(recorded, home):
    shutil.copytree(recorded / "mlruns", home / "mlruns", dirs_exist_ok=True)
    return load("tiny")


def edit(run, change):
    """Change the record as another machine, or another day, would have written it."""
    path = run.folder / "artifacts" / "record.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    Journal(run.folder).log_artifact("record.json")
    return load(run.id)


def test_the_same_again_is_identical_to_the_bit(run, home, capsys):
    assert main([run.id]) == 0
    text = capsys.readouterr().out
    for what in ("packages", "data", "machine"):
        assert f"{what}: the same" in text
    assert "bitwise identical: every metric of every epoch and the weights" in text
    assert "test/accuracy" in text
    assert len(list((home / "mlruns" / "runs").iterdir())) == 2  # it is on record


def test_another_seed_is_reported_by_its_first_difference(run, capsys):
    def change(record):
        record["declaration"]["seed"] = 7

    edit(run, change)
    assert main([run.id]) == 1
    text = capsys.readouterr().out
    assert "different (first at" in text
    assert "of epoch 1" in text


def test_what_is_not_the_same_beforehand_is_named(run):
    def change(record):
        record["facts"] |= {"git.commit": "0123456789", "hardware.cpu": "abacus"}
        record["data"]["digest"] = "f" * 64

    changed = edit(run, change)
    packages = run.folder / "artifacts" / "packages.txt"
    packages.write_text(packages.read_text().replace("optuna==", "optuna==0."))
    Journal(run.folder).log_artifact("packages.txt")
    untracked = run.folder / "artifacts" / "code" / "untracked" / "notes.py"
    untracked.parent.mkdir(parents=True, exist_ok=True)
    untracked.write_text("x = 1\n")
    found = {check.what: " ".join(check.differences) for check in check_environment(changed, QUIET)}
    assert "commit 0123456 then" in found["code"]
    assert "the untracked file notes.py differs" in found["code"]
    assert "optuna 0." in found["packages"]
    assert "digest ffffffffffff then" in found["data"]
    assert "cpu abacus then" in found["machine"]


def code_of(run):
    return str(next(check for check in check_environment(run, QUIET) if check.what == "code"))


def without_git(record):
    record["facts"] = {name: text for name, text in record["facts"].items() if not name.startswith("git.")}
    record["facts"]["git.unknown"] = "this is not a git repository"


def test_code_is_the_same_only_if_that_is_known(run, monkeypatch):
    """With a digest of each source, git is not needed; without both, nothing is known."""
    changed = edit(run, without_git)
    assert code_of(changed) == "code: the same"
    path = run.folder / "artifacts" / sources.FILE
    recorded = json.loads(path.read_text())
    assert {"core/training/step.py", "data/digits.py", "experiments/recipes.py"} & set(recorded["files"])
    path.write_text(json.dumps(recorded | {"files": recorded["files"] | {"core/training/step.py": "0" * 64}}))
    assert code_of(changed) == "code: core/training/step.py differs"
    path.write_text(json.dumps(recorded | {"left_out": {"conf.toml": "line 3 looks like a token"}}))
    assert code_of(changed) == "code: unknown (the record lacks conf.toml)"
    path.unlink()
    assert code_of(changed) == "code: unknown (this is not a git repository)"
    check = next(check for check in check_environment(changed, QUIET) if check.what == "code")
    other = load(run.id)
    monkeypatch.setattr("core.runs.rerun.first_difference", lambda *given: ("train/loss", 1, "1 then, 2 now"))
    assert compare_results(run, other, [check]).text.endswith("cause: unknown; not known to be the same: code")


def test_a_dirty_submodule_is_unknown_code(run):
    changed = edit(run, lambda record: record["facts"].update({"git.unrecorded": "changes in the submodule x"}))
    assert code_of(changed) == "code: unknown (changes in the submodule x)"


@pytest.mark.parametrize("kind", ["none", "code"])
def test_training_says_what_the_record_lacks(kind, home, capsys, monkeypatch):
    monkeypatch.setattr("core.record.provenance.code", lambda: {"git.unknown": "this is not a git repository"})
    found = sources.Snapshot(b"diff", {"a.py": b"x\xff"}, {"b.py": "line 3 looks like a token"})
    asked = []
    monkeypatch.setattr("core.record.sources.snapshot", lambda kind, imported: asked.append(kind) or found)
    recorder._tell_once.cache_clear()
    small = TINY.but({"epochs": 1})
    one = train(small, QUIET.but({"snapshot": kind}), "tiny")
    train(small, QUIET.but({"snapshot": kind}), "tiny")
    text = capsys.readouterr().out
    line = "the record has no commit (this is not a git repository): a rerun can compare the code, but not restore it"
    assert text.count(line) == text.count("b.py is left out of the record: line 3 looks like a token") == 1
    assert asked == [kind, kind]
    assert (one.folder / "artifacts" / "code" / "untracked" / "a.py").read_bytes() == b"x\xff"
    with pytest.raises(UserError, match=r"does not contain a commit \(this is not a git repository\)"):
        main([one.id, "--worktree"])


def test_verdicts(run, home):
    again = home / "mlruns" / "runs" / "tiny-again"
    shutil.copytree(run.folder, again)
    same = [Check("code", ())]
    assert compare_results(run, load(again), same).same
    weights = again / "artifacts" / "weights" / "best.safetensors"
    Journal(again).replace("weights/best.safetensors", weights.read_bytes()[:-1] + b"\x7f")
    assert "only the weights differ" in compare_results(run, load(again), same).text
    journal = again / "journal.jsonl"
    text = re.sub(r',"crc":\d+}', "}", journal.read_text())  # as an older version wrote it
    loss = run.history["train/loss"][1]
    journal.write_text(text.replace(f'"train/loss":{loss!r}', f'"train/loss":{loss * (1 + 1e-9)!r}', 1))
    verdict = compare_results(run, load(again), [Check("machine", ("cpu abacus then, EPYC now",))])
    assert (verdict.same, verdict.close) == (False, True)
    assert verdict.text.startswith("within rounding (first at train/loss of epoch 1")
    assert verdict.text.endswith("; cause: different machine (cpu abacus then, EPYC now)")
    accuracy = run.metrics["test/accuracy"]
    journal.write_text(text.replace(f'"test/accuracy":{accuracy!r}', f'"test/accuracy":{accuracy - 0.05!r}'))
    verdict = compare_results(run, load(again), same)
    assert not verdict.close
    assert "cause: unknown, the recorded environment is the same" in verdict.text


def test_the_earliest_epoch_is_reported_and_nan_is_nan():
    nan = float("nan")
    before = {"val/loss": {1: 1.0, 2: 2.0}, "train/loss": {1: nan, 2: 3.0}, "images_per_second": {1: 5.0}}
    assert first_difference(before, {**before, "images_per_second": {1: 6.0}, "train/loss": {1: nan, 2: 3.0}}) is None
    assert first_difference(before, {"val/loss": {1: 1.0, 2: 2.5}, "train/loss": {1: nan, 2: 3.0}}) == (
        "val/loss", 2, "2 then, 2.5 now",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(continued="tiny-x"), "was continued from tiny-x"),
        (lambda record: record["facts"].update({"hardware.processes": "4"}), "was trained by 4 processes"),
        (lambda record: record.pop("data"), "is the parent of other runs"),
    ],
)
def test_what_cannot_be_run_again_is_refused(run, change, message):
    edit(run, change)
    with pytest.raises(UserError, match=message):
        main([run.id])


@pytest.mark.slow
def test_the_recorded_code_runs_in_a_worktree(home, capsys):
    run = train(TINY, QUIET, "digits_cnn")  # whose folder is in the repository, unlike that of tiny
    assert main([run.id, "--worktree"]) == 0
    text = capsys.readouterr().out
    assert "running the recorded code in a worktree" in text
    assert "bitwise identical" in text
