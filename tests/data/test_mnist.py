"""MNIST and Fashion-MNIST: small files of the official form, served, put there, and spoilt."""

import functools
import gzip
import hashlib
import http.server
import threading
from dataclasses import replace

import numpy as np
import pytest

from core.common.errors import DataError
from data import FashionMnist, Mnist, mnist

COUNTS = (60, 20)


def idx(array):
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sides + array.tobytes()


def arrays(official=mnist.MNIST):
    random = np.random.default_rng(len(official.title))
    found = []
    for count in COUNTS:
        labels = (np.arange(count) % 10).astype(np.uint8)
        labels[:8] = official.begins
        found += [random.integers(0, 256, (count, 28, 28), dtype=np.uint8), labels]
    return found


def files(folder, official=mnist.MNIST, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(mnist.FILES, arrays(official), strict=True):
        content = gzip.compress(idx(array), mtime=0) if packed else idx(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """The official data sets, as small as `files` makes them."""
    for name in ("MNIST", "FASHION"):
        official = getattr(mnist, name)
        folder = files(tmp_path / "official" / official.folder, official)
        sha256 = tuple(hashlib.sha256((folder / f"{name}.gz").read_bytes()).hexdigest() for name in mnist.FILES)
        monkeypatch.setattr(mnist, name, replace(official, counts=COUNTS, sha256=sha256))
    return tmp_path / "official"


@pytest.fixture
def server(small):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=small))
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()
    thread.join()


def complaint(root, dataset=None):
    with pytest.raises(DataError) as caught:
        (dataset or Mnist()).load(root)
    return "\n".join(caught.value.lines)


def test_they_are_fetched_from_a_mirror_once_and_are_not_mixed_up(server, monkeypatch):
    monkeypatch.setenv("LABBOOK_MNIST_URL", f"{server}/")
    one, other = Mnist().load(None), FashionMnist().load(None)
    assert (one.name, other.name, other.classes[9]) == ("MNIST", "Fashion-MNIST", "Ankle boot")
    assert one.digest != other.digest
    monkeypatch.setenv("LABBOOK_MNIST_URL", "http://127.0.0.1:9/none")
    assert Mnist().load(None).digest == one.digest


def test_the_next_mirror_is_asked_where_one_is_down(server, monkeypatch):
    monkeypatch.delenv("LABBOOK_MNIST_URL")
    mirrors = ("http://127.0.0.1:9/none", f"{server}/mnist")
    monkeypatch.setattr(mnist, "MNIST", replace(mnist.MNIST, mirrors=mirrors))
    assert len(Mnist().load(None).test) == 20


def test_without_network_it_is_said_what_to_do(home):
    said = complaint(None)
    assert "http://127.0.0.1:9/none/mnist/train-images-idx3-ubyte.gz" in said
    assert str(home / "data/store/mnist/train-images-idx3-ubyte.gz") in said
    assert "--root PATH" in said


def test_rows_are_the_stored_images_and_labels(tmp_path):
    splits = Mnist().load(files(tmp_path / "a"))
    train, train_labels, test, test_labels = arrays()
    assert (len(splits.train), len(splits.val), splits.train.shape) == (50, 10, (28, 28, 1))
    pixels, labels = np.concatenate([train, test]), np.concatenate([train_labels, test_labels])
    for images in (splits.train, splits.val, splits.test):
        assert np.array_equal(images.pixels[images.rows, ..., 0], pixels[images.rows])
        assert np.array_equal(images.targets, labels[images.rows])
    assert np.array_equal(splits.test.rows, np.arange(60, 80))


def test_gzipped_or_not_and_wherever_torchvision_puts_them_they_are_the_same(tmp_path):
    roots = [files(tmp_path / "a"), files(tmp_path / "b", packed=False), tmp_path / "c", tmp_path / "d"]
    files(tmp_path / "c/MNIST/raw")
    files(tmp_path / "d", packed=False)
    for name in mnist.FILES:
        (tmp_path / "d" / name).rename(tmp_path / "d" / name.replace("-idx", ".idx"))
    assert len({Mnist().load(root).digest for root in roots}) == 1


def test_gray_is_repeated_where_three_channels_are_declared(tmp_path):
    root = files(tmp_path / "a")
    gray, color = Mnist().load(root), Mnist(channels=3).load(root)
    assert color.train.shape == (28, 28, 3)
    assert np.array_equal(color.test.pixels, np.repeat(gray.test.pixels, 3, axis=3))
    assert gray.digest != color.digest


def edited(name, edit, packed=False):
    def change(folder):
        path = folder / name
        content = edit(path.read_bytes())
        path.write_bytes(gzip.compress(content) if packed else content)

    return change


def renamed(folder):
    (folder / mnist.FILES[3]).unlink()
    (folder / mnist.FILES[0]).unlink()


IMAGES, LABELS = mnist.FILES[:2]
SPOILT = {
    "truncated": (edited(IMAGES, lambda raw: raw[:-100]), f"{IMAGES} is truncated: 46,956 of 47,056 bytes"),
    "truncated_in_gzip": (edited(IMAGES, lambda raw: raw[:-1], packed=True), f"{IMAGES} is truncated"),
    "gzip_cut": (edited(IMAGES, lambda raw: gzip.compress(raw)[:-400]), f"{IMAGES} is damaged or incomplete"),
    "too_long": (edited(IMAGES, lambda raw: raw + b"x"), f"{IMAGES} has extra bytes after its data"),
    "magic": (
        edited(LABELS, lambda raw: b"\0\0\x0d\1" + raw[4:]),
        f"{LABELS} is not an IDX file: it starts with 00000d01",
    ),
    "empty": (edited(LABELS, lambda raw: b""), f"{LABELS} is not an IDX file: it starts with nothing"),
    "count": (edited(LABELS, lambda raw: idx(np.zeros(59, np.uint8))), f"{LABELS} has the shape 59, expected 60"),
    "size": (
        edited(IMAGES, lambda raw: idx(np.zeros((60, 32, 32), np.uint8))),
        "has the shape 60 x 32 x 32, expected 60 x 28 x 28",
    ),
    "label": (
        edited(LABELS, lambda raw: raw[:-1] + b"\x0a"),
        f"{LABELS} has the label 10 at index 59; labels must be 0 to 9",
    ),
    "missing": (renamed, f"does not contain {mnist.FILES[0]}, {mnist.FILES[3]}"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_files_are_refused_by_name(case, tmp_path):
    change, expected = SPOILT[case]
    root = files(tmp_path / "a", packed=False)
    change(root)
    assert expected in complaint(root)


def test_all_spoilt_files_are_reported_at_once(tmp_path):
    root = files(tmp_path / "a", packed=False)
    for name in mnist.FILES:
        (root / name).write_bytes(b"<html>404</html>")
    assert complaint(root).count("starts with 3c68746d") == 4


def test_the_files_of_the_other_data_set_are_not_taken_for_this_one(tmp_path):
    said = complaint(files(tmp_path / "a", mnist.FASHION), Mnist())
    assert "starts with the labels (9, 0, 0, 3, 0, 2, 7, 2), but MNIST with" in said


def test_a_file_in_the_store_is_verified_before_it_is_read(home):
    files(home / "data/store/mnist", mnist.FASHION)
    assert complaint(None).count("is not the official file") == 4
