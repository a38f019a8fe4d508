"""Which images a setting repairs and breaks."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from core.cli.flips import main
from core.common.errors import UserError
from core.common.plots import COLUMNS, GAP, LINE, TILE
from core.inference.answers import read
from core.inference.flips import flips
from core.inference.hardest import hardest
from core.launch import Launch
from core.metrics.answers import Answers, identity
from core.record.run import REPORT
from core.runs.seeds import train_seeds
from experiments.tiny import EXPERIMENT


def answers(ids, targets, predicted, classes=("a", "b", "c")):
    logits = np.eye(len(classes), dtype=np.float32)[np.array(predicted)]
    return Answers("test", classes, np.array(ids), np.array(targets), logits)


def test_images_are_paired_by_content_whatever_their_order():
    one = answers(["w", "x", "y", "z"], [0, 1, 2, 0], [0, 1, 0, 0])
    other = answers(["z", "y", "x", "new"], [0, 2, 1, 1], [1, 2, 1, 1])
    found = flips([one], [other])
    by_id = {name: (before, after) for name, before, after in zip(found.ids, found.before, found.after, strict=True)}
    assert by_id == {"x": (1, 1), "y": (0, 1), "z": (1, 0)}
    assert found.left_out == 2
    assert found.ids[found.repaired].tolist() == ["y"]
    assert found.ids[found.broken].tolist() == ["z"]


def test_equal_images_are_paired_in_their_order():
    found = flips([answers(["x", "x"], [0, 0], [0, 1])], [answers(["x", "x"], [0, 0], [1, 1])])
    assert found.broken.tolist() == [True, False]


def test_several_runs_count_by_their_share_and_p_is_mcnemars():
    random = np.random.default_rng(0)
    ids, targets = [f"{n}" for n in range(60)], random.integers(0, 3, 60)
    made = [answers(ids, targets, random.integers(0, 3, 60)) for _ in range(4)]
    found = flips(made[:2], made[2:])
    share = np.mean([one.predicted == one.targets for one in made[2:]], axis=0)
    assert sorted(found.after.tolist()) == sorted(share.tolist())
    single = flips(made[:1], made[1:2])
    b, c = single.repaired.sum(), single.broken.sum()
    assert single.p_value() == pytest.approx(binomtest(int(b), int(b + c)).pvalue)
    assert flips(made[:1], made[:1]).p_value() == 1


def test_runs_that_cannot_be_compared_are_refused():
    one = answers(["x"], [0], [0])
    with pytest.raises(UserError, match="different classes"):
        flips([one], [answers(["x"], [0], [0], ("a", "b"))])
    with pytest.raises(UserError, match="no test image in common"):
        flips([one], [answers(["y"], [0], [0])])


def test_the_hardest_images_are_those_that_most_runs_get_wrong():
    ids, targets = ["v", "w", "x", "y"], [0, 1, 2, 0]
    said = ([0, 0, 0, 1], [0, 0, 0, 2], [0, 2, 1, 0])
    runs = [answers(ids, targets, each) for each in said]
    runs[1] = runs[1].in_order(np.array([3, 2, 1, 0]))
    runs[0].logits[1, 1] = -3.0  # the target of w is less likely than that of x
    found = hardest(runs, 9)
    assert [ids[place] for place in found.places] == ["w", "x", "y"]
    assert found.captions() == ["b: 0 of 3 right, a", "c: 0 of 3 right, a", "a: 1 of 3 right, b"]
    assert len(hardest(runs, 2).places) == 2
    assert not len(hardest([answers(ids, targets, targets)] * 2, 9).places)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        short = EXPERIMENT.but({"epochs": 4, "limit": 200, "batch_size": 32})
        yield home, train_seeds(short, 2, Launch(mlflow=False, threads=1), "tiny")


@pytest.fixture
def at_home(seeds, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(seeds[0]))
    return seeds[1]


def tile(path, place):
    """The image at a place of a sheet, gray uint8 [8, 8]."""
    left, top = GAP + place % COLUMNS * (TILE + GAP), GAP + place // COLUMNS * (TILE + LINE + GAP)
    return np.asarray(Image.open(path).convert("L"))[top : top + TILE : TILE // 8, left : left + TILE : TILE // 8]


def images_of(run):
    """Id -> gray pixels, from the data themselves."""
    split = run.experiment.data.load(None).limited(200).test
    return {identity(image): image[..., 0] for image in split.pixels[split.rows]}


def test_two_seeds_are_shown_with_counts_for_each_class(at_home, capsys):
    one, other = at_home.runs
    assert main([one.id, other.id]) == 0
    said = capsys.readouterr().out
    for letter, run in (("A", one), ("B", other)):
        assert f"{letter}: {run.metrics['test/accuracy']:.2%} right (runs: 1)" in said
    assert "exact McNemar test: p = " in said
    assert main([at_home.parent.id, one.id]) == 0
    assert "(runs: 2)" in capsys.readouterr().out


def test_a_sheet_shows_the_repaired_images_then_the_broken_ones(at_home, capsys, tmp_path):
    one, other = at_home.runs
    path = tmp_path / "sheet.png"
    assert main([one.id, other.id, "--sheet", str(path)]) == 0
    assert f"broken images: {path}" in capsys.readouterr().out
    found, pixels = flips([read(one, "test")], [read(other, "test")]), images_of(one)
    repaired, broken = (found.most(sign * (found.after - found.before), 24) for sign in (1, -1))
    assert len(repaired)
    assert len(broken)
    first = -(-len(repaired) // COLUMNS) * COLUMNS
    for places, start in ((repaired, 0), (broken, first)):
        for place, at in enumerate(places):
            assert np.array_equal(tile(path, start + place), pixels[found.ids[at]])
    for place in range(len(repaired), first):
        assert (tile(path, place) == 255).all()
    assert main([one.id, one.id, "--sheet", str(path)]) == 0
    assert "there is no sheet" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--sheet a.jpeg: should end in \.png"):
        main([one.id, other.id, "--sheet", "a.jpeg"])
    with pytest.raises(UserError, match=r"--sheet .*: No such file or directory"):
        main([one.id, other.id, "--sheet", str(tmp_path / "nowhere" / "a.png")])


def test_the_hardest_images_over_seeds_are_on_record_and_in_the_report(at_home):
    artifacts = at_home.parent.folder / "artifacts"
    with (artifacts / "hardest_images.csv").open() as stream:
        table = list(csv.DictReader(stream))
    both = [read(run, "test") for run in at_home.runs]
    wrong = {name: set() for name in both[0].ids.tolist()}
    for answers_, run in zip(both, at_home.runs, strict=True):
        for name in answers_.ids[answers_.predicted != answers_.targets].tolist():
            wrong[name].add(run.id)
    hard = sorted((len(wrong[row["id"]]) for row in table), reverse=True)
    assert [2 - int(row["right of 2"]) for row in table] == hard
    assert hard == sorted(map(len, wrong.values()), reverse=True)[: len(hard)]
    pixels = images_of(at_home.runs[0])
    for place, row in enumerate(table):
        assert np.array_equal(tile(artifacts / "hardest_images.png", place), pixels[row["id"]])
    first, second = ((run.folder / "artifacts" / REPORT).read_text() for run in at_home.runs)
    assert "Hardest images over seeds" not in first  # no other seed had been tested yet
    assert "Hardest images over seeds" in second
    assert f"{table[0]['class']}: {table[0]['right of 2']} of 2 right, {table[0]['predicted']}" in second
