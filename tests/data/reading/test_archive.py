import contextlib
import gzip
import io
import lzma
import os
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.common.errors import DataError
from data.reading import archive
from tests.support.samples import encoded, noise, packed, tree


def tar_of(path, *infos, mode="w", form=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=form) as made:
        for info, content in infos:
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def everything(path):
    return {found.name: content for found, content in archive.members(path, lambda found: True)}


UNSAFE = {
    "parent": member("train/../../evil.jpg"),
    "absolute": member("/etc/evil.jpg"),
    "drive": member("C:/evil.jpg"),
    "backslash_parent": member("a\\..\\..\\evil.jpg"),
    "symbolic_link": member("train/evil.jpg", tarfile.SYMTYPE, "/etc/passwd"),
    "hard_link": member("train/evil.jpg", tarfile.LNKTYPE, "../evil"),
    "character_device": member("evil", tarfile.CHRTYPE),
    "block_device": member("evil", tarfile.BLKTYPE),
    "pipe": member("evil", tarfile.FIFOTYPE),
    "hidden_link": member(".evil", tarfile.SYMTYPE, "/etc/passwd"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_tar_members_are_refused_by_name(name, tmp_path):
    path = tar_of(tmp_path / "a.tar", (member("train/cat/good.jpg"), b"x"), (UNSAFE[name], b""))
    with pytest.raises(DataError, match=r"rejected: its member .*evil"):
        list(archive.members(path))


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "a/../../evil.jpg", "C:\\evil.jpg", "..\\evil.jpg"])
def test_unsafe_zip_names_are_refused(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("train/cat/good.jpg", b"x")
        made.writestr(name, b"x")
    with pytest.raises(DataError, match=r"rejected: its member .*evil"):
        list(archive.members(tmp_path / "a.zip"))


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010666], ids=["link", "device", "pipe"])
def test_zip_links_and_devices_are_refused(mode, tmp_path):
    info = zipfile.ZipInfo("train/evil.jpg")
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"rejected: its member train/evil\.jpg"):
        list(archive.members(tmp_path / "a.zip"))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_contents_come_whole_and_nothing_is_written(name, tmp_path, monkeypatch):
    source = tree(tmp_path / "source")
    path = packed(source, tmp_path / name)
    workplace = tmp_path / "empty"
    workplace.mkdir()
    monkeypatch.chdir(workplace)
    expected = {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*.png")}
    assert everything(path) == expected
    assert not list(workplace.iterdir())


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_a_truncated_archive_never_passes_for_a_shorter_one(name, tmp_path):
    whole = packed(tree(tmp_path / "source"), tmp_path / name).read_bytes()
    used = whole.rstrip(b"\0") if name == "a.tar" else whole
    for share in (0.1, 0.35, 0.6, 0.85, 0.99, 1 - 1 / len(used)):
        (tmp_path / name).write_bytes(used[: int(len(used) * share)])
        with pytest.raises(DataError, match="damaged or incomplete"):
            everything(tmp_path / name)


@pytest.mark.parametrize("reads", [True, False], ids=["contents", "names_only"])
def test_a_tar_cut_between_two_members_is_noticed(reads, tmp_path):
    infos = [(member(f"train/cat/{n}.jpg"), bytes(512)) for n in range(4)]
    path = tar_of(tmp_path / "a.tar", *infos)
    path.write_bytes(path.read_bytes()[: 2 * 1024])
    with pytest.raises(DataError, match="end-of-archive marker is missing"):
        list(archive.members(path, lambda found: reads))


def test_a_broken_header_in_the_middle_is_noticed(tmp_path):
    path = tar_of(tmp_path / "a.tar", *[(member(f"train/cat/{n}.jpg"), bytes(512)) for n in range(4)])
    content = bytearray(path.read_bytes())
    content[2 * 1024 + 150] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        everything(path)


def test_a_flipped_bit_in_a_compressed_archive_is_noticed(tmp_path):
    for name in ("a.tar.gz", "a.tar.xz", "a.zip"):
        path = packed(tree(tmp_path / name.replace(".", "_")), tmp_path / name)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(DataError):
            everything(path)


@pytest.mark.parametrize("opener", [gzip.open, lzma.open], ids=["gzip", "xz"])
def test_a_decompression_bomb_ends_with_bounded_memory(opener, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "TOTAL_LIMIT", 20 << 20)
    monkeypatch.setattr(archive, "RATIO_LIMIT", 1)
    header = member("train/cat/a.txt")
    header.size = 60 << 20
    with opener(tmp_path / "bomb", "wb") as stream:
        stream.write(header.tobuf())
        for _ in range(60):
            stream.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(DataError, match="unpacks to more than"):
        list(archive.members(tmp_path / "bomb"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20  # of which xz keeps 8 as its dictionary


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_that_claims_too_much_is_refused_before_it_is_read(kind, tmp_path):
    header = member("train/cat/a.jpg", kind)
    header.size = 7 << 30
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(DataError, match=r"rejected: .* bytes, more than"):
        everything(tmp_path / "a.tar")


def test_many_small_files_count_against_the_total(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "TOTAL_LIMIT", 1000)
    monkeypatch.setattr(archive, "RATIO_LIMIT", 0)
    packed(tree(tmp_path / "source"), tmp_path / "a.zip")
    with pytest.raises(DataError, match="unpacks to more than 1,000 bytes"):
        list(archive.members(tmp_path / "a.zip"))


def test_an_encrypted_zip_is_refused(tmp_path):
    packed(tree(tmp_path / "source"), tmp_path / "a.zip")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        list(archive.members(tmp_path / "a.zip"))


@pytest.mark.parametrize("content", [b"", b"no archive at all", encoded(noise(0))])
def test_other_files_are_no_archive(content, tmp_path):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match="is not a folder, tar"):
        archive.members(tmp_path / "a.tar")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="nowhere: No such file"):
        archive.members(tmp_path / "nowhere")


def test_links_in_a_folder_stay_in_the_folder(tmp_path):
    source = tree(tmp_path / "source")
    (source / "train/cat/link.png").symlink_to(source / "train/dog/00.png")
    assert everything(source)["train/cat/link.png"].read_bytes() == (source / "train/dog/00.png").read_bytes()
    (tmp_path / "outside.png").write_bytes(b"x")
    (source / "train/cat/out.png").symlink_to("../../../outside.png")
    with pytest.raises(DataError, match=r"out\.png is a symbolic link that"):
        everything(source)


def test_linked_folders_are_refused(tmp_path):
    source = tree(tmp_path / "source")
    (source / "train/loop").symlink_to(source)
    with pytest.raises(DataError, match="symbolic link to a folder"):
        list(archive.members(source))


def test_a_pipe_in_a_folder_does_not_hang(tmp_path):
    source = tree(tmp_path / "source")
    os.mkfifo(source / "train/cat/pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        everything(source)


def test_the_members_of_a_long_tar_are_not_kept(tmp_path):
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as stream:
        header = member("train/cat/a.txt").tobuf()
        stream.write(header * 12000 + bytes(1024))
    tracemalloc.start()
    count = sum(1 for _ in archive.members(tmp_path / "a.tar.gz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 12000
    assert peak < 2 << 20


def test_folders_that_differ_in_contents_alone_have_two_fingerprints(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_text(name)
        os.utime(tmp_path / name / "a.png", (1, 1))
    assert archive.fingerprint(tmp_path / "one") != archive.fingerprint(tmp_path / "two")


class Backwards:
    """os.scandir on a file system that lists its names from the last to the first."""

    genuine = os.scandir

    def __init__(self, path):
        self.entries = iter(sorted(Backwards.genuine(path), key=lambda entry: entry.name, reverse=True))

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.entries)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_the_fingerprint_does_not_depend_on_the_order_of_the_file_system(tmp_path, monkeypatch):
    source = tree(tmp_path / "source", classes=("a", "b", "c"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Backwards)
        backwards = archive.fingerprint(source)
        patch.setattr(Backwards, "genuine", lambda path: [])
        assert archive.fingerprint(source) != backwards  # the names do come from there
    monkeypatch.setattr(os, "scandir", Forwards)
    assert archive.fingerprint(source) == backwards


class Forwards(Backwards):
    def __init__(self, path):
        super().__init__(path)
        self.entries = iter(list(self.entries)[::-1])


def test_the_fingerprint_follows_names_sizes_and_times(tmp_path):
    source = tree(tmp_path / "source")
    seen = {archive.fingerprint(source)}
    file = source / "train/cat/00.png"
    os.utime(file, (1, 1))
    seen.add(archive.fingerprint(source))
    file.rename(file.with_name("zz.png"))
    seen.add(archive.fingerprint(source))
    (source / "train/bird").mkdir()
    seen.add(archive.fingerprint(source))
    assert len(seen) == 4
    assert archive.fingerprint(source) in seen


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_mutated_archives_are_read_or_refused(name, edits):
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DataError):
        source = Path(folder, "source/train/cat")
        source.mkdir(parents=True)
        (source / "00.png").write_bytes(b"some content")
        path = packed(source.parents[1], Path(folder, name))
        content = bytearray(path.read_bytes())
        used = min(len(content), 600)  # of a plain tar the rest is zeros
        for where, value in edits:
            content[min(int(where * used), used - 1)] = value
        path.write_bytes(content)
        everything(path)  # any other error fails the test


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.zip"])
def test_archives_joined_by_cat_are_refused(name, tmp_path):
    content = packed(tree(tmp_path / "one"), tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content + packed(tree(tmp_path / "two"), tmp_path / f"b{name}").read_bytes())
    with pytest.raises(DataError, match="as when archives are joined by cat"):
        everything(tmp_path / name)
    (tmp_path / name).write_bytes(content)
    assert everything(tmp_path / name)


def zipped(path, name, content, method=zipfile.ZIP_STORED, claims=None, system=0):
    """A zip of one member, whose name are these bytes, without the UTF-8 flag; claims: its size in the headers."""
    stand_in = "x" * len(name)
    with zipfile.ZipFile(path, "w", method) as made:
        info = zipfile.ZipInfo(stand_in)
        info.compress_type, info.create_system = method, system
        made.writestr(info, content)
    raw = path.read_bytes().replace(stand_in.encode(), name)
    if claims is not None:
        raw = raw.replace(len(content).to_bytes(4, "little"), claims.to_bytes(4, "little"))
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("raw", "system", "expected", "warned"),
    [
        ("b\u00e4r/\u718a.png".encode(), 0, "b\u00e4r/\u718a.png", False),
        ("b\u00e4r/1.png".encode("cp437"), 0, "b\u00e4r/1.png", True),
        ("b\u00e4r/1.png".encode("latin-1"), 3, os.fsdecode("b\u00e4r/1.png".encode("latin-1")), False),
        (b"bear/1.png", 0, "bear/1.png", False),
    ],
    ids=["utf8", "cp437", "unix", "ascii"],
)
def test_names_in_a_zip_without_the_utf8_flag_are_read_as_unpackers_do(raw, system, expected, warned, tmp_path, capsys):
    path = zipped(tmp_path / "a.zip", raw, b"content", system=system)
    assert everything(path) == {expected: b"content"}
    assert ("a.zip: 1 names have no known encoding" in capsys.readouterr().err) == warned


def test_the_unicode_path_of_a_zip_counts_before_its_name(tmp_path):
    raw = "\u718a".encode("gbk") + b".png"
    body = b"\1" + zlib.crc32(raw).to_bytes(4, "little") + "\u718a.png".encode()
    info = zipfile.ZipInfo("xx.png")
    info.extra = (0x7075).to_bytes(2, "little") + len(body).to_bytes(2, "little") + body
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(info, b"content")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"xx.png", raw))
    assert everything(tmp_path / "a.zip") == {"\u718a.png": b"content"}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_holds_more_than_it_claims_is_never_unpacked(method, tmp_path):
    path = zipped(tmp_path / "a.zip", b"a.png", bytes(123_456_789), method, claims=100)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.png is or has more data than it claims"):
        everything(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
    honest = zipped(tmp_path / "b.zip", b"a.png", noise(0, 200, 200).tobytes() * 9, method)
    assert everything(honest) == {"a.png": noise(0, 200, 200).tobytes() * 9}
    honest.write_bytes(honest.read_bytes().replace(b"a.png", b"b.png", 1))
    with pytest.raises(DataError, match="is damaged or incomplete"):
        everything(honest)


def test_a_method_that_is_not_supported_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", b"a.png", b"content")
    raw = path.read_bytes().replace(
        (0x14).to_bytes(2, "little") + bytes(4), (0x14).to_bytes(2, "little") + b"\0\0\x09\0"
    )
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.png is compressed by the method Deflate64, which is not supported"):
        everything(path)


def test_a_pipe_as_the_source_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    for read in (everything, archive.fingerprint):
        with pytest.raises(DataError, match=r"a\.tar is not a regular file"):
            read(tmp_path / "a.tar")


def test_a_tar_of_the_first_format_is_read(tmp_path):
    files = (member("a/1.png"), b"one"), (member("b/2.png"), b"two")
    path = tar_of(tmp_path / "old.tar", *files, form=tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    for start in (0, 1024):  # without the mark, as Unix V7 wrote it; the checksum counts it
        content[start + 257 : start + 265] = bytes(8)
        content[start + 148 : start + 156] = b" " * 8
        content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    path.write_bytes(content)
    assert everything(path) == {"a/1.png": b"one", "b/2.png": b"two"}


def test_an_xz_that_needs_too_much_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    source = tar_of(tmp_path / "a.tar", (member("a/1.png"), b"one"))
    large = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20}]
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(source.read_bytes(), filters=large))
    monkeypatch.setattr(lzma, "open", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(DataError, match="needs more than 268,435,456 bytes of memory to unpack"):
        everything(tmp_path / "a.tar.xz")
