"""Sets that come packed into files: the same images as in a folder, whatever they are packed into."""

import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from core.common.errors import UserError
from core.common.paths import store
from data import Hdf5, HuggingFace, ImageFolder
from data.reading import ingest
from data.reading.decode import decode
from tests.support.optional import library
from tests.support.samples import encoded, noise, tree


@pytest.fixture
def h5py():
    return library("h5py", extra="hdf5")


@pytest.fixture
def lmdb():
    return library("lmdb", extra="lmdb")


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """Nothing is asked of the network while it is there."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    found = library("datasets", extra="huggingface")
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: pytest.fail("it asks the network"))
    return found


def complaint(dataset, root):
    with pytest.raises(UserError) as caught:
        dataset.load(root)
    return "\n".join(caught.value.lines)


def shown(splits):
    """split -> {(class, pixels)}, in any order."""
    return {
        split: sorted(
            (splits.classes[target], pixels.tobytes())
            for pixels, target in zip(part.pixels[part.rows], part.targets, strict=True)
        )
        for split, part in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }


def everything(splits):
    return sorted(image for part in shown(splits).values() for image in part)


def files(root):
    return sorted(path for path in root.rglob("*.png"))


@pytest.mark.parametrize(
    ("module", "extra", "dataset"),
    [("h5py", "hdf5", Hdf5()), ("datasets", "huggingface", HuggingFace()), ("lmdb", "lmdb", ImageFolder())],
)
def test_a_missing_library_is_one_line_with_its_extra(module, extra, dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    root = tmp_path / "set"
    root.write_bytes(bytes(16) + b"\xde\xc0\xef\xbe" + bytes(500))
    message = complaint(dataset, root)
    assert f'the library {module}, which is not installed; install it with pip install -e ".[{extra}]"' in message
    assert "\n" not in message


@pytest.mark.parametrize("dataset", [Hdf5(), HuggingFace()])
def test_without_root_it_says_what_is_expected(dataset):
    assert "add --root PATH\nexpected: " in complaint(dataset, None)


# LMDB


def lmdb_of(lmdb, source, target, subdir=True):
    with lmdb.open(str(target), subdir=subdir, map_size=1 << 24) as environment, environment.begin(write=True) as put:
        for path in files(source):
            put.put(path.relative_to(source).as_posix().encode(), path.read_bytes())
    (target / "lock.mdb" if subdir else target.with_name(f"{target.name}-lock")).unlink()
    return target


def beside(target):
    return sorted(path for path in [*target.parent.iterdir(), *target.rglob("*")] if path.name != "home")


@pytest.mark.parametrize("subdir", [True, False])
def test_an_lmdb_is_a_packed_folder_and_nothing_is_written_beside_it(lmdb, tmp_path, subdir):
    source = tree(tmp_path / "source", each=5)
    target = lmdb_of(lmdb, source, tmp_path / "packed.lmdb", subdir)
    before = beside(target)
    plain = ImageFolder(size=16).load(source)
    packed = ImageFolder(size=16).load(target)
    assert packed.digest == plain.digest  # one cache for both
    assert shown(packed) == shown(plain)
    assert beside(target) == before
    assert "is not a folder, which --data.cached false requires; unpack it" in complaint(
        ImageFolder(size=16, cached=False), target
    )
    alone = ImageFolder(size=24).load(target)  # decoded from the LMDB itself
    first = decode(files(source / "train" / "cat")[0].read_bytes(), "", 24)
    assert ("cat", first.tobytes()) in everything(alone)


def test_a_torn_or_unsafe_lmdb_is_refused(lmdb, tmp_path):
    source = tree(tmp_path / "source", each=5, size=(100, 100))
    torn = lmdb_of(lmdb, source, tmp_path / "torn.lmdb", False)
    os.truncate(torn, torn.stat().st_size // 2)  # a map beyond the end would kill the process
    assert "damaged or incomplete (the file has" in complaint(ImageFolder(size=16), torn)
    unsafe = tmp_path / "unsafe.lmdb"
    with lmdb.open(str(unsafe), map_size=1 << 20) as environment, environment.begin(write=True) as put:
        put.put(b"../../cat/1.png", b"x")
    assert "a name that points outside the archive" in complaint(ImageFolder(size=16), unsafe)


# HDF5


def h5_of(h5py, target, **datasets):
    with h5py.File(target, "w") as file:
        for name, values in datasets.items():
            file[name.replace("__", "/")] = values
    return target


def pictures(seed, count, side=12, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def test_arrays_with_labels_beside_them(h5py, tmp_path):
    pixels, labels = pictures(0, 40), np.arange(40) % 4
    path = h5_of(h5py, tmp_path / "a.h5", images=pixels, labels=labels, classes=["a", "b", "c", "d"])
    splits = Hdf5(size=12).load(path)
    assert splits.classes == ("a", "b", "c", "d")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (28, 4, 8)
    assert everything(splits) == sorted(("abcd"[n], p.tobytes()) for n, p in zip(labels, pixels, strict=True))
    other = h5_of(h5py, tmp_path / "b.h5", images=pixels, labels=(labels + 1) % 4, classes=["a", "b", "c", "d"])
    assert Hdf5(size=12).load(other).digest != splits.digest
    named = h5_of(h5py, tmp_path / "c.h5", images=pixels, labels=labels, classes=["d", "c", "b", "a"])
    assert Hdf5(size=12).load(named).digest != splits.digest
    assert Hdf5(size=12).load(named).classes == ("d", "c", "b", "a")


def test_groups_are_splits_and_gray_and_encoded_images_decode_as_files_do(h5py, tmp_path, monkeypatch):
    gray = pictures(1, 20, channels=1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for split, part in (("train", gray[:12]), ("validation", gray[12:16]), ("test", gray[16:])):
            file.create_dataset(f"{split}/x", data=part[..., 0], chunks=(2, 12, 12), compression="gzip")
            file[f"{split}/y"] = [b"cat" if n % 2 else b"dog" for n in range(len(part))]
    splits = Hdf5(size=24, images="x", labels="y").load(tmp_path / "a.h5")
    assert splits.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (12, 4, 4)
    assert np.array_equal(splits.test.pixels[splits.test.rows][0], decode(encoded(gray[16, ..., 0]), "", 24))
    contents = [encoded(noise(n, 30, 20), "JPEG") for n in range(20)]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        images = file.create_dataset("images", (20,), h5py.vlen_dtype(np.uint8))
        for row, content in enumerate(contents):
            images[row] = np.frombuffer(content, np.uint8)
        file["labels"] = np.arange(20) % 2
    splits = Hdf5(size=16).load(tmp_path / "b.h5")
    assert splits.classes == ("0", "1")
    found = {pixels for _, pixels in everything(splits)}
    assert found == {decode(content, "", 16).tobytes() for content in contents}
    monkeypatch.setattr(ingest, "build", lambda *arguments: pytest.fail("decoded again"))
    assert Hdf5(size=16).load(tmp_path / "b.h5").digest == splits.digest


def test_what_is_wrong_in_an_hdf5_is_listed_at_once(h5py, tmp_path):
    floats = h5_of(h5py, tmp_path / "a.h5", train__images=np.zeros((4, 8, 8)), train__labels=[0, 1, 0, 1],
                   test__images=pictures(0, 4), test__labels=[0, 1, 0])  # fmt: skip
    message = complaint(Hdf5(size=8), floats)
    assert "train/images is float64 [4, 8, 8]; store pixels as uint8" in message
    assert "test/images has 4 images, but test/labels has 3 labels" in message
    planes = h5_of(h5py, tmp_path / "b.h5", images=np.zeros((4, 3, 8, 8), np.uint8), labels=[0, 1, 0, 1])
    assert "store images channels last" in complaint(Hdf5(size=8), planes)
    assert "the file has no dataset nothing, it has images, labels" in complaint(Hdf5(size=8, images="nothing"), planes)
    labels = h5_of(h5py, tmp_path / "c.h5", images=pictures(0, 4), labels=[0, -1, 5, 1], classes=["a", "b"])
    message = complaint(Hdf5(size=8), labels)
    assert "all, index 1: label -1 is not in the range 0 to 1" in message
    assert "all, index 2: label 5 is not in the range 0 to 1" in message
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["images"] = h5py.ExternalLink("b.h5", "/images")
        file["labels"] = [0, 1, 0, 1]
    assert "images is a link; replace it by the object" in complaint(Hdf5(size=8), tmp_path / "d.h5")
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file.create_dataset("images", data=pictures(0, 4), chunks=(4, 12, 12, 3), fletcher32=True)
        file.create_dataset("labels", data=[7, 8, 7, 8], chunks=(4,), fletcher32=True)
    whole = (tmp_path / "g.h5").read_bytes()
    for part in (np.array([7, 8, 7, 8]).tobytes(), pictures(0, 4).tobytes()[:32]):
        assert part in whole
        (tmp_path / "g.h5").write_bytes(whole.replace(part, bytes(len(part))))
        message = complaint(Hdf5(size=8), tmp_path / "g.h5")
        assert "g.h5 is damaged or incomplete" in message
        assert "\n" not in message
    (tmp_path / "e.h5").write_text("no HDF5")
    assert "cannot be read as an HDF5 file" in complaint(Hdf5(size=8), tmp_path / "e.h5")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        images = file.create_dataset("images", (4,), h5py.vlen_dtype(np.uint8))
        for row in range(4):
            images[row] = np.frombuffer(b"broken" if row % 2 else encoded(noise(row)), np.uint8)
        file["labels"] = [0, 1, 0, 1]
    message = complaint(Hdf5(size=8), tmp_path / "f.h5")
    assert "2 of 4 images cannot be read" in message
    assert "all/00000001: " in message
    assert "all/00000003: " in message


# Hugging Face


def saved(datasets, target, **splits):
    """splits: name -> [(encoded image, label)]."""
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    made = {
        name: datasets.Dataset.from_dict(
            {
                "image": [image and {"bytes": image, "path": None} for image, _ in rows],
                "label": [label for _, label in rows],
            },
            features=kinds,
        )
        for name, rows in splits.items()
    }
    (made["all"] if list(made) == ["all"] else datasets.DatasetDict(made)).save_to_disk(str(target))
    return target


def rows(first, count):
    return [(encoded(noise(first + n, 20, 30)), n % 2) for n in range(count)]


def test_a_saved_hugging_face_set_is_read_without_network_or_pickle(datasets, tmp_path, monkeypatch):
    import pickle

    contents = {"train": rows(0, 10), "validation": rows(20, 4), "test": rows(40, 4)}
    root = saved(datasets, tmp_path / "set", **contents)
    for module in (pickle, sys.modules["dill"]):
        for name in ("load", "loads"):
            monkeypatch.setattr(module, name, lambda *arguments, **options: pytest.fail("it unpickles"))
    splits = HuggingFace(size=16).load(root)
    assert splits.classes == ("dog", "cat")
    for split, part in zip(("train", "validation", "test"), shown(splits).values(), strict=True):
        expected = [(("dog", "cat")[label], decode(image, "", 16).tobytes()) for image, label in contents[split]]
        assert part == sorted(expected)
    whole = HuggingFace(size=16).load(saved(datasets, tmp_path / "one", all=rows(0, 20)))
    assert (len(whole.train), len(whole.val), len(whole.test)) == (14, 2, 4)
    assert whole.digest != splits.digest


def test_what_is_wrong_in_a_saved_set_is_reported(datasets, tmp_path):
    broken = [(b"none", 0), *rows(0, 4), (b"more", 1)]
    message = complaint(HuggingFace(size=16), saved(datasets, tmp_path / "a", train=broken, test=rows(9, 4)))
    assert "2 of 10 images cannot be read" in message
    assert "train/00000000: " in message
    assert "train/00000005: " in message
    message = complaint(HuggingFace(size=16, images="pic", labels="image"), tmp_path / "a")
    assert "train has no feature pic of type Image (it has image: Image, label: ClassLabel)" in message
    assert "train has no feature image of type ClassLabel" in message
    assert "use --data.images image" in message
    assert "use --data.labels label" in message
    unlabeled = datasets.Dataset.from_dict({"image": [encoded(noise(1))], "label": [1]})
    unlabeled.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "n"))
    assert "use class_encode_column('label') and save it again" in complaint(HuggingFace(size=16), tmp_path / "n")
    unlabeled = saved(datasets, tmp_path / "b", train=[*rows(0, 4), (encoded(noise(1)), None)], test=rows(9, 4))
    assert "train, index 4: label -1 is not in the range 0 to 1" in complaint(HuggingFace(size=16), unlabeled)
    assert "the train split is missing, the splits are test" in complaint(
        HuggingFace(size=16), saved(datasets, tmp_path / "c", test=rows(0, 4))
    )
    lacking = saved(datasets, tmp_path / "d", train=[*rows(0, 4), (None, 1)], test=rows(9, 4))
    assert "images that are missing or stored as paths" in complaint(HuggingFace(size=16), lacking)
    assert "cannot be read as a saved Hugging Face dataset" in complaint(HuggingFace(size=16), tmp_path / "home")


def repository(stored, datasets, target):
    """A folder of Parquet files with the splits of a saved set, as a repository of the hub has them."""
    (target / "data").mkdir(parents=True)
    for split, table in datasets.load_from_disk(str(stored)).items():
        table.to_parquet(target / "data" / f"{split}-00000-of-00001.parquet")
    return target


def copies():
    """The files that the library has copied images to, of all data sets."""
    return list(store().rglob("*.arrow"))


def test_a_stream_is_the_same_data_without_a_copy_on_disk(datasets, tmp_path):
    contents = {"train": rows(0, 70), "validation": rows(80, 4), "test": rows(90, 4)}
    stored = saved(datasets, tmp_path / "set", **contents)
    root = repository(stored, datasets, tmp_path / "repository")
    streamed = HuggingFace(size=16, streaming=True).load(root)
    assert not copies()
    shutil.rmtree(store() / "cache")
    expected = HuggingFace(size=16).load(root)
    assert copies()
    assert shown(streamed) == shown(expected)
    assert streamed.digest == expected.digest
    assert HuggingFace(size=16, streaming=True).load(stored).digest == expected.digest  # a saved set is not copied
    alone = HuggingFace(size=16, streaming=True).load(root / "data" / "train-00000-of-00001.parquet")
    assert (len(alone.train) + len(alone.val) + len(alone.test)) == 70


def test_a_dataset_of_the_hub_is_streamed_once(datasets, tmp_path, monkeypatch):
    message = complaint(HuggingFace(name="labbook/tiny", streaming=True), None)
    assert message.startswith("labbook/tiny cannot be read from the hub (")
    assert message.endswith("; start it once where there is a network, or name a saved copy with --root")
    stored = saved(datasets, tmp_path / "set", train=rows(0, 20), test=rows(90, 4))
    root = repository(stored, datasets, tmp_path / "repository")
    ours, load = [], datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, *rest, **how: ours.append(name) or load(str(root), **how)
    )
    data = HuggingFace(name="labbook/tiny", streaming=True, size=16)
    splits = data.load(None)
    assert splits.name == "tiny"
    assert shown(splits) == shown(HuggingFace(size=16).load(stored))
    assert data.load(None).digest == splits.digest
    assert ours == ["labbook/tiny"]  # the second time, nothing is asked


def test_what_is_wrong_in_a_stream_is_reported(datasets, tmp_path):
    def said(name, **fields):
        return complaint(HuggingFace(size=16, streaming=True, **fields), tmp_path / name)

    broken = [(b"none", 0), *rows(0, 4), (b"more", 1)]
    for name, train in (("a", broken), ("b", [*rows(0, 4), (rows(0, 1)[0][0], None)]), ("c", [*rows(0, 4), (None, 1)])):
        repository(saved(datasets, tmp_path / f"{name}_", train=train, test=rows(9, 4)), datasets, tmp_path / name)
    message = said("a")
    assert "2 of 10 images cannot be read" in message
    assert "train/00000005: " in message
    assert "train has no feature pic of type Image (it has image: Image, label: ClassLabel)" in said("a", images="pic")
    assert "train, index 4: label -1 is not in the range 0 to 1" in said("b")
    assert "images that are missing or stored as paths" in said("c")
    skipped = HuggingFace(size=16, streaming=True, skip_unreadable=True).load(tmp_path / "a")
    whole = HuggingFace(size=16, skip_unreadable=True).load(tmp_path / "a_")
    assert (shown(skipped), skipped.digest) == (shown(whole), whole.digest)
    for path in (tmp_path / "c").rglob("train*"):  # the footer, which has the features, is whole
        content = path.read_bytes()
        path.write_bytes(content[:4] + bytes(2000) + content[2004:])
    assert "c: reading train stopped after 0 images (" in said("c")


def test_parquet_files_and_the_cache_of_the_hub_hold_the_same_set(datasets, tmp_path, monkeypatch):
    contents = {"train": rows(0, 10), "validation": rows(20, 4), "test": rows(40, 4)}
    stored = saved(datasets, tmp_path / "set", **contents)
    expected = HuggingFace(size=16).load(stored)
    root = repository(stored, datasets, tmp_path / "repository")
    assert shown(HuggingFace(size=16).load(root)) == shown(expected)

    # as load_dataset("labbook/tiny") leaves it, where there is a network
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    message = complaint(HuggingFace(name="labbook/tiny"), None)
    assert "labbook/tiny is not in the cache of Hugging Face datasets (" in message
    assert "datasets.load_dataset('labbook/tiny')" in message
    loaded = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "hf"))
    source = Path(loaded["train"].cache_files[0]["filename"]).parent
    target = tmp_path / "hub" / "labbook___tiny" / "default" / "0.0.0" / source.name
    shutil.copytree(source, target)
    for path in target.glob("*.arrow"):
        path.rename(target / path.name.replace("repository-", "tiny-"))
    splits = HuggingFace(name="labbook/tiny", size=16).load(None)
    assert shown(splits) == shown(expected)
    assert splits.name == "tiny"
    assert "either --root PATH or its name on the hub" in complaint(HuggingFace(name="labbook/tiny"), root)
