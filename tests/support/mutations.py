"""Damaged image files, each a function of its number, and what must become of them.

`python -m tests.support.mutations FIRST COUNT FOLDER` decodes COUNT of them and loads them as an ImageFolder, in a
process of its own so that a crash or a hang is seen from outside; `examine` is that outside.
"""

from __future__ import annotations

import functools
import io
import os
import queue
import random
import resource
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from core.common.errors import DataError
from data import ImageFolder
from data.reading.decode import Unreadable, decode
from tests.support.samples import noise, tree

PATIENCE = 60.0  # s for one image, on a machine that others use too
MOST_MEMORY = 3 << 30
NAMED = 50  # unreadable files that ImageFolder names one by one
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif", "PPM": "ppm"}
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Wrong(AssertionError):
    """A damaged file that was neither decoded to what it declares nor refused by name."""


@functools.cache
def corpus() -> tuple[tuple[str, bytes], ...]:
    """(format, file) in many of the ways that each format knows."""
    rows, columns = np.mgrid[:40, :48]
    colors = np.stack([columns * 5, rows * 6, (rows + columns) * 2], -1).astype(np.uint8)
    pictures = {
        "smooth": Image.fromarray(colors),
        "noise": Image.fromarray(noise(0, 24, 32)),
        "gray": Image.fromarray(colors[..., 0]),
        "palette": Image.fromarray(colors).quantize(32),
        "alpha": Image.fromarray(np.dstack([colors, colors[..., :1]])),
        "cmyk": Image.fromarray(colors).convert("CMYK"),
        "deep": Image.fromarray(colors[..., 0].astype(np.uint16) << 8),
        "bits": Image.fromarray(colors[..., 0] > 99),
    }
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = {"save_all": True, "append_images": [pictures["smooth"].transpose(Image.Transpose.ROTATE_180)]}
    ways = [
        ("JPEG", "smooth noise gray cmyk", [{}, {"progressive": True}, {"exif": turned}]),
        ("PNG", "smooth noise gray palette alpha deep bits", [{}]),
        ("GIF", "smooth palette gray", [{}, frames]),
        ("BMP", "smooth gray palette bits alpha", [{}]),
        ("WEBP", "smooth alpha", [{}, {"lossless": True}, frames]),
        ("TIFF", "smooth gray palette alpha deep cmyk bits", [{}, {"compression": "tiff_lzw"}]),
        ("TIFF", "smooth deep", [{"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}]),
        ("PPM", "smooth gray bits deep", [{}]),
    ]
    return tuple(
        (form, _saved(pictures[name], form, options))
        for form, names, variants in ways
        for name in names.split()
        for options in variants
    )


def _saved(picture: Image.Image, form: str, options: dict) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def mutated(number: int) -> tuple[str, bytes, bytes | None]:
    """(name, damaged content, the whole content where the damage is a cut and nothing else)."""
    luck = random.Random(f"image {number}")
    form, whole = luck.choice(corpus())
    content = bytearray(whole)
    kinds = luck.choices([_flip, _set, _cut, _splice, _field, _drop], k=luck.choice([1, 1, 1, 2, 3]))
    for kind in kinds:
        content = kind(content, luck) or content[:1]
    return f"{number:06}.{SUFFIXES[form]}", bytes(content), whole if kinds == [_cut] else None


def _place(content: bytearray, luck: random.Random) -> int:
    """Anywhere; half of the time in the header, where damage tells."""
    return luck.randrange(min(len(content), 64) if luck.random() < 0.5 else len(content))


def _flip(content: bytearray, luck: random.Random) -> bytearray:
    for _ in range(luck.choice([1, 1, 2, 8, 30])):
        content[_place(content, luck)] ^= 1 << luck.randrange(8)
    return content


def _set(content: bytearray, luck: random.Random) -> bytearray:
    for _ in range(luck.choice([1, 1, 4])):
        content[_place(content, luck)] = luck.choice([0, 0xFF, luck.randrange(256)])
    return content


def _cut(content: bytearray, luck: random.Random) -> bytearray:
    return content[: luck.randrange(len(content))]


def _splice(content: bytearray, luck: random.Random) -> bytearray:
    """A piece of any file, put in or written over what stands there."""
    donor = luck.choice(corpus())[1]
    start = luck.randrange(len(donor))
    piece = donor[start : start + luck.randint(1, 200)]
    at = _place(content, luck)
    return content[:at] + piece + content[at + luck.choice([0, len(piece)]) :]


def _field(content: bytearray, luck: random.Random) -> bytearray:
    """A number in the header, 2 or 4 bytes, to an end of its range."""
    size, at = luck.choice([2, 4]), luck.randrange(min(len(content), 80))
    value = luck.choice(INTERESTING) & ((1 << 8 * size) - 1)
    content[at : at + size] = value.to_bytes(size, luck.choice(["big", "little"]))
    return content


def _drop(content: bytearray, luck: random.Random) -> bytearray:
    at = _place(content, luck)
    return content[:at] + content[at + luck.choice([1, 2, 12, 64]) :]


def judged(number: int, size: int | None) -> bool:
    """Whether it was decoded; False where it was refused. Raises Wrong, or whatever decode should not raise."""
    name, content, whole = mutated(number)
    try:
        pixels = decode(content, name, size)
    except Unreadable as refusal:
        if len(refusal.lines) != 1 or not refusal.lines[0].startswith(f"{name}: ") or len(refusal.lines[0]) < 15:
            raise Wrong(f"refused without its name or a reason: {refusal.lines}") from None
        return False
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise Wrong(f"decoded to {pixels.dtype} {pixels.shape}")
    with Image.open(io.BytesIO(content)) as header:
        sides = {size} if size else set(header.size)
    if set(pixels.shape[:2]) != sides:
        raise Wrong(f"decoded to {pixels.shape[:2]}, it declares {sides}")
    if whole is not None and not np.array_equal(pixels, decode(whole, name, size)):
        raise Wrong("cut off, it was decoded to other pixels without a word")
    return True


def examine(first: int, count: int, folder: Path) -> list[str]:
    """What went wrong with the images from number `first` on: crashes, hangs, silence. One process for all."""
    environment = os.environ | {"LABBOOK_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "tests.support.mutations", str(first), str(count), str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    said: queue.Queue[str | None] = queue.Queue()
    listener = threading.Thread(target=_listen, args=(child.stdout, said), daemon=True)
    complaints: list[str] = []
    reader = threading.Thread(target=lambda: complaints.extend(child.stderr), daemon=True)  # type: ignore[arg-type]
    listener.start()
    reader.start()
    wrong, at = [], "its start"
    try:
        while (line := said.get(timeout=PATIENCE)) is not None:
            if line.startswith("at "):
                at = line.removeprefix("at ")
            else:
                wrong.append(line)
        if child.wait(PATIENCE):
            reader.join(5)
            how = signal.Signals(-child.returncode).name if child.returncode < 0 else f"status {child.returncode}"
            wrong.append(f"{at}: the process ended with {how}\n{''.join(complaints)[-2000:]}")
    except queue.Empty:
        wrong.append(f"{at}: it hung")
    finally:
        child.kill()
        child.wait()
    return wrong


def _listen(stream, said: queue.Queue[str | None]) -> None:
    for line in stream:
        said.put(line.rstrip("\n"))
    said.put(None)


def main(first: int, count: int, folder: Path) -> None:
    """The inside: "at WHERE" before each step, and a line for everything that is wrong."""
    warnings.simplefilter("ignore")
    for start in range(first, first + count, NAMED):
        _examined(range(start, min(start + NAMED, first + count)), folder / str(start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > MOST_MEMORY:
        print(f"{first} to {first + count - 1}: {peak >> 20} MiB of memory", flush=True)


def _examined(numbers: range, folder: Path) -> None:
    source = tree(folder)
    refused = []
    for number in numbers:
        print(f"at {number}", flush=True)
        name, content, _ = mutated(number)
        (source / "train" / "cat" / name).write_bytes(content)
        try:
            judged(number, None)
            if not judged(number, 16):
                refused.append(f"train/cat/{name}")
        except Exception as error:
            print(f"{number}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
    print(f"at the folder of {numbers[0]} to {numbers[-1]}", flush=True)
    for complaint in _loaded(source, refused, 16 + len(numbers)):
        print(f"{numbers[0]} to {numbers[-1]}: {complaint}", flush=True)


def _loaded(source: Path, refused: list[str], total: int) -> list[str]:
    """What is wrong with what ImageFolder says of the same files; `refused` are those that decode refuses."""
    try:
        ImageFolder(size=16).load(source)
        named: list[str] = []
    except DataError as error:
        named = [line.partition(": ")[0] for line in error.lines[1:-1]]
    splits = ImageFolder(size=16, skip_unreadable=True).load(source)
    left = sum(len(split) for split in (splits.train, splits.val, splits.test))
    wrong = []
    if sorted(named) != sorted(refused):
        wrong.append(f"refused {sorted(refused)}, but named {sorted(named)}")
    if left != total - len(refused):
        wrong.append(f"{left} of {total} images are left, {len(refused)} were refused")
    return wrong


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
