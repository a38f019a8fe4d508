"""Several data sets as one: pixels, splits, and classes by name."""

import numpy as np
import pytest

from core.common.errors import UserError
from core.launch import Launch
from core.loading.folds import Fold
from core.options import parse
from core.runs.train import train
from core.training.assemble import check
from data import Concat, Digits, ImageFolder, TorchDataset
from experiments.tiny import EXPERIMENT
from tests.support.samples import tree

FOREIGN = TorchDataset(factory="tests.support.foreign:Digits", classes=tuple("9876543210"))


def shown(splits, split):
    """{(class, pixels)} of a split, in order."""
    images = getattr(splits, split)
    return sorted(
        (splits.classes[label], image.tobytes())
        for label, image in zip(images.targets, images.pixels[images.rows], strict=True)
    )


def test_each_split_is_that_of_all_parts_with_classes_by_name():
    one, other = Digits().load(None), FOREIGN.load(None)
    both = Concat(sets=(Digits(), FOREIGN)).load(None)
    assert both.classes == one.classes
    for split in ("train", "val", "test"):
        assert shown(both, split) == sorted(shown(one, split) + shown(other, split))
    assert Concat(sets=(FOREIGN, Digits())).load(None).digest != both.digest
    Fold(folds=2)(both)  # the pixels of train and val are stored together


def test_classes_that_only_one_part_has_come_last_and_parts_have_places_of_their_own(tmp_path):
    tree(tmp_path / "a", classes=("cat", "dog"), each=6)
    tree(tmp_path / "b", classes=("ant", "dog"), each=6)
    data = Concat(sets=(ImageFolder(size=16), ImageFolder(size=16)), roots=("a", "b"))
    splits = data.load(tmp_path)
    assert splits.classes == ("cat", "dog", "ant")
    assert splits.test.counts(3) == (6, 12, 6)
    assert splits.name == "a + b"


def test_weights_of_the_parts_stay_with_their_images(tmp_path):
    np.save(tmp_path / "w.npy", np.arange(1797.0))
    data = FOREIGN.but({"weights": str(tmp_path / "w.npy")})
    alone, both = data.load(None), Concat(sets=(data, data)).load(None)
    assert both.train.weights.tolist() == alone.train.weights.tolist() * 2
    assert both.train.weights.tolist() == alone.train.rows.tolist() * 2


def test_a_run_on_the_command_line(tmp_path):
    words = "--data Concat --data.sets Digits,TorchDataset --epochs 1".split()
    declared = parse([*words, "--data.sets.torch_dataset.factory", "tests.support.foreign:Digits"], EXPERIMENT, {})
    run = train(declared.experiment, Launch(mlflow=False, device="cpu"))
    assert run.record["data"]["train"] == 2 * 1295
    assert np.isfinite(run.metrics["test/loss"])


def test_what_cannot_be_one_data_set_is_refused(tmp_path):
    tree(tmp_path / "a")
    np.save(tmp_path / "w.npy", np.ones(1797))
    weighted = FOREIGN.but({"weights": str(tmp_path / "w.npy")})
    several = FOREIGN.but({"factory": "tests.support.foreign:Several", "classes": "1,2"})
    for other, root, message in (
        (ImageFolder(size=16), tmp_path / "a", "a has images of 16x16x3, digits of 8x8x1; give both the same"),
        (ImageFolder(size=16), tmp_path / "a", "a and digits have no class in common: cat, dog and 0, 1, 2, 3"),
        (weighted, None, "the images of Digits have weights, those of digits no weights"),
        (several, None, "an image of Several has any number of labels, of digits one class"),
    ):
        with pytest.raises(UserError) as caught:
            Concat(sets=(Digits(), other)).load(root)
        assert message in str(caught.value)
    for data, message in (
        (Concat(sets=(Digits(),)), "data: sets should be at least two data sets"),
        (Concat(sets=(Digits(), Digits()), roots=("a",)), "data: 1 roots for 2 sets"),
        (Concat(sets=(Digits(), Digits()), val_fraction=0.2), "data: val_fraction is that of each of its sets"),
    ):
        with pytest.raises(UserError, match=message):
            check(EXPERIMENT.but({"data": data}))
