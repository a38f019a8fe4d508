"""Which images a setting repairs and breaks."""

import numpy as np
import pytest
from scipy.stats import binomtest

from core.cli.flips import main
from core.common.errors import UserError
from core.inference.flips import flips
from core.launch import Launch
from core.metrics.answers import Answers
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


def test_two_seeds_are_shown_with_counts_for_each_class(home, capsys):
    seeds = train_seeds(EXPERIMENT.but({"epochs": 1, "limit": 200}), 2, Launch(mlflow=False, threads=1), "tiny")
    one, other = seeds.runs
    capsys.readouterr()
    assert main([one.id, other.id]) == 0
    said = capsys.readouterr().out
    for letter, run in (("A", one), ("B", other)):
        assert f"{letter}: {run.metrics['test/accuracy']:.2%} right (runs: 1)" in said
    assert "exact McNemar test: p = " in said
    assert main([seeds.parent.id, one.id]) == 0
    assert "(runs: 2)" in capsys.readouterr().out
