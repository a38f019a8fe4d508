"""Seeds that also draw the validation split."""

import numpy as np
import pytest

from core.cli.compare import main as compare
from core.common.errors import DataError, UserError
from core.inference.answers import read
from core.launch import Launch
from core.metrics.answers import identity
from core.options import parse
from core.runs.seeds import train_seeds
from core.training.assemble import load_splits
from data import ImageFolder
from experiments.tiny import EXPERIMENT
from tests.support.records import seeds
from tests.support.samples import tree

QUICK = EXPERIMENT.but({"epochs": 1, "stopping": None, "model": "MLP", "augment": ()})
VARIED = QUICK.but({"vary": "split"})
ALONE = Launch(mlflow=False, device="cpu")


def test_each_seed_draws_the_val_split_of_its_number_and_the_test_split_stays():
    varied = [load_splits(VARIED.but({"seed": seed, "data.split_seed": 5}), ALONE) for seed in (0, 5)]
    fixed = [load_splits(QUICK.but({"data.split_seed": seed}), ALONE) for seed in (0, 5)]
    for own, other in zip(varied, fixed, strict=True):
        assert np.array_equal(own.val.rows, other.val.rows)
        assert np.array_equal(own.train.rows, other.train.rows)
        assert np.array_equal(own.test.rows, varied[0].test.rows)
    assert not np.array_equal(varied[0].val.rows, varied[1].val.rows)
    assert varied[0].digest == varied[1].digest  # so that seeds can be compared


def test_compare_pairs_them_by_seed_and_says_that_the_interval_covers_splits(lab, capsys):
    seeds(lab, VARIED, (0.96, 0.94, 0.95))
    seeds(lab, VARIED.but({"optimizer.lr": 0.3}), (0.95, 0.93, 0.94))
    with pytest.raises(UserError, match="--unit both: each seed has a val split of its own"):
        compare(["tiny", "--unit", "both"])
    assert compare(["tiny"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 paired seeds" in shown
    assert "intervals are over seeds, each with a val split of its own, alone" in shown


def test_what_the_seed_cannot_draw_is_refused(tmp_path):
    source = tree(tmp_path / "source", splits=("train", "val", "test"))
    fixed = VARIED.but({"data": ImageFolder(size=16)})
    with pytest.raises(DataError, match="vary: the val split of source is fixed by its files"):
        load_splits(fixed, ALONE.but({"root": source}))
    with pytest.raises(ValueError, match="vary and fold: the fold is the val split"):
        VARIED.but({"fold.number": 2}).check()
    with pytest.raises(UserError, match="together: with vary, each seed has a val split of its own"):
        train_seeds(VARIED, 2, ALONE.but({"together": True}), "tiny")
    with pytest.raises(UserError, match="vary"):
        parse(["--vary", "seeds"], QUICK, {})


@pytest.mark.slow
def test_trained_seeds_answer_for_splits_of_their_own(home, capsys):
    runs = train_seeds(VARIED, 2, ALONE, "tiny").runs
    for seed, run in enumerate(runs):
        val = load_splits(QUICK.but({"data.split_seed": seed}), ALONE).val
        pixels = np.ascontiguousarray(val.pixels[val.rows])
        assert sorted(read(run, "val").ids) == sorted(map(identity, pixels))
    assert runs[1].params["vary"] == "split"
    assert compare(["tiny", "--metric", "test/accuracy"]) == 0
    assert "over seeds, each with a val split of its own, alone" in " ".join(capsys.readouterr().out.split())
