"""Ensembles and soups: what is on record of them, and that they answer as what they were made of."""

import errno
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.cli.ensemble import main as ensemble_verb
from core.cli.report import main as report
from core.cli.soup import main as soup_verb
from core.common.errors import UserError
from core.compare.runs import rows_of
from core.export.graph import exported
from core.inference.answers import name_of, read
from core.inference.network import model_of
from core.launch import Launch
from core.losses import ArcFace
from core.metrics.by_name import compute
from core.models.quantize import Quantize
from core.record.labels import labels
from core.record.run import WEIGHTS
from core.runs import combine, ensemble, soup
from core.runs.members import members
from core.runs.rerun import launch_of
from core.runs.resume import interrupted, resume
from core.runs.seeds import train_seeds
from core.runs.train import train
from core.runs.trained import Run, load
from core.runs.trainer import Trainer
from core.training.assemble import check
from experiments.tiny import EXPERIMENT
from tests.support.runs import rewrite_record

QUIET = Launch(mlflow=False, threads=1)
SHORT = EXPERIMENT.but({"epochs": 1, "limit": 200, "model.widths": (8, 16), "model.norm": "group"})
OTHERS = {
    "again": {"optimizer.lr": 0.05},
    "image": {"seed": 5, "normalize": "image", "tta": "flip", "model.norm": "batch"},
    "angles": {"seed": 6, "loss": ArcFace(embedding_dim=8, scale=8.0, margin=0.1)},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(home, parent of two seeds, runs by name)"""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        patch.setattr(Trainer, "_report", lambda self, journal: None)  # most of the time of so short a training
        seeds = train_seeds(SHORT, 2, QUIET, "tiny")
        others = {name: train(SHORT.but(changes), QUIET, "tiny") for name, changes in OTHERS.items()}
        yield home, seeds.parent, {"zero": seeds.runs[0], "one": seeds.runs[1]} | others


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """A copy of the home, so that a test may add runs."""
    home = tmp_path / "copy"
    shutil.copytree(trained[0], home)
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    return {name: Run(home / "mlruns" / "runs" / run.id) for name, run in trained[2].items()}


def test_images():
    images = SHORT.data.load(None).limited(200).test
    return images.pixels[images.rows]


test_images.__test__ = False


@pytest.fixture
def mixed(runs, monkeypatch):
    """An ensemble of networks with different normalizations, views, layers, and weights."""
    monkeypatch.setattr(ensemble, "chosen", lambda answers, metric, size: [2, 1, 1])
    return ensemble.ensemble([runs["zero"], runs["image"], runs["angles"]])


def test_an_ensemble_answers_as_the_mean_of_its_members(runs, mixed):
    parts = [runs[name] for name in ("zero", "image", "angles")]
    assert mixed.members == {parts[0].id: 0.5, parts[1].id: 0.25, parts[2].id: 0.25}
    pixels = test_images()
    expected = np.average([run.predict(pixels) for run in parts], axis=0, weights=[2, 1, 1])
    answers = read(mixed.run, "test")
    recorded = torch.from_numpy(answers.logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(recorded, expected, atol=3e-3)  # of half precision
    assert answers.ids.tolist() == read(parts[0], "test").ids.tolist()
    for run in parts:
        shutil.rmtree(run.folder)  # it needs none of them
    again = load(mixed.run.id)
    np.testing.assert_allclose(again.predict(pixels), expected, atol=1e-5)
    with torch.inference_mode():
        served = exported(again).module()(torch.from_numpy(pixels[:5])).numpy()
    np.testing.assert_allclose(served, expected[:5], atol=1e-5)


def test_an_ensemble_is_a_run_on_record(runs, mixed):
    run = mixed.run
    assert run.status == "FINISHED"
    assert [(member["run"], member["weight"]) for member in run.record["combined"]] == list(mixed.members.items())
    for split in ("val", "test"):
        for name in ("accuracy", "f1", "nll", "top5"):
            assert run.metrics[f"{split}/{name}"] == pytest.approx(compute(read(run, split), name), abs=1e-3)
    assert mixed.test.value == run.metrics["test/accuracy"]
    best = read(load(mixed.best), "test")
    assert mixed.test.difference == pytest.approx(run.metrics["test/accuracy"] - compute(best, "accuracy"))
    assert run.is_tested
    rows, damaged = rows_of("tiny")
    (row,) = [row for row in rows if row.id == run.id]
    assert not damaged
    assert row.metrics["test/accuracy"] == run.metrics["test/accuracy"]
    assert row.fields["model"] == "Ensemble"  # it is a setting of its own
    assert int(run.record["facts"]["parameters"]) == sum(p.numel() for p in run.model.parameters())
    assert report([run.id]) == 0


def test_an_ensemble_can_be_part_of_another(runs, mixed):
    pixels = test_images()
    before = mixed.run.predict(pixels), runs["zero"].predict(pixels)
    outer = ensemble._made(
        [(mixed.run, 0.75), (runs["zero"], 0.25)],
        *((ensemble.evaluated(read(mixed.run, split)), read(mixed.run, split)) for split in ("val", "test")),
    )
    run = combine._put(outer, "outer")
    np.testing.assert_allclose(run.predict(pixels), 0.75 * before[0] + 0.25 * before[1], atol=1e-5)


def test_no_test_answer_is_read_before_the_ensemble_is_chosen(runs, monkeypatch):
    seen, original = [], combine.read
    monkeypatch.setattr(combine, "read", lambda run, split: seen.append(split) or original(run, split))

    def choose(answers, metric, size):
        assert set(seen) == {"val"}
        assert {each.split for each in answers} == {"val"}
        return [1, 1]

    monkeypatch.setattr(ensemble, "chosen", choose)
    ensemble.ensemble([runs["zero"], runs["one"]])
    assert seen.count("test") == 3  # of both members, and of the better one for the difference


def test_the_verb_takes_a_parent_and_says_what_it_chose(trained, runs, capsys):
    status = ensemble_verb([trained[1].id, runs["again"].id, "--metric", "nll", "--name", "mine"])
    said = capsys.readouterr().out
    made = load("latest")
    assert status == 0
    for name, weight in ((member["run"], member["weight"]) for member in made.record["combined"]):
        assert f"{name}  {weight:.3f}" in said
    assert f"test/nll: {made.metrics['test/nll']:.4f}" in said
    assert made.opening["name"] == labels(made.folder).name == "mine"
    assert ensemble_verb([made.id, runs["one"].id, "--size", "1"]) == 1
    assert "nothing was recorded" in capsys.readouterr().out


def test_a_uniform_soup_of_equal_runs_is_the_run(runs):
    run = runs["zero"]
    made = soup.soup([run, run], uniform=True)
    found, own = (load_file(each.artifact(WEIGHTS)) for each in (made.run, run))
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)
    pixels = test_images()
    np.testing.assert_array_equal(made.run.predict(pixels), run.predict(pixels))
    assert made.run.metrics["test/accuracy"] == run.metrics["test/accuracy"]
    assert made.run.metrics["test/loss"] == pytest.approx(run.metrics["test/loss"], rel=1e-6)
    np.testing.assert_array_equal(read(made.run, "test").logits, read(run, "test").logits)


def test_a_soup_has_the_mean_weights_and_statistics_of_its_own(runs):
    made = soup.soup([runs["zero"], runs["again"]], uniform=True)
    each = [load_file(runs[name].artifact(WEIGHTS)) for name in ("zero", "again")]
    for name, found in load_file(made.run.artifact(WEIGHTS)).items():
        torch.testing.assert_close(found, (each[0][name] + each[1][name]) / 2)
    run = runs["image"]  # with BatchNorm
    own = model_of(run).state_dict()
    with_norms = load_file(soup.soup([run, run], uniform=True).run.artifact(WEIGHTS))
    moved = {name for name in own if not torch.equal(own[name], with_norms[name])}
    assert moved == {name for name in own if "running_" in name}
    made.run.predict(test_images())


def test_a_greedy_soup_leaves_out_what_makes_it_worse(runs, monkeypatch, capsys):
    good, poison = sorted((runs["zero"], runs["again"]), key=lambda run: compute(read(run, "val"), "nll"))
    weights = load_file(poison.artifact(WEIGHTS))
    original = soup.load_file
    noise = {
        name: 100 * torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) for name, w in weights.items()
    }
    monkeypatch.setattr(soup, "load_file", lambda path: noise if poison.id in str(path) else original(path))
    assert soup_verb([poison.id, good.id, "--metric", "nll"]) == 1
    assert f"no soup is better than {good.id} alone by val/nll: nothing was recorded" in capsys.readouterr().out
    made = soup.soup([good, poison, good], metric="nll")
    assert made.run.record["combined"] == [{"run": good.id, "weight": 0.5, "experiments": ["tiny"]}] * 2


def test_runs_that_do_not_fit_are_refused_by_name(trained, runs, monkeypatch):
    zero, one, again, image = (runs[name] for name in ("zero", "one", "again", "image"))
    made = soup.soup([zero, again], uniform=True)
    for words, message in (
        (
            [zero.id, one.id],
            f"did not: {zero.id} from random weights of seed 0, {one.id} from random weights of seed 1",
        ),
        ([trained[1].id], "labbook ensemble averages their answers instead"),
        ([zero.id, image.id], r"have different networks \(norm\)"),
        ([zero.id, runs["angles"].id], r"have different networks \(loss.embedding_dim"),
        ([zero.id, made.run.id], f"was made of other runs; name those that were trained: .*{again.id}"),
        ([zero.id, zero.id], f"{zero.id}: name two runs or more"),
    ):
        with pytest.raises(UserError, match=message):
            soup_verb(words)


def changed(run, folder, status="FINISHED", **changes):
    """A copy of a run with another record."""
    target = run.folder.with_name(f"tiny-20300101-000000-{folder}")
    shutil.copytree(run.folder, target)
    copy = Run(target)
    record = json.loads((target / "artifacts" / "record.json").read_text())
    data = record["data"] | changes.pop("data", {})
    rewrite_record(copy, {"run": copy.id, "data": data} | changes)
    if status != "FINISHED":
        (target / "journal.jsonl").open("a").write(f'{{"event":"status","time":1,"value":"{status}"}}\n')
    return copy


def test_runs_with_the_same_pretrained_weights_or_the_same_run_before_share_an_origin(runs):
    pretrained = {"name": "x", "file": "x.pt", "sha256": "0" * 64}
    for number, origin in enumerate(({"weights": pretrained}, {"continued": "tiny-20300101-000000-cccc"})):
        one, other = (changed(runs[name], f"{name}{number}", **origin) for name in ("zero", "one"))
        made = soup.soup([one, other], uniform=True)
        assert set(made.members) == {one.id, other.id}
        with pytest.raises(UserError, match="started from the same weights"):
            soup.refuse_strangers([one, runs["one"]])


def test_what_cannot_answer_together_is_refused(runs):
    zero = runs["zero"]
    classes = zero.record["data"]["classes"]
    older = changed(zero, "aaaa")
    for split in ("val", "test"):
        (older.folder / "artifacts" / name_of(split)).unlink()
    cases = (
        ([zero.id], "name two runs or more"),
        ([zero.id, older.id], f"{older.id} has no answers for val; labbook answers {older.id}"),
        ([zero.id, changed(zero, "bbbb", data={"classes": classes[::-1]}).id], "different orders of the classes"),
        ([zero.id, changed(zero, "cccc", data={"classes": [*classes[1:], "x"]}).id], "have different classes"),
        ([zero.id, changed(zero, "dddd", data={"digest": "other"}).id], "have different data"),
        ([zero.id, changed(zero, "eeee", data={"image_shape": [9, 9, 1]}).id], "have different image sizes"),
        ([zero.id, changed(zero, "ffff", imported={"source": "x"}).id], "was imported"),
        (
            [zero.id, changed(zero, "2222", declaration=zero.experiment.but({"quantize": Quantize()}).record()).id],
            "some of the runs declare quantize",
        ),
        ([zero.id, changed(zero, "0000", status="KILLED").id], "is KILLED; name finished runs"),
        ([zero.id, "nothing"], "nothing: run not found"),
        ([zero.id, runs["one"].id, "--metric", "acuracy"], "not known whether larger"),
        ([zero.id, runs["one"].id, "--size", "0"], "--size 0: should be at least 1"),
    )
    before = {path.name for path in zero.folder.parent.iterdir()}
    for words, message in cases:
        with pytest.raises(UserError, match=message):
            ensemble_verb(words)
    assert {path.name for path in zero.folder.parent.iterdir()} == before
    with pytest.raises(UserError) as caught:
        members([changed(zero, "1111", status="FAILED").id, "nothing"])
    assert len(caught.value.lines) == 2


def test_it_is_not_trained_resumed_or_run_again(mixed):
    for action in (lambda: resume(mixed.run), lambda: launch_of(mixed.run, None)):
        with pytest.raises(UserError, match=r"was made of the runs tiny-.*, and not trained; make it again"):
            action()
    with pytest.raises(UserError, match="model: a network of class Ensemble is not trained: labbook ensemble"):
        check(mixed.run.experiment)


@pytest.mark.parametrize("point", ["safetensors renamed", "parquet renamed", "json synced"])
def test_a_kill_leaves_no_run_behind(point, runs, forge):
    words = ("core", "ensemble", runs["zero"].id, runs["one"].id, "--size", "3", "--metric", "nll")
    status, _ = forge.run(*words, env={"LABBOOK_FAILPOINT": point})
    assert status == -9
    rows, damaged = rows_of("tiny")
    assert {row.id for row in rows} == {run.id for run in runs.values()}
    assert not damaged
    assert load("latest").id == max(run.id for run in runs.values())
    with pytest.raises(UserError, match="no interrupted run"):
        interrupted("tiny")


def test_a_kill_after_the_record_leaves_a_finished_run(runs, forge):
    words = ("core", "soup", runs["zero"].id, runs["again"].id, "--uniform")
    status, _ = forge.run(*words, env={"LABBOOK_FAILPOINT": "json renamed"})
    assert status == -9
    (made,) = [row for row in rows_of("tiny")[0] if row.id not in {run.id for run in runs.values()}]
    run = load("latest")
    assert (run.id, run.status) == (made.id, "FINISHED")
    assert made.metrics["test/accuracy"] == run.metrics["test/accuracy"]
    run.predict(test_images())


def test_a_full_disk_leaves_nothing_behind(runs, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = runs["zero"].folder.parent
    before = {path.name for path in folder.iterdir()}
    monkeypatch.setattr(combine, "serialized", full)
    with pytest.raises(UserError, match="No space left on device; nothing was recorded"):
        ensemble.ensemble([runs["zero"], runs["one"]], "nll")
    assert {path.name for path in folder.iterdir()} == before
