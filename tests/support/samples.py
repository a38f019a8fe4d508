"""Small trees, archives and official batches, made by the tests."""

import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from data import Digits

ROOT = Path(__file__).resolve().parents[2]


def noise(seed, height=32, width=32):
    """uint8 [H, W, 3]"""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels, form="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def tree(folder, classes=("cat", "dog"), each=4, splits=("train", "test"), size=(32, 32)):
    """A folder of PNG files split/class/n.png; splits=("",): class folders alone."""
    seed = 0
    for split in splits:
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for number in range(each):
                seed += 1
                (folder / split / name / f"{number:02}.png").write_bytes(encoded(noise(seed, *size)))
    return folder


def packed(folder, target, below=""):
    """The folder as an archive, by the suffix of the target; below: a folder around everything, "name/"."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for path in files:
                archive.write(path, below + path.relative_to(folder).as_posix())
        return target
    compression = target.suffix.removeprefix(".").replace("tar", "")
    with tarfile.open(target, f"w:{compression}") as archive:
        for path in reversed(files):  # the order in an archive is not that of the names
            archive.add(path, below + path.relative_to(folder).as_posix())
    return target


def planes_of(seed, count):
    """uint8 [count, 3072]: what the batch of this number holds."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def pickled(data, labels, labels_field):
    """A batch as the official files have it, written by Python 2: all text as byte strings."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _number(0) + b"\x85" + _text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + _text(b"u1") + _number(0) + _number(1) + b"\x87R("
    kind += _number(3) + _text(b"|") + b"NNN" + _number(-1) + _number(-1) + _number(0) + b"tb"
    shape = _number(data.shape[0]) + _number(data.shape[1]) + b"\x86"
    array += b"(" + _number(1) + shape + kind + b"\x89T" + struct.pack("<i", data.nbytes) + data.tobytes() + b"tb"
    listed = b"](" + b"".join(map(_number, labels)) + b"e"
    return b"\x80\x02}(" + _text(b"data") + array + _text(labels_field) + listed + b"u."


def _text(value):
    return b"U" + bytes([len(value)]) + value


def _number(value):
    return b"J" + struct.pack("<i", value)


def batches(official, folder, each=20):
    """The official files with few images: `each` in every batch, labels in turn."""
    folder.mkdir(parents=True)
    labels = [number % official.classes for number in range(each)]
    for seed, name in enumerate((*official.train, official.test)):
        (folder / name).write_bytes(pickled(planes_of(seed, each), labels, official.labels))
    names = [f"class{number:02}".encode() for number in range(official.classes)]
    (folder / official.meta).write_bytes(pickle.dumps({official.names: names}, protocol=2))
    return folder


def age(path, seconds=100):
    """Another time of change, for file systems that count in whole seconds."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def table_of_labels(folder):
    """The path of a table of 200 digits that are even, large, both or neither, written with its images to `folder`."""
    images = Digits().load(None).train.take(np.arange(200))
    lines = ["path,label"]
    for number, (row, label) in enumerate(zip(images.rows.tolist(), images.targets.tolist(), strict=True)):
        Image.fromarray(images.pixels[row, ..., 0]).save(folder / f"{number:03}.png")
        lines.append(f"{number:03}.png,{'|'.join(['even'] * (label % 2 == 0) + ['large'] * (label > 4))}")
    table = folder / "all.csv"
    table.write_text("\n".join(lines))
    return table
