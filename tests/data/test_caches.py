"""labbook cache: lines and pruned."""

import os
import threading
import time

import numpy as np

from data import ImageFolder
from data.caches import entries, main
from data.reading import cache
from tests.support.samples import tree


def test_caches_are_listed_and_the_old_ones_go(tmp_path, home, capsys):
    old, new = tree(tmp_path / "old"), tree(tmp_path / "new", each=6)
    ImageFolder(size=16).load(old)
    kept = ImageFolder(size=16).load(new)
    (lately,) = [entry for entry in entries() if entry.folder.name == kept.digest]
    for entry in entries():
        if entry != lately:
            for note in entry.notes:
                os.utime(note, (time.time() - 40 * 86400,) * 2)
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "new: 24 images" in lines[0]
    assert "used 40 days ago  old: 16 images" in lines[1]
    assert lines[2].startswith("2 caches")
    assert lately.size == sum(file.stat().st_size for file in lately.folder.iterdir())
    assert main(["--prune", "30"]) == 0
    assert "1 of 2 caches removed" in capsys.readouterr().out
    assert [entry.folder.name for entry in entries()] == [kept.digest]
    assert len(ImageFolder(size=16).load(old).train) == 6  # built anew


def test_what_is_used_again_is_young_and_an_open_one_survives_its_removal(tmp_path, home):
    source = tree(tmp_path / "source")
    images = ImageFolder(size=16).load(source).train
    before = images.pixels[images.rows]
    (entry,) = entries()
    for note in entry.notes:
        os.utime(note, (0, 0))
    ImageFolder(size=16).load(source)
    (entry,) = entries()
    assert time.time() - entry.used < 60
    assert main(["--prune", "0"]) == 0
    assert list(entries()) == []
    assert np.array_equal(images.pixels[images.rows], before)


def test_an_empty_store_is_no_mistake(home, capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("0 caches, 0.0 MB")


def test_a_flipped_bit_in_the_pixels_is_reported_and_the_images_are_decoded_again(home, capsys):
    def build(folder):
        with cache.pixel_file(folder, (8, 4, 4, 3)) as put:
            put(0, np.arange(8 * 48, dtype=np.uint8).reshape(8, 4, 4, 3))
        return cache.Index("d" * 64, "", "here", ["a"], list("abcdefgh"), [0] * 8, ["train"] * 8, list(range(8)))

    whole = cache.fetch("source", build).pixels.copy()
    folder = home / "data" / "store" / "cache" / ("d" * 64)
    wait_for_checks()
    assert (folder / cache.CHECKED).exists()
    assert cache._check_in_background(folder) is None  # once a day
    content = bytearray((folder / "pixels.npy").read_bytes())
    content[-5] ^= 1
    (folder / "pixels.npy").write_bytes(content)
    (folder / cache.CHECKED).unlink()
    cache.fetch("source", build)
    wait_for_checks()
    assert "are damaged: images are not what was decoded" in "".join(capsys.readouterr())
    assert np.array_equal(cache.fetch("source", build).pixels, whole)
    wait_for_checks()
    assert not (folder / cache.DAMAGED).exists()


def wait_for_checks():
    for thread in threading.enumerate():
        if thread.name.startswith("check of"):
            thread.join()
