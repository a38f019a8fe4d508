import errno
import json
import os
import shutil
import time

import numpy as np
import pytest

from core.common.errors import DataError
from data import ImageFolder
from data.reading import disk
from tests.support.samples import packed, tree
from tests.support.slow_reading import found, slow_reading


@pytest.fixture
def start(forge):
    """Starts a process that reads the folder, taking some time for each image."""
    shown = "ImageFolder(size=16)", 'int(splits.train.pixels.sum(dtype="int64"))'
    return lambda root, slow: slow_reading(forge, root, slow, *shown)


def cache_of(home):
    return home / "data/store/cache"


def only_cache(home):
    (folder,) = [path.parent for path in cache_of(home).glob("*/index.json")]
    return folder


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_two_processes_at_once_build_one_cache(start, tmp_path):
    source = tree(tmp_path / "source", each=8)
    both = [start(source, 0.05), start(source, 0.05)]
    counts, *rest = zip(*map(found, both), strict=True)
    assert sorted(counts) == ["0", "32"]
    assert all(len(set(values)) == 1 for values in rest)
    assert sum("waiting: another process" in process.text for process in both) == 1


def test_two_processes_with_two_forms_share_one_cache(start, tmp_path, home):
    source = tree(tmp_path / "source", each=8)
    both = [start(source, 0.02), start(packed(source, tmp_path / "a.zip"), 0.02)]
    assert len({tuple(found(process)[1:]) for process in both}) == 1
    assert only_cache(home)


@pytest.mark.parametrize("again", ["same_source", "other_source"])
def test_a_killed_build_is_never_taken_for_complete(again, start, tmp_path, home):
    source = tree(tmp_path / "source", each=8)
    process = start(source, 0.2)
    until(lambda: list(cache_of(home).glob("tmp-*/pixels.npy")))
    process.kill()
    process.wait(20)
    assert list(cache_of(home).glob("tmp-*"))
    assert not list(cache_of(home).glob("*/index.json"))
    killed = source if again == "same_source" else packed(source, tmp_path / "a.zip")
    splits = ImageFolder(size=16).load(killed)
    assert not list(cache_of(home).glob("tmp-*"))
    kept = splits.train.pixels[:].copy()
    shutil.rmtree(cache_of(home))
    clean = ImageFolder(size=16).load(source)
    assert clean.digest == splits.digest
    assert np.array_equal(clean.train.pixels, kept)


def test_a_build_that_goes_on_is_not_swept_away(start, tmp_path, home):
    process = start(tree(tmp_path / "slow", each=8), 0.1)
    until(lambda: list(cache_of(home).glob("tmp-*/pixels.npy")))
    ImageFolder(size=24).load(tree(tmp_path / "quick"))
    assert list(cache_of(home).glob("tmp-*/pixels.npy"))
    assert found(process)[0] == "32"


def shorten(folder):
    os.truncate(folder / "pixels.npy", (folder / "pixels.npy").stat().st_size - 1)


def lengthen(folder):
    with (folder / "pixels.npy").open("ab") as stream:
        stream.write(b"x")


def edit(**fields):
    def change(folder):
        record = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(record | fields))

    return change


DAMAGE = {
    "pixels_short": shorten,
    "pixels_long": lengthen,
    "pixels_gone": lambda folder: (folder / "pixels.npy").unlink(),
    "index_cut": lambda folder: os.truncate(folder / "index.json", 100),
    "index_empty": lambda folder: os.truncate(folder / "index.json", 0),
    "index_gone": lambda folder: (folder / "index.json").unlink(),
    "index_of_another": edit(digest="0" * 64),
    "index_of_another_format": edit(format=0),
    "index_columns_differ": edit(labels=[0]),
    "index_is_a_list": lambda folder: (folder / "index.json").write_text("[]"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_cache_is_built_again_aloud(name, tmp_path, home, capsys):
    source = tree(tmp_path / "source")
    before = ImageFolder(size=16).load(source)
    kept = before.train.pixels[:].copy()
    DAMAGE[name](only_cache(home))
    capsys.readouterr()
    after = ImageFolder(size=16).load(source)
    assert "is damaged" in capsys.readouterr().err
    assert after.digest == before.digest
    assert np.array_equal(after.train.pixels, kept)
    capsys.readouterr()
    ImageFolder(size=16).load(source)
    assert capsys.readouterr().err == ""


def test_a_damaged_note_is_built_again(tmp_path, home, capsys):
    source = tree(tmp_path / "source")
    before = ImageFolder(size=16).load(source)
    (note,) = (cache_of(home) / "sources").glob("*.json")
    note.write_text("{")
    assert ImageFolder(size=16).load(source).digest == before.digest
    assert "is damaged" in capsys.readouterr().err


def test_a_removed_cache_is_built_again(tmp_path, home):
    source = tree(tmp_path / "source")
    before = ImageFolder(size=16).load(source)
    shutil.rmtree(only_cache(home))
    assert ImageFolder(size=16).load(source).digest == before.digest


def test_a_disk_without_room_is_reported_before_decoding(tmp_path, home, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"disk full: .* needs 12,416 bytes, 1,000 are free"):
        ImageFolder(size=16).load(tree(tmp_path / "source"))
    assert not list(cache_of(home).glob("tmp-*"))


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, home, monkeypatch):
    source, genuine, calls = tree(tmp_path / "source"), os.pwrite, []

    def full(descriptor, content, offset):
        calls.append(offset)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return genuine(descriptor, content, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DataError, match=r"disk full: .* needs 12,416 bytes"):
            ImageFolder(size=16).load(source)
    assert not list(cache_of(home).glob("tmp-*"))
    assert len(ImageFolder(size=16).load(source).test) == 8


def test_short_writes_are_continued(tmp_path, monkeypatch):
    source, genuine = tree(tmp_path / "source"), os.pwrite
    expected = ImageFolder(size=16).load(source).train.pixels[:].copy()
    monkeypatch.setenv("LABBOOK_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, offset: genuine(descriptor, content[:100], offset))
    assert np.array_equal(ImageFolder(size=16).load(source).train.pixels, expected)


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, home, monkeypatch):
    calls, names = [], {}

    def recorded(kind, genuine):
        def call(*arguments):
            path = names.get(arguments[0], arguments[0]) if kind == "fsync" else arguments[-1]
            calls.append((kind, os.path.basename(os.fspath(path))))
            return genuine(*arguments)

        return call

    opened = os.open

    def remember(path, *arguments, **options):
        descriptor = opened(path, *arguments, **options)
        names[descriptor] = path
        return descriptor

    monkeypatch.setattr(os, "open", remember)
    monkeypatch.setattr(os, "fsync", recorded("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", recorded("rename", os.replace))
    ImageFolder(size=16).load(tree(tmp_path / "source"))
    folder = only_cache(home).name
    key = next((cache_of(home) / "sources").glob("*.json")).stem
    assert calls == [
        ("fsync", "index.json"),
        ("fsync", "pixels.npy"),
        ("fsync", f"tmp-{key}"),
        ("rename", folder),
        ("fsync", "cache"),
        ("fsync", f"{key}.part"),
        ("rename", f"{key}.json"),
        ("fsync", "sources"),
    ]
