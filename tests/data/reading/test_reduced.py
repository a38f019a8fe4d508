"""Photographs that are kept as smaller JPEG files."""

import errno
import io
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.augment import RandomResizedCrop
from core.common.errors import DataError, ImageLost, UserError
from core.launch import Launch
from core.record.run import WEIGHTS
from core.runs.rerun import rerun_here
from core.runs.train import train
from data import ImageFolder, caches
from data.check.labels import reduced_pixels
from data.reading import disk, growing, ingest
from data.reading.decode import AS_DECLARED, decode, decode_crop
from data.reading.frame import RAW, Frame, Reduced, encoded
from data.reading.growing import PROGRESS
from experiments.tiny import EXPERIMENT
from tests.support.samples import noise, packed, tree
from tests.support.slow_reading import found, slow_reading

SIZE = 32  # of which photographs are kept with a shorter side of 37


def photographs(folder, each=6, sides=(300, 200)):
    for place, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            coarse = Image.fromarray(noise(10 * place + number, 6, 6))
            image = coarse.resize(sides, Image.Resampling.BICUBIC)
            image.save(folder / name / f"{number}.jpg", quality=95)
    return folder


def kept(root, **fields):
    return ImageFolder(**{"size": 96, "cached": "resized"} | fields).load(root)


def stored(home):
    (folder,) = [path.parent for path in (home / "data/store/cache").glob("*/index.json")]
    return folder


def middle(height, width):
    assert (height, width) in ((110, 165), (200, 300))  # 96 * 8 / 7, and its aspect ratio
    return height // 4, width // 3, height // 2, width // 2


def test_images_and_crops_are_those_of_the_files_within_what_jpeg_loses(tmp_path):
    root = photographs(tmp_path / "pictures")
    near, files = kept(root).train, ImageFolder(size=96, cached=False).load(root).train
    assert near.shape == files.shape == (96, 96, 3)
    for row in near.rows.tolist():
        assert np.abs(near.pixels[row].astype(int) - files.pixels[row]).mean() < 2
        ours, theirs = near.pixels.crop(row, middle), files.pixels.crop(row, middle)
        assert np.abs(ours.astype(int) - theirs).mean() < 3
    assert np.array_equal(near.targets, files.targets)


def test_the_files_are_jpeg_of_quality_95_and_small_images_are_kept_as_they_are(tmp_path, home):
    pixels = kept(photographs(tmp_path / "pictures")).train.pixels
    image = Image.open(io.BytesIO(pixels.content(0)))
    expected = io.BytesIO()
    Image.new("RGB", (8, 8)).save(expected, "JPEG", quality=95)
    assert (image.format, image.size) == ("JPEG", (165, 110))
    assert image.quantization == Image.open(expected).quantization
    source = tree(tmp_path / "small", size=(17, 20))
    few = kept(source, size=16).test
    exact = ImageFolder(size=16).load(source).test
    assert np.array_equal(few.pixels[few.rows], exact.pixels[exact.rows])


@pytest.mark.parametrize(
    ("frame", "sides", "reduced"),
    [
        (Frame(224, 224), (500, 400), (320, 256)),
        (Frame(224, 224), (400, 500), (256, 320)),
        (Frame(224, 224), (250, 250), (250, 250)),
        (Frame(224, 224, "bicubic", 300), (800, 600), (400, 300)),
        (Frame(112, 224), (800, 800), (256, 256)),
        (Frame(224, 112), (1000, 512), (500, 256)),
    ],
)
def test_the_center_and_crops_of_a_frame_are_within_what_is_kept(frame, sides, reduced):
    assert Reduced.to(frame).cut(Image.new("RGB", sides)).size == reduced


def test_small_pixels_and_large_ones_come_back():
    for side in (1, 73, 74, 200):
        smooth = np.asarray(Image.fromarray(noise(side, 4, 4)).resize((side, side), Image.Resampling.BICUBIC))
        again = decode(encoded(smooth), "").astype(int)
        assert np.abs(again - smooth).max() <= (0 if smooth.nbytes <= RAW else 24)


def test_a_second_start_decodes_nothing_and_workers_get_the_same_pixels(tmp_path, monkeypatch):
    root = photographs(tmp_path / "pictures")
    first = kept(root)
    assert first.digest != ImageFolder(size=96).load(root).digest
    monkeypatch.setattr(ingest, "decoded", lambda *arguments: pytest.fail("decoded again"))
    assert kept(root).digest == first.digest
    there = pickle.loads(pickle.dumps(first.train))
    assert len(pickle.dumps(first.train)) < 5000
    assert np.array_equal(there.pixels[there.rows], first.train.pixels[first.train.rows])


@pytest.mark.parametrize("frame", [{}, {"resize_size": 100, "interpolation": "bicubic"}, {"size": "64x96"}])
def test_check_reads_a_file_to_the_pixels_whose_answers_are_on_record(frame, tmp_path):
    root = photographs(tmp_path / "pictures")
    images = kept(root, **frame)
    frame = images.train.pixels.frame
    found = {reduced_pixels(path, path.name, frame, AS_DECLARED).tobytes() for path in root.rglob("*.jpg")}
    assert {images.val.pixels[row].tobytes() for row in images.val.rows.tolist()} <= found


def test_an_archive_shares_the_cache_of_its_folder(tmp_path, home):
    root = photographs(tmp_path / "pictures")
    assert kept(root).digest == kept(packed(root, tmp_path / "a.zip")).digest
    assert stored(home)


def test_a_run_on_reduced_images_is_repeated_to_the_bit(tmp_path, home):
    root = photographs(tmp_path / "pictures", each=12)
    data = ImageFolder(size=SIZE, cached="resized")
    declared = EXPERIMENT.but({"data": data, "augment": (RandomResizedCrop(),), "batch_size": 8, "epochs": 1})
    launch = Launch(threads=1, mlflow=False, root=root, workers=0)
    runs = [train(declared, launch, "tiny")]
    assert runs[0].record["declaration"]["data"]["cached"] == "resized"
    runs.append(rerun_here(runs[0], launch))
    first, second = (load_file(run.folder / "artifacts" / WEIGHTS) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def start(forge):
    """Starts a process that reads the folder, taking some time for each image."""
    declared = 'ImageFolder(size=96, cached="resized")'
    return lambda root, slow: slow_reading(forge, root, slow, declared, batch_images=4)


def contents(home):
    return (stored(home) / "pixels.npy").read_bytes()


def test_a_killed_build_is_continued(start, tmp_path, home):
    root = photographs(tmp_path / "pictures", each=20)
    killed = start(root, 0.1)
    parts = home / "data/store/cache"
    until(lambda: any(path.read_bytes().count(b"\n") > 1 for path in parts.glob(f"tmp-*/{PROGRESS}")))
    killed.kill()
    killed.wait(20)
    ImageFolder(size=24).load(tree(tmp_path / "other"))  # whose build does not sweep it away
    shutil.rmtree(next(path.parent for path in parts.glob("*/index.json")))
    again = start(root, 0.0)
    count, digest = found(again)
    assert 0 < int(count) < 40, again.text
    assert "continuing after" in again.text
    assert not list(parts.glob("tmp-*"))
    once = contents(home)
    assert not (stored(home) / PROGRESS).exists()
    shutil.rmtree(parts)
    assert kept(root).digest == digest
    assert contents(home) == once


def until(condition):
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_processes_at_once_build_one_cache(start, tmp_path):
    root = photographs(tmp_path / "pictures")
    both = [start(root, 0.05), start(root, 0.05)]
    counts, digests = zip(*map(found, both), strict=True)
    assert sorted(counts) == ["0", "12"]
    assert len(set(digests)) == 1


@pytest.mark.parametrize("damage", ["cut", "zeros", "line"])
def test_what_a_power_cut_left_is_done_again(damage, tmp_path):
    with growing.growing(tmp_path, 4) as first:
        for row in range(4):
            first.add([(row, f"hash {row}")], [row], [bytes([row]) * 9])
    whole = (tmp_path / "pixels.npy").read_bytes()
    assert np.load(tmp_path / "pixels.npy").tolist() == [row for row in range(4) for _ in range(9)]
    if damage == "line":
        log = tmp_path / PROGRESS
        log.write_bytes(log.read_bytes()[:-30])
    else:
        (tmp_path / "pixels.npy").write_bytes(whole[:-5] + (b"\0" * 5 if damage == "zeros" else b""))
    with growing.growing(tmp_path, 4) as again:
        assert list(again.rows) == [0, 1, 2]
        again.add([(3, "hash 3")], [3], [bytes([3]) * 9])
        assert again.rows == first.rows
    assert (tmp_path / "pixels.npy").read_bytes() == whole


def test_a_disk_that_cannot_hold_the_rest_is_told_before_it_is_full(tmp_path, home, monkeypatch):
    root = photographs(tmp_path / "pictures", each=30)
    monkeypatch.setattr(growing, "_TRUSTED", 20)
    monkeypatch.setattr(ingest, "_BATCH_IMAGES", 10)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=20_000))
    with pytest.raises(DataError, match=r"the rest of 60 reduced images needs [\d,]+ bytes, 20,000 are free"):
        kept(root)
    assert not list((home / "data/store/cache").glob("tmp-*"))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(growing.Growing, "add", full)
    with pytest.raises(DataError, match="disk full: the cache of 60 reduced images needs more"):
        kept(root)


def test_the_cache_is_listed_and_a_damaged_image_names_its_folder(tmp_path, home):
    train_images = kept(photographs(tmp_path / "pictures")).train
    (entry,) = caches.entries()
    assert entry.size == sum(file.stat().st_size for file in stored(home).iterdir())
    damaged = train_images.pixels.__reduce__()[1][1].copy()
    damaged[:, 1] //= 3
    lost = type(train_images.pixels)(train_images.pixels.stored, damaged, train_images.pixels.frame)
    with pytest.raises(ImageLost, match=f"of the cache is damaged .*; delete the folder {stored(home)}"):
        lost[0]


def test_only_the_words_of_the_option_are_taken():
    for value, meant in ((True, True), ("true", True), ("False", False), (False, False), ("resized", "resized")):
        assert ImageFolder(cached=value).cached is meant or ImageFolder(cached=value).cached == meant == "resized"
    with pytest.raises(UserError, match="cached: should be True, False or resized"):
        ImageFolder.read({"cached": "resize"})
    assert decode_crop(encoded(noise(0)), "", 8, lambda height, width: (0, 0, 8, 8)).shape == (8, 8, 3)
