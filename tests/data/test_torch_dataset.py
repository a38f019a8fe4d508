"""Data sets of torch and torchvision, made by code of others: pixels and labels, read once, refused where random."""

import hashlib
import sys

import numpy as np
import pytest
import torch
import torchvision
from scipy.io import savemat

from core.common.errors import UserError
from core.launch import Launch
from core.loading.batches import Plan
from core.loading.loader import feed
from core.runs.train import train
from core.training.assemble import check
from data import TorchDataset, TorchvisionDataset
from experiments.tiny import EXPERIMENT
from tests.support.foreign import RAW, Digits

HERE = "tests.support.foreign"


def of(name, **fields):
    return TorchDataset(factory=f"{HERE}:{name}", **fields)


def complaint(data, root=None):
    with pytest.raises(UserError) as caught:
        data.load(root)
    return "\n".join(caught.value.lines)


@pytest.mark.parametrize("form", ["pil", "array", "last", "tensor", "first", "float"])
def test_images_of_any_kind_become_the_same_pixels(form):
    splits = of("Digits", arguments={"form": form}).load(None)
    assert splits.train.shape == (8, 8, 1)
    assert splits.classes == tuple("0123456789")
    for images in (splits.train, splits.val, splits.test):
        assert np.array_equal(images.pixels[images.rows][..., 0], (RAW.images[images.rows] * 10).astype(np.uint8))
        assert np.array_equal(images.targets, RAW.target[images.rows])
    assert sum(len(images) for images in (splits.train, splits.val, splits.test)) == 1797
    assert splits.digest == of("Digits").load(None).digest


@pytest.mark.parametrize("name", ["Stream", "generated"])
def test_streams_and_generators_are_read_to_their_end(name):
    assert of(name).load(None).digest == of("Digits").load(None).digest


def test_one_factory_makes_all_splits_or_each_its_own():
    whole = of("Named", arguments={"stop": 1000}, test_arguments={"start": 1000, "stop": 1797}).load(None)
    assert whole.classes[0] == "null"
    assert (len(whole.test), len(whole.train) + len(whole.val)) == (797, 1000)
    assert np.array_equal(whole.test.targets, RAW.target[1000:])
    each = of(
        "Digits",
        arguments={"stop": 1000},
        val_arguments={"start": 1000, "stop": 1400},
        test_factory=f"{HERE}:Named",
        test_arguments={"start": 1400, "stop": 1797},
    ).load(None)
    assert [len(images) for images in (each.train, each.val, each.test)] == [1000, 400, 397]
    assert np.array_equal(each.val.targets, RAW.target[1000:1400])


def test_items_are_read_once_and_read_again_when_they_change(monkeypatch):
    read = []
    original = Digits.__getitem__
    monkeypatch.setattr(Digits, "__getitem__", lambda self, at: (read.append(at), original(self, at))[1])
    first = of("Digits").load(None)
    assert len(read) > 1797
    read.clear()
    assert of("Digits", split_seed=1).load(None).digest == first.digest
    assert len(read) < 100
    monkeypatch.setattr(Digits, "__getitem__", lambda self, at: (original(self, at)[0], 9 - original(self, at)[1]))
    assert of("Digits").load(None).digest != first.digest


def test_images_can_be_read_whenever_they_are_needed():
    kept, read = of("Digits").load(None), of("Digits", cached=False).load(None)
    assert np.array_equal(read.train.pixels[read.train.rows], kept.train.pixels[kept.train.rows])
    assert np.array_equal(read.test.targets, kept.test.targets)
    plan, cpu = Plan(len(read.train), 400), torch.device("cpu")
    batches = [list(feed(plan, each.train, cpu, workers=n).epoch(0)) for each in (kept, read) for n in (0, 1)]
    for same in zip(*batches, strict=True):
        assert all(torch.equal(batch.images, same[0].images) for batch in same)
    assert "has no index" in complaint(of("Stream", cached=False))


def test_images_are_cut_to_a_size_and_gray_ones_repeated():
    splits = of("Digits", size=16, interpolation="nearest", channels=3).load(None)
    assert splits.train.shape == (16, 16, 3)
    expected = (RAW.images[0] * 10).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(splits.train.pixels[0, ..., 1], expected)


def test_a_fixed_transform_is_used_and_told(capsys):
    assert of("cropped").load(None).train.shape == (6, 6, 1)
    assert "has a transform of its own, applied once, before what is declared: Compose( CenterCrop" in (
        capsys.readouterr().err
    )


def test_several_labels_for_each_image():
    splits = of("Several", classes=("even", "large")).load(None)
    assert splits.multi_label
    assert splits.classes == ("even", "large")
    expected = np.stack([RAW.target % 2 == 0, RAW.target > 4], axis=1)
    assert np.array_equal(splits.test.targets, expected[splits.test.rows])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (of("flipped"), r"is another one when it is read again (RandomHorizontalFlip(p=0.5)): images are read once"),
        (of("normalized"), "float32 with values of -1 to 0.176471; leave the normalization out of its transform"),
        (of("loader"), "returned a DataLoader; return its Dataset"),
        (of("empty"), "returned a data set without items"),
        (of("text"), "returned an object that is of type str; a Dataset or IterableDataset"),
        (of("Digits", arguments={"form": "words"}), "item 0: the image is of type str; an image of Pillow, an array"),
        (of("Digits", arguments={"form": "uneven"}), "pixels, the first one 8x8; set --data.size"),
        (of("Digits", arguments={"form": "oval"}), "failed: KeyError: 'oval' ("),
        (of("Digits", arguments={"shape": 1}), "does not take these arguments: got an unexpected keyword argument"),
        (of("Shifted"), "item 0: label -1 is outside 0 .. 8; labels are indices of classes"),
        (of("Digits", classes=("a", "b")), "item 2: label 2 is outside 0 .. 1"),
        (of("Several", classes=("even",)), "item 0: the target has 2 labels, and there are 1 names of labels"),
        (of("broken"), "failed: TypeError: can only concatenate tuple"),
        (of("Lasting"), "returned a data set without a length: TypeError: 'str' object cannot be"),
        (of("Exiting"), "item 1628 cannot be read: SystemExit: no more"),
        (of("Digitts"), "has no Digitts; did you mean Digits?"),
    ],
    ids=lambda value: "" if isinstance(value, TorchDataset) else value[:30],
)
def test_what_is_no_data_set_of_images_is_refused_with_what_it_gave(data, message):
    assert message in complaint(data)


def test_a_factory_that_cannot_be_imported_is_refused_before_data_are_read(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "faulty_code.py").write_text("import numpy\n\nVALUE = numpy.array([1]) + undefined\n")
    for name, message in (
        ("nowhere_at_all.data:make", "there is no module nowhere_at_all; run the command in the folder"),
        ("faulty_code:make", "NameError: name 'undefined' is not defined ("),
    ):
        with pytest.raises(UserError) as caught:
            check(EXPERIMENT.but({"data": TorchDataset(factory=name)}))
        assert len(caught.value.lines) == 1
        assert message in caught.value.lines[0]
    assert "faulty_code.py, line 3)" in caught.value.lines[0]
    sys.modules.pop("faulty_code", None)


def test_the_generators_of_the_process_are_as_before():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    of("Digits").load(None)
    assert np.random.random() == expected


def test_a_run_with_it_is_on_record_and_can_be_loaded_again():
    run = train(EXPERIMENT.but({"data": of("Digits"), "epochs": 1}), Launch(mlflow=False, device="cpu"))
    assert run.metrics["test/accuracy"] > 0.3
    assert run.experiment.data == of("Digits")
    assert run.own_splits().digest == run.record["data"]["digest"]


# ---------------------------------------------------------------- torchvision


def test_fake_data_of_torchvision_are_read_and_divided():
    data = TorchvisionDataset(
        name="FakeData", arguments={"size": 90, "image_size": [3, 16, 12], "num_classes": 3}, channels=3
    )
    splits = data.load(None)
    theirs = torchvision.datasets.FakeData(90, (3, 16, 12), 3)
    for at in range(5):
        image, label = theirs[int(splits.train.rows[at])]
        assert np.array_equal(splits.train.pixels[splits.train.rows[at]], np.array(image))
        assert splits.train.targets[at] == int(label)


def idx(array):
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sides + array.tobytes()


def test_mnist_in_its_own_format(tmp_path):
    chance = np.random.default_rng(0)
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 60), ("t10k", 20)):
        images = chance.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    splits = TorchvisionDataset(name="KMNIST").load(tmp_path)
    assert splits.train.shape == (28, 28, 1)
    assert np.array_equal(splits.test.pixels[splits.test.rows][..., 0], images)
    assert splits.classes[0] == "o"
    assert (len(splits.train), len(splits.val), len(splits.test)) == (50, 10, 20)


def test_svhn_in_its_own_format_with_its_own_digests(tmp_path, monkeypatch):
    chance = np.random.default_rng(0)
    files = {}
    for split, count in (("train", 60), ("test", 20)):
        pixels = chance.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": pixels, "y": np.arange(count)[:, None] % 10 + 1})  # 10 means zero
        files[split] = ["http://127.0.0.1:9", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    splits = TorchvisionDataset(name="SVHN").load(tmp_path)
    assert np.array_equal(splits.test.pixels[splits.test.rows], pixels.transpose(3, 0, 1, 2))
    assert splits.test.targets[:3].tolist() == [1, 2, 3]
    (tmp_path / "test_32x32.mat").write_bytes(b"damaged")
    found = complaint(TorchvisionDataset(name="SVHN"), tmp_path)
    assert "RuntimeError: Dataset not found or corrupted" in found
    assert f"below {tmp_path}" in found


def test_a_name_that_torchvision_does_not_have():
    with pytest.raises(UserError, match=r"data: torchvision.datasets has no data set SVNH; did you mean SVHN\?"):
        check(EXPERIMENT.but({"data": TorchvisionDataset(name="SVNH")}))
