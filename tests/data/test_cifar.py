import contextlib
import dataclasses
import hashlib
import os
import pickle
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.common.errors import DataError
from data import Cifar10, Cifar100, cifar
from data.reading.pickles import read
from tests.support.samples import batches, encoded, noise, packed, pickled, planes_of, tree

TEN = [f"class{number:02}" for number in range(10)]


def official_archive(official, tmp_path, **options):
    folder = batches(official, tmp_path / "unpacked" / official.folder, **options)
    with tarfile.open(tmp_path / official.file, "w:gz") as archive:
        archive.add(folder, official.folder)
    return tmp_path / official.file


def complaint(root, dataset=None):
    with pytest.raises(DataError) as caught:
        (dataset or Cifar10()).load(root)
    return "\n".join(caught.value.lines)


@pytest.mark.parametrize(("dataset", "official"), [(Cifar10(), cifar.TEN), (Cifar100(), cifar.HUNDRED)])
def test_the_official_files_in_any_form_are_the_same_data(dataset, official, tmp_path):
    each = 10 * official.classes // len(official.train)
    archive = official_archive(official, tmp_path, each=each)
    unpacked = tmp_path / "unpacked"
    splits = [dataset.load(root) for root in (archive, tmp_path, unpacked, unpacked / official.folder)]
    assert len({one.digest for one in splits}) == 1
    assert splits[0].name == official.title
    assert len(splits[0].classes) == official.classes
    assert splits[0].classes[3] == "class03"
    sizes = [len(images) for images in (splits[0].train, splits[0].val, splits[0].test)]
    assert sizes == [9 * official.classes, official.classes, each]


def test_rows_are_the_stored_planes(tmp_path):
    splits = Cifar10().load(official_archive(cifar.TEN, tmp_path))
    planes = np.concatenate([planes_of(seed, 20) for seed in range(6)]).reshape(-1, 3, 32, 32)
    for images in (splits.train, splits.val, splits.test):
        for row, target in zip(images.rows, images.targets, strict=True):
            assert np.array_equal(images.pixels[row], planes[row].transpose(1, 2, 0))
            assert target == row % 20 % 10
    assert np.array_equal(splits.test.rows, np.arange(100, 120))


def test_some_classes_alone_are_a_data_set_of_their_own(tmp_path):
    root = official_archive(cifar.TEN, tmp_path)
    whole, some = Cifar10().load(root), Cifar10(only=("class07", "class02", "class03")).load(root)
    assert some.classes == ("class02", "class03", "class07")
    assert some.name == "CIFAR-10, 3 classes"
    for split in ("train", "val", "test"):
        ours, theirs = getattr(some, split), getattr(whole, split)
        assert ours.rows.tolist() == theirs.rows[np.isin(theirs.targets, (2, 3, 7))].tolist()
        assert [(2, 3, 7)[target] for target in ours.targets] == theirs.targets[
            np.isin(theirs.rows, ours.rows)
        ].tolist()
    rest = Cifar10(only=tuple(name for name in whole.classes if name not in some.classes)).load(root)
    assert len({whole.digest, some.digest, rest.digest}) == 3
    assert len(rest.train) + len(some.train) == len(whole.train)


def test_classes_to_keep_that_are_none_are_refused_with_the_nearest(tmp_path):
    root = official_archive(cifar.TEN, tmp_path)
    message = complaint(root, Cifar10(only=("clas03", "dog")))
    assert "data.only: clas03 is not a class of CIFAR-10; did you mean class03" in message
    assert "dog is not a class of CIFAR-10; choose from class00, class01" in message
    assert "a single class; classification needs at least two" in complaint(root, Cifar10(only=("class03",)))


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_malicious_pickle_is_refused_and_does_nothing(name, protocol, tmp_path):
    folder = batches(cifar.TEN, tmp_path / cifar.TEN.folder)
    marker = tmp_path / "marker"
    (folder / name).write_bytes(pickle.dumps({b"data": Evil(marker)}, protocol=protocol))
    said = complaint(folder)
    assert name in said
    assert "it refers to posix.system" in said
    assert not marker.exists()


def crafted(*operations):
    return b"\x80\x02" + b"".join(operations) + b"."


MALICIOUS = {
    "eval": crafted(b"c__builtin__\neval\n", b"X\x03\x00\x00\x001+1", b"\x85R"),
    "make_an_array_at_will": crafted(b"cnumpy\nndarray\n", b"J\x00\x00\x00\x40\x85", b"\x85R"),
    "reconstruct_at_will": crafted(
        b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"J\x00\x00\x00\x40\x85", b"U\x01b\x87R"
    ),
    "object_arrays": crafted(b"cnumpy\ndtype\n", b"U\x01OK\x00K\x01\x87R"),
    "other_encodings": crafted(b"c_codecs\nencode\n", b"X\x01\x00\x00\x00a", b"U\x05rot13\x86R"),
    "attribute_of_an_allowed_module": crafted(b"cnumpy\nload\n", b"X\x01\x00\x00\x00a", b"\x85R"),
    "dotted_name": b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.dot\x93.",
    "empty": b"",
    "cut": pickle.dumps({b"data": 1}, protocol=2)[:-3],
    "no_fields": pickle.dumps({}, protocol=2),
    "a_number": pickle.dumps(3, protocol=2),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_pickles_of_anything_else_are_refused(name, tmp_path):
    folder = batches(cifar.TEN, tmp_path / cifar.TEN.folder)
    (folder / "data_batch_2").write_bytes(MALICIOUS[name])
    assert "data_batch_2 is not a CIFAR batch" in complaint(folder)


WRONG = {
    "shape": {b"data": np.zeros((3, 3071), np.uint8), b"labels": [0, 1, 2]},
    "count": {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1]},
    "no_rows": {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
    "text_labels": {b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]},
    "label_too_large": {b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]},
    "label_negative": {b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]},
    "no_array": {b"data": [1, 2], b"labels": [0, 1]},
}


@pytest.mark.parametrize("name", WRONG)
def test_batches_that_are_not_what_they_should_be_are_refused(name, tmp_path):
    folder = batches(cifar.TEN, tmp_path / cifar.TEN.folder)
    (folder / "data_batch_2").write_bytes(pickle.dumps(WRONG[name], protocol=2))
    assert "data_batch_2 is not a CIFAR batch" in complaint(folder)


def test_batches_pickled_by_python_3_are_read_too(tmp_path):
    folder = batches(cifar.TEN, tmp_path / cifar.TEN.folder)
    before = Cifar10().load(folder)
    fields = {b"data": planes_of(1, 20), b"labels": [number % 10 for number in range(20)]}
    for protocol in (2, 4):
        (folder / "data_batch_2").write_bytes(pickle.dumps(fields, protocol=protocol))
        assert Cifar10().load(folder).digest == before.digest


def dtype_state(*state):
    """A batch whose dtype has this state in place of that of bytes."""
    honest = pickled(planes_of(1, 20), [number % 10 for number in range(20)], b"labels")
    start = honest.index(b"(J\x03\x00\x00\x00U\x01|NNN")
    end = honest.index(b"tb", start)
    return honest[:start] + pickle.dumps(state, protocol=2)[2:-1] + honest[end + 1 :]


@pytest.mark.parametrize(
    "state",
    [
        (3, "|", (b"u1", (1 << 24,)), None, None, 1 << 24, 1, 0),
        (3, "|", None, ("far",), {"far": (b"u1", 1 << 30)}, 1, 1, 16),
        (3, "|", None, None, None, 1 << 30, 1, 0),
        (4, ">", None, None, None, -1, -1, 63),
        (),
    ],
    ids=["array_of_arrays", "field_far_away", "large_elements", "flags", "nothing"],
)
def test_the_state_of_a_dtype_is_never_taken_from_a_file(state, tmp_path):
    """numpy would read memory beyond its buffers, which then become pixels."""
    folder = batches(cifar.TEN, tmp_path / cifar.TEN.folder)
    before = Cifar10().load(folder).digest
    (folder / "data_batch_2").write_bytes(dtype_state(*state))
    assert Cifar10().load(folder).digest == before


@pytest.mark.parametrize("rows", [19, 21])
def test_arrays_whose_bytes_do_not_fit_their_shape_are_refused(rows, tmp_path):
    folder = batches(cifar.TEN, tmp_path / cifar.TEN.folder)
    shape = b"J%c\x00\x00\x00J\x00\x0c"
    content = pickled(planes_of(1, 20), [0] * rows, b"labels").replace(shape % 20, shape % rows)
    (folder / "data_batch_2").write_bytes(content)
    assert "data_batch_2 is not a CIFAR batch" in complaint(folder)


def test_arrays_in_column_order_are_refused(tmp_path):
    folder = batches(cifar.TEN, tmp_path / cifar.TEN.folder)
    fields = {b"data": np.asfortranarray(planes_of(1, 20)), b"labels": [0] * 20}
    (folder / "data_batch_2").write_bytes(pickle.dumps(fields, protocol=2))
    assert "data_batch_2 is not a CIFAR batch" in complaint(folder)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_mutated_pickles_are_batches_or_refused(edits, python3):
    content = pickled(planes_of(0, 2), [0, 1], b"labels")
    if python3:
        content = pickle.dumps({b"data": planes_of(0, 2), b"labels": [0, 1]}, protocol=4)
    mutated = bytearray(content)
    ends = [*range(300), *range(len(content) - 40, len(content))]  # mostly pixels lie between
    for where, value in edits:
        mutated[ends[min(int(where * len(ends)), len(ends) - 1)]] = value
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DataError):
        Path(folder, "test").write_bytes(mutated)
        Path(folder, "meta").write_bytes(pickle.dumps({b"names": [b"a", b"b"]}, protocol=2))
        found = read(Path(folder), {"test": "test", "meta": "meta"}, "meta", b"names", b"labels")[1]["test"]
        assert found.pixels.shape == (len(found.labels), 32, 32, 3)


def test_a_damaged_number_of_an_object_takes_no_memory(tmp_path):
    folder = batches(cifar.TEN, tmp_path / cifar.TEN.folder)
    content = pickle.dumps({b"data": planes_of(1, 20), b"labels": [0] * 20}, protocol=2)
    first = content.index(pickle.BINPUT, 2)
    (folder / "data_batch_2").write_bytes(
        content[:first] + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f" + content[first + 2 :]
    )
    assert "data_batch_2 is not a CIFAR batch: it numbers more objects than it has bytes" in complaint(folder)


def test_missing_batches_are_named(tmp_path):
    folder = batches(cifar.TEN, tmp_path / cifar.TEN.folder)
    (folder / "data_batch_4").unlink()
    (folder / "batches.meta").unlink()
    assert "does not contain data_batch_4, batches.meta" in complaint(folder)


def test_the_other_cifar_is_not_taken_for_this_one(tmp_path):
    archive = official_archive(cifar.HUNDRED, tmp_path, each=100)
    assert "contains neither images nor cifar-10-batches-py/test_batch" in complaint(archive)


def test_a_truncated_official_archive_is_refused(tmp_path):
    archive = official_archive(cifar.TEN, tmp_path)
    archive.write_bytes(archive.read_bytes()[:-5000])
    assert "damaged or incomplete" in complaint(archive)


def test_an_archive_in_the_store_is_verified_before_it_is_read(tmp_path, home):
    archive = official_archive(cifar.TEN, tmp_path)
    (home / "data/store").mkdir(parents=True)
    archive.rename(home / "data/store" / archive.name)
    said = complaint(None)
    assert f"sha256 expected {cifar.TEN.sha256}, got " in said
    assert "delete it" in said


def test_an_archive_put_into_the_store_needs_no_network(tmp_path, home, monkeypatch):
    archive = official_archive(cifar.TEN, tmp_path)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar, "TEN", dataclasses.replace(cifar.TEN, sha256=digest))
    (home / "data/store").mkdir(parents=True)
    archive.rename(home / "data/store" / archive.name)
    assert len(Cifar10().load(None).test) == 20


def test_without_network_and_data_it_is_said_what_to_do(home, monkeypatch):
    said = complaint(None)
    assert "http://127.0.0.1:9/none/cifar-10-python.tar.gz" in said
    assert str(home / "data/store/cifar-10-python.tar.gz") in said
    assert "--root PATH" in said


@pytest.mark.parametrize("form", ["folder", "a.tar.xz", "a.zip"])
def test_images_in_class_folders_are_taken_too(form, tmp_path):
    source = tree(tmp_path / "source", classes=TEN, each=2)
    root = source if form == "folder" else packed(source, tmp_path / form, below="top/")
    splits = Cifar10().load(root)
    assert splits.name == "CIFAR-10 (PNG)"
    assert splits.classes == tuple(TEN)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (10, 10, 20)
    first = int(splits.test.rows[0])
    assert np.array_equal(splits.test.pixels[first], noise(21))


def test_recompressed_images_are_reported_by_name(tmp_path):
    source = tree(tmp_path / "source", classes=TEN, each=2)
    for path in list(source.rglob("*.png")):
        path.with_suffix(".jpg").write_bytes(encoded(noise(1), "JPEG"))
        path.unlink()
    assert Cifar10().load(source).name == "CIFAR-10 (JPEG)"


def test_the_folders_train_and_test_are_no_batches_of_cifar_100(tmp_path):
    names = [f"class{number:03}" for number in range(100)]
    splits = Cifar100().load(tree(tmp_path / "source", classes=names, each=2, splits=("train", "test")))
    assert len(splits.classes) == 100


REFUSED = {
    "nine_classes": ({"classes": TEN[:9]}, "has 9 classes, but CIFAR-10 has 10"),
    "other_size": ({"classes": TEN, "size": (28, 30)}, "has 30 x 28 pixels, but CIFAR-10 has 32 x 32"),
    "no_splits": ({"classes": TEN, "splits": ("",)}, "but CIFAR-10 has train and test"),
    "three_splits": ({"classes": TEN, "splits": ("train", "val", "test")}, "but CIFAR-10 has train and test"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_trees_are_sent_to_image_folder(case, tmp_path):
    options, expected = REFUSED[case]
    said = complaint(tree(tmp_path / "source", each=2, **options))
    assert expected in said
    assert "use --data ImageFolder" in said


def test_classes_that_differ_are_named(tmp_path):
    source = tree(tmp_path / "source", classes=TEN, each=2)
    (source / "test/class03").rename(source / "test/other")
    said = complaint(source)
    assert "classes of train/ are missing in test/: class03" in said
    assert "classes of test/ are missing in train/: other" in said
