"""labbook cache: lines and pruned."""

import os
import time

import numpy as np

from data import ImageFolder
from data.caches import entries, main
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
