"""Arrays in .npy and .npz files, by the names that others give them."""

import numpy as np
import pytest

from core.common.errors import UserError
from data import Arrays
from data.kinds import kind_of
from tests.support.samples import noise

IMAGES = np.stack([noise(seed, 16, 16) for seed in range(60)])
LABELS = np.arange(60) % 3
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


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        ({"images": IMAGES}, {}, "set.npz has the arrays images, but no labels"),
        ({"a": IMAGES, "b": LABELS}, {}, "set.npz has the arrays a, b; name them with --data.images NAME"),
        (WHOLE | {"labels": LABELS[1:]}, {}, "labels is int64 [59]; there must be a label for each image"),
        (WHOLE | {"labels": np.eye(3)[LABELS]}, {}, "labels is float64 [60, 3]; labels are [N], integers or names"),
        (WHOLE | {"images": IMAGES[0]}, {}, "images is uint8 [16, 16, 3] and labels is int64 [60]; there must be"),
        (WHOLE | {"images": IMAGES[..., :2]}, {}, "the image is ndarray uint8 [16, 16, 2]"),
        (WHOLE | {"images": IMAGES.astype(int)}, {}, "the image is int64 with values of 0 to 255; give uint8"),
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
