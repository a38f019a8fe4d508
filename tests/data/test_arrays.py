"""Arrays in .npy and .npz files, by the names that others give them."""

import numpy as np
import pytest

from core.common.errors import UserError
from core.launch import Launch
from core.runs.train import train
from data import Arrays
from data.kinds import kind_of
from experiments.tiny import EXPERIMENT
from tests.support.samples import noise

IMAGES = np.stack([noise(seed, 16, 16) for seed in range(60)])
LABELS = np.arange(60) % 3
SEVERAL = np.stack([LABELS > 0, LABELS == 1, np.arange(60) % 2 == 0], axis=1)  # an image may have none of these labels
WHOLE = {"images": IMAGES, "labels": LABELS}


def npz(folder, **arrays):
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def complaint(root, **fields):
    with pytest.raises(UserError) as caught:
        Arrays(size=16, **fields).load(root)
    return "\n".join(caught.value.lines)


def held(images):
    return images.pixels[images.rows]


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),  # Keras
        ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
        ("X_train", "target_train", "data-testing", "labels.testing"),
    ],
)
def test_splits_are_known_by_their_names(names, tmp_path):
    values = (IMAGES[:40], LABELS[:40, None], IMAGES[40:], LABELS[40:, None])
    root = npz(tmp_path, **dict(zip(names, values, strict=True)))
    assert kind_of(root) == "Arrays"
    splits = Arrays(size=16).load(root)
    assert splits.classes == ("0", "1", "2")
    assert np.array_equal(held(splits.test), IMAGES[40:])
    assert np.array_equal(splits.test.targets, LABELS[40:])
    assert len(splits.train) + len(splits.val) == 40


def test_a_folder_of_npy_files_as_that_of_cifar_10_1(tmp_path):
    np.save(tmp_path / "cifar10.1_v6_data.npy", IMAGES)
    np.save(tmp_path / "cifar10.1_v6_labels.npy", LABELS)
    assert kind_of(tmp_path) == "Arrays"
    splits = Arrays(size=16, classes=("airplane", "automobile", "bird")).load(tmp_path)
    assert splits.classes == ("airplane", "automobile", "bird")
    whole = splits.train.together(splits.val, splits.test)
    assert np.array_equal(held(whole), IMAGES)
    assert np.array_equal(whole.targets, LABELS)
    np.save(tmp_path / "cifar10.1_v4_data.npy", IMAGES)
    assert "cifar10.1_v4_data and cifar10.1_v6_data may be the images; choose one with --data.images NAME" in complaint(
        tmp_path
    )
    chosen = Arrays(size=16, images="cifar10.1_v4_data", rows=(10, 50)).load(tmp_path)
    assert np.array_equal(held(chosen.train.together(chosen.val, chosen.test)), IMAGES[10:50])


def test_floats_and_channels_first_are_the_same_images(tmp_path):
    floats = (IMAGES / 255).astype(np.float32).transpose(0, 3, 1, 2)
    one = Arrays(size=16).load(npz(tmp_path, data=floats, targets=LABELS.astype(str)))
    other = Arrays(size=16).load(npz(tmp_path, **WHOLE))
    assert np.array_equal(held(one.test), held(other.test))
    assert one.classes == other.classes


@pytest.mark.parametrize("kind", [bool, int, np.float32])
def test_zeros_and_ones_for_each_label_are_multi_label(kind, tmp_path):
    halves = (IMAGES[:40], SEVERAL[:40].astype(kind), IMAGES[40:], SEVERAL[40:].astype(kind))
    root = npz(tmp_path, **dict(zip(("x_train", "y_train", "x_test", "y_test"), halves, strict=True)))
    splits = Arrays(size=16, classes=("large", "middle", "even")).load(root)
    assert splits.multi_label
    assert splits.classes == ("large", "middle", "even")
    assert np.array_equal(splits.test.targets, SEVERAL[40:])
    known = {image.tobytes(): labels for image, labels in zip(IMAGES, SEVERAL, strict=True)}
    for images in (splits.train, splits.val):
        assert all(np.array_equal(known[x.tobytes()], y) for x, y in zip(held(images), images.targets, strict=True))


def test_a_multi_label_run_and_one_label_for_each_image_is_told(tmp_path, capsys):
    changes = {"data": Arrays(size=16), "loss": "BinaryCrossEntropy", "monitor": "val/map", "augment": (), "epochs": 1}
    launch = Launch(mlflow=False, threads=1, root=npz(tmp_path, **WHOLE | {"labels": SEVERAL}))
    run = train(EXPERIMENT.but(changes | {"batch_size": 8}), launch)
    assert run.record["data"]["classes"] == ["0", "1", "2"]
    assert np.isfinite(run.metrics["test/map"])
    assert "argmax" not in capsys.readouterr().err
    Arrays(size=16).load(npz(tmp_path, **WHOLE | {"labels": np.eye(3)[LABELS]}))
    assert "taken as multi-label; for one class, save argmax(axis=1)" in capsys.readouterr().err
    with pytest.raises(UserError, match="labbook check cannot inspect multi-label images"):
        Arrays(size=16).listed(tmp_path / "set.npz", print)


@pytest.mark.parametrize("folder", [False, True])
def test_weights_go_with_their_images(folder, tmp_path):
    weights = np.arange(40) / 7
    arrays = {
        "x_test": IMAGES[40:],
        "y_test": LABELS[40:],
        "x_train": IMAGES[:40],
        "y_train": LABELS[:40],
        "w": weights,
    }
    if folder:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
    root = tmp_path if folder else npz(tmp_path, **arrays)
    splits = Arrays(size=16, weights="w").load(root)
    known = {image.tobytes(): weight for image, weight in zip(IMAGES, weights, strict=False)}
    for images in (splits.train, splits.val):
        assert [known[image.tobytes()] for image in held(images)] == images.weights.tolist()
    assert np.isnan(splits.test.weights).all()
    plain = Arrays(size=16).load(root)
    assert plain.train.weights is None
    assert plain.digest != splits.digest
    with pytest.raises(UserError, match="w: 40 weights for 20 images of the data"):
        Arrays(size=16, images="x_test", labels="y_test", weights="w").load(root)


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        ({"images": IMAGES}, {}, "set.npz has the arrays images, but no labels"),
        ({"a": IMAGES, "b": LABELS}, {}, "set.npz has the arrays a, b; name them with --data.images NAME"),
        (WHOLE | {"labels": LABELS[1:]}, {}, "labels is int64 [59]; there must be a label for each image"),
        (
            WHOLE | {"labels": np.eye(3)[LABELS] / 2},
            {},
            "labels is float64 [60, 3] with 0.5 at [0, 0]; labels [N, K] are 0 and 1",
        ),
        (WHOLE | {"images": IMAGES[0]}, {}, "images is uint8 [16, 16, 3] and labels is int64 [60]; there must be"),
        (WHOLE | {"images": IMAGES[..., :2]}, {}, "the image is ndarray uint8 [16, 16, 2]"),
        (WHOLE | {"images": IMAGES.astype(int)}, {}, "the image is int64 with values of 0 to 255; give uint8"),
        (
            WHOLE | {"labels": SEVERAL},
            {"classes": tuple("abcd")},
            "4 names in --data.classes for 3 labels of each image",
        ),
        (
            {"x_train": IMAGES, "y_train": SEVERAL, "x_test": IMAGES, "y_test": LABELS},
            {},
            "labels of the splits differ",
        ),
        (WHOLE | {"w": LABELS - 1.0}, {"weights": "w"}, "set.npz: w: index 0: the weight -1 is negative"),
        (
            WHOLE | {"w": np.full(60, np.nan)},
            {"weights": "w"},
            "set.npz: w: index 0: the weight nan is not a finite number",
        ),
        (WHOLE | {"w": LABELS * 0}, {"weights": "w"}, "set.npz: w: all weights are 0"),
        (WHOLE | {"w": LABELS[1:]}, {"weights": "w"}, "set.npz: w: 59 weights for 60 images of the data"),
        (WHOLE | {"w": IMAGES}, {"weights": "w"}, "w is uint8 [60, 16, 16, 3]; weights are numbers, [N]"),
        (WHOLE, {"weights": "w"}, "set.npz: w cannot be read as weights ('w is not a file in the archive')"),
        (WHOLE, {"rows": (50, 70)}, "--data.rows 50,70 goes beyond its end"),
        (WHOLE, {"classes": ("a", "b")}, "label 2 is not in the range 0 to 1"),
        ({"x_test": IMAGES, "y_test": LABELS}, {}, "but none of train"),
        (WHOLE | {"labels": np.array([{}] * 60)}, {}, "cannot be read as arrays (Object arrays cannot be loaded"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_wrong_with_arrays_is_said_with_their_shape(arrays, fields, message, tmp_path):
    assert message in complaint(npz(tmp_path, **arrays), **fields)


def test_damaged_files_are_refused(tmp_path):
    path = npz(tmp_path, **WHOLE)
    path.write_bytes(path.read_bytes()[:3000])
    assert "cannot be read as arrays" in complaint(path)
    (tmp_path / "x.npy").write_bytes(b"none")
    assert "cannot be read as arrays" in complaint(tmp_path)
