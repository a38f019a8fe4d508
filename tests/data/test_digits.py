import subprocess
import sys
from types import SimpleNamespace

import numpy as np
from sklearn.datasets import load_digits

from core.declare.part import Part
from data import Cifar10, Digits
from tests.support.samples import ROOT


def test_digits_are_those_of_scikit_learn():
    splits = Digits().load(None)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1295, 143, 359)
    assert splits.classes == tuple("0123456789")
    assert splits.train.shape == (8, 8, 1)
    raw = load_digits()
    assert np.array_equal(splits.train.pixels[3, :, :, 0], np.rint(raw.images[3] * 255 / 16))
    assert splits.train.pixels.dtype == np.uint8
    assert splits.train.pixels.max() == 255
    for images in (splits.train, splits.val, splits.test):
        assert np.array_equal(images.targets, raw.target[images.rows])
        assert max(images.counts(10)) - min(images.counts(10)) <= 7
    rows = np.concatenate([splits.train.rows, splits.val.rows, splits.test.rows])
    assert np.array_equal(np.sort(rows), np.arange(1797))


def test_digits_are_the_same_where_scikit_learn_keeps_its_file_elsewhere(monkeypatch, tmp_path):
    here = Digits().load(None)
    monkeypatch.setattr("data.digits.find_spec", lambda name: SimpleNamespace(submodule_search_locations=[tmp_path]))
    elsewhere = Digits().load(None)
    assert elsewhere.digest == here.digest
    assert np.array_equal(elsewhere.test.pixels, here.test.pixels)


def test_the_test_split_is_fixed_and_the_digest_names_the_contents():
    one, other = Digits().load(None), Digits(split_seed=3, val_fraction=0.3).load(None)
    assert np.array_equal(one.test.rows, other.test.rows)
    assert set(one.val.rows) != set(Digits(split_seed=3).load(None).val.rows)
    assert one.digest == other.digest == "ac3d81c6d4138eedcdd2eeb85fbc78cd842e9ce268d69c4d3c48d15979b6eeeb"


def test_data_sets_are_parts_found_by_name():
    assert Part.read({"class": "Cifar10", "val_fraction": 0.2}) == Cifar10(val_fraction=0.2)


def test_importing_data_loads_nothing_heavy():
    heavy = "{'torch', 'torchvision', 'sklearn', 'PIL', 'rich', 'filelock', 'tarfile', 'urllib.request'}"
    code = f"import sys, data; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"
