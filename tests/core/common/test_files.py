"""A file is the old one or the new one, whole; what must last is on the disk before it gets its name."""

import hashlib
import os

import pytest

from core.common.files import place, replacing, sha256_of, write_atomic


@pytest.fixture
def calls(monkeypatch):
    """What is synced and renamed, in order, by name."""
    found, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(descriptor):
        found.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def noted_replace(before, after):
        found.append(("rename", os.path.basename(after)))
        replace(before, after)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return found


def test_a_file_half_written_leaves_the_old_one_and_takes_no_space(tmp_path):
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    with pytest.raises(TypeError), replacing(path) as stream:
        stream.writelines([b"ne", "not bytes"])
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.glob("file*")] == ["file.json"]
    write_atomic(path, "nèw")
    assert path.read_text(encoding="utf-8") == "nèw"
    assert [file.name for file in tmp_path.glob("file*")] == ["file.json"]


def test_what_must_last_is_synced_then_renamed_then_its_folder_synced(tmp_path, calls):
    folder = tmp_path / "folder"
    folder.mkdir()
    with replacing(folder / "file") as stream:
        stream.write(b"content")
    assert calls == [("fsync", "file.part"), ("rename", "file"), ("fsync", "folder")]


def test_a_folder_is_placed_with_what_is_in_it_on_the_disk(tmp_path, calls):
    part = tmp_path / "part"
    part.mkdir()
    (part / "b").write_text("b")
    (part / "a").write_text("a")
    place(part, tmp_path / "whole")
    names = [("fsync", "a"), ("fsync", "b"), ("fsync", "part"), ("rename", "whole"), ("fsync", tmp_path.name)]
    assert calls == names
    assert (tmp_path / "whole" / "a").read_text() == "a"


def test_the_digest_is_that_of_the_content(tmp_path):
    write_atomic(tmp_path / "file", b"content")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
