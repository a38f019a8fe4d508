"""`labbook predict`: every kind of input, what cannot be read, interruption, and several runs."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from core.common import plots
from core.common.errors import UserError
from core.launch import Launch
from core.runs.train import train
from core.runs.trained import load
from data.predict import sheet
from data.predict.predict import _refuse_folders, main
from data.predict.results import show
from data.reading.decode import decode
from tests.support.samples import encoded, noise


@pytest.fixture
def given(lab, monkeypatch, tmp_path):
    """(a run's id, a folder with images of two classes at any depth, the whole lab)"""
    home, source, runs = lab
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    shutil.copytree(source / "train", tmp_path / "new")
    return runs[0].id, tmp_path / "new", lab


def table_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def predicted(capsys, *words):
    """(exit status, rows printed)"""
    capsys.readouterr()
    status = main([str(word) for word in words])
    return status, table_of(capsys.readouterr().out)


def test_a_folder_is_predicted_as_the_run_would(given, capsys):
    run, folder, _ = given
    status, rows = predicted(capsys, run, folder, "--top", "2")
    assert status == 0
    assert [row["path"] for row in rows] == sorted(str(path) for path in folder.rglob("*.png"))
    pixels = np.stack([decode(Path(row["path"]).read_bytes(), "", 16) for row in rows])
    expected = load(run).predict(pixels)
    classes = load(run).record["data"]["classes"]
    for row, each in zip(rows, expected, strict=True):
        assert row["class"] == classes[each.argmax()]
        assert float(row["probability"]) == pytest.approx(each.max(), abs=1e-5)
        assert float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1, abs=1e-5)
        assert row["error"] == ""


def test_a_folder_is_predicted_in_half_precision(given, capsys):
    run, folder, _ = given
    assert main([run, str(folder)]) == 0
    _, rows = predicted(capsys, run, folder)
    status, half = predicted(capsys, run, folder, "--precision", "bf16")
    assert status == 0
    apart = [abs(float(a["probability"]) - float(b["probability"])) for a, b in zip(rows, half, strict=True)]
    assert 0 < max(apart) < 0.05


def test_archives_tables_files_and_lists_give_the_same_answers(given, capsys, tmp_path, monkeypatch):
    run, folder, _ = given
    _, whole = predicted(capsys, run, folder)
    expected = {os.path.relpath(row["path"], folder): (row["class"], row["probability"]) for row in whole}
    names = sorted(expected)
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for name in names:
            archive.write(folder / name, name)
    (folder / "table.csv").write_text("\n".join(["path,kind", *(f"{name},x" for name in names)]))
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{folder / name}\n" for name in names)))
    for words, base in (
        ([tmp_path / "new.zip"], tmp_path / "new.zip"),
        ([folder / "table.csv"], folder),
        ([folder / name for name in names], folder),
        (["-"], folder),
    ):
        status, rows = predicted(capsys, run, *words)
        assert status == 0, words
        assert {os.path.relpath(row["path"], base): (row["class"], row["probability"]) for row in rows} == expected


def test_what_cannot_be_read_is_a_row_with_its_reason(given, capsys):
    run, folder, _ = given
    (folder / "cat" / "00.png").write_bytes(b"no image")
    status, rows = predicted(capsys, run, folder, folder / "cat" / "01.png")
    assert status == 1
    wrong = [row for row in rows if row["error"]]
    assert [(row["path"], row["class"]) for row in wrong] == [(str(folder / "cat" / "00.png"), "")]
    assert "cannot identify image file" in wrong[0]["error"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_files_hold_what_is_printed(given, capsys, suffix, tmp_path):
    run, folder, _ = given
    _, printed = predicted(capsys, run, folder, "--top", "2")
    path = tmp_path / f"out.{suffix}"
    assert main([run, str(folder), "--top", "2", "--to", str(path)]) == 0
    rows = {
        "csv": lambda: table_of(path.read_text()),
        "parquet": lambda: parquet.read_table(path).to_pylist(),
        "jsonl": lambda: [json.loads(line) for line in path.read_text().splitlines()],
    }[suffix]()
    assert [(row["path"], row["class"]) for row in rows] == [(row["path"], row["class"]) for row in printed]
    for row, other in zip(rows, printed, strict=True):
        assert float(row["probability_2"]) == pytest.approx(float(other["probability_2"]), abs=1e-6)
    assert not list(tmp_path.glob("*.rows"))
    with pytest.raises(UserError, match="the file exists"):
        main([run, str(folder), "--to", str(path)])


# failpoint -> lines in the file of rows when the process is killed there, one after the other
MOMENTS = (
    ("rows gathered", 0),  # before what is predicted is written
    ("rows kept", 1),  # before any image
    ("rows kept", 65),  # after a batch
    ("rows gathered", 65),  # before the next one is written
    (None, None),  # from outside, wherever it is
    ("csv synced", 3001),  # when all rows are there, and the file is not in its place
    ("csv renamed", 3001),  # when it is, and the rows are not removed
)


def test_a_prediction_killed_at_any_moment_continues_and_repeats_no_row(given, forge, tmp_path):
    run, _, (home, _, _) = given
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:04}.png").write_bytes(encoded(noise(number, 16, 16))) if number < 50 else os.link(
            folder / f"{number % 50:04}.png", folder / f"{number:04}.png"
        )
    target, part = tmp_path / "out.csv", tmp_path / "out.csv.rows"
    words = ("core", "predict", run, str(folder), "--to", str(target))
    for point, lines in MOMENTS:
        process = forge.start(*words, env={"LABBOOK_HOME": str(home), "LABBOOK_FAILPOINT": point or ""})
        if point is None:
            while not process.ended and part.read_bytes().count(b"\n") <= 3 * 64:
                time.sleep(0.002)
            process.kill(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.text
        assert part.read_bytes().count(b"\n") == (lines if point else pytest.approx(1500, abs=1490))
        if point in (None, "rows kept"):
            with part.open("ab") as stream:
                stream.write(b'{"path": "torn')
    before = target.read_bytes()
    status, text = forge.run(*words, env={"LABBOOK_HOME": str(home)})
    assert status == 0, text
    assert "continuing after 3,000 images" in text
    assert target.read_bytes() == before
    rows = table_of(target.read_text())
    assert [row["path"] for row in rows] == [str(folder / f"{number:04}.png") for number in range(3000)]
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv"]


def test_a_file_that_appears_beside_kept_rows_is_not_replaced(given, tmp_path):
    run, folder, _ = given
    target = tmp_path / "out.csv"
    question = {"runs": [run], "top": 1, "threshold": 0.0, "of": [str(folder)]}
    (tmp_path / "out.csv.rows").write_text(json.dumps(question) + "\n")
    target.write_text("mine")
    with pytest.raises(UserError, match=r"out\.csv: the file exists"):
        main([run, str(folder), "--to", str(target)])
    assert target.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv", "out.csv.rows"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB that can be made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this needs the right to mount a small disk: {mounted.stderr.decode().strip()}")
    yield disk, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_on_a_full_disk_the_rows_are_kept_and_the_same_command_continues(given, small_disk, capsys, tmp_path):
    run, folder, _ = given
    disk, enlarge = small_disk
    few = sorted(folder.rglob("*.png"))
    names = [os.path.join(folder, "." * (number % 2), *path.parts[-2:]) for number in range(50) for path in few]
    (folder / "list.csv").write_text("\n".join(["path", *(os.path.relpath(name, folder) for name in names)]))
    words = [run, str(folder / "list.csv"), "--to", str(disk / "out.csv")]
    kept = []
    for size in ("64k", "128k"):  # too small for the rows, then for the file beside them
        enlarge(size)
        with pytest.raises(UserError, match=r"No space left on device; the same command continues") as caught:
            main(words)
        assert len(caught.value.lines) == 1
        assert [path.name for path in disk.iterdir()] == ["out.csv.rows"]
        kept.append((disk / "out.csv.rows").read_bytes().count(b"\n"))
    assert 64 < kept[0] < kept[1] == len(names) + 1
    enlarge("1m")
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr()
    assert f"continuing after {len(names):,} images" in said.err
    assert f"written: {len(names):,} images to {disk / 'out.csv'}" in said.out
    assert [os.path.normpath(row["path"]) for row in table_of((disk / "out.csv").read_text())] == [
        os.path.normpath(name) for name in names
    ]


def test_a_path_that_is_mentioned_twice_has_two_rows_whether_interrupted_or_not(given, tmp_path):
    run, folder, _ = given
    words = [run, str(folder), str(folder / "cat"), str(folder / "cat" / "00.png")]
    whole = tmp_path / "whole.csv"
    assert main([*words, "--to", str(whole)]) == 0
    rows = [line for line in whole.read_text().splitlines() if line]
    assert sum("cat/00.png" in line for line in rows) == 3
    question = json.dumps({"runs": [run], "top": 1, "threshold": 0.0, "of": words[1:]})
    for done in (0, 1, 13, len(rows) - 2):
        kept = [json.dumps({"path": row["path"], "class": row["class"], "probability": float(row["probability"])})
                for row in table_of(whole.read_text())[:done]]  # fmt: skip
        target = tmp_path / f"after{done}.csv"
        (tmp_path / f"after{done}.csv.rows").write_text("\n".join([question, *kept, '{"path": "to']))
        assert main([*words, "--to", str(target)]) == 0
        assert target.read_text() == whole.read_text()


def test_rows_of_another_command_are_refused(given, tmp_path):
    run, folder, (_, _, runs) = given
    target = tmp_path / "out.csv"
    question = {"runs": [runs[1].id], "top": 1, "threshold": 0.0, "of": [str(folder)]}
    (tmp_path / "out.csv.rows").write_text(json.dumps(question) + "\n")
    with pytest.raises(UserError, match=r"out\.csv\.rows is of another prediction"):
        main([run, str(folder), "--to", str(target)])


def test_several_runs_answer_with_their_mean(given, capsys):
    _, folder, (_, _, runs) = given
    each = [predicted(capsys, run.id, folder, "--top", "2")[1] for run in runs]
    _, together = predicted(capsys, runs[0].id, runs[1].id, folder, "--top", "2")
    for one, other, both in zip(*each, together, strict=True):
        shares = [
            {row["class"]: float(row["probability"]), row["class_2"]: float(row["probability_2"])}
            for row in (one, other)
        ]
        assert float(both["probability"]) == pytest.approx(np.mean([s[both["class"]] for s in shares]), abs=2e-6)


def test_an_uncertain_image_has_no_class_and_classes_become_folders(given, capsys, tmp_path):
    run, folder, _ = given
    _, rows = predicted(capsys, run, folder)
    bar = np.median([float(row["probability"]) for row in rows])
    into = [run, str(folder), "--threshold", str(bar), "--to", str(tmp_path / "a.csv")]
    assert main([*into, "--sort-into", str(tmp_path / "by")]) == 0
    kept = table_of((tmp_path / "a.csv").read_text())
    sure = [row for row in kept if row["class"]]
    assert 0 < len(sure) < len(rows)
    links = {os.path.realpath(link): link.parent.name for link in (tmp_path / "by").rglob("*.png")}
    assert links == {os.path.realpath(row["path"]): row["class"] for row in sure}


def test_mistakes_are_named(given, tmp_path):
    run, folder, _ = given
    for words, message in (
        ([run], "no images are given"),
        ([run, str(folder / "nothing.png")], "no such file or folder"),
        (["nothing"], "run not found"),
        ([run, str(folder), str(folder / "nothing.png")], r"nothing\.png: no such file or folder"),
        ([run, str(folder), "--to", str(tmp_path / "a.txt")], r"the name must end in \.csv, \.parquet, \.jsonl"),
        ([run, str(folder), "--to", str(tmp_path / "no/a.csv")], "the folder .*no does not exist"),
        ([run, str(folder), "--threshold", "2"], "--threshold must be between 0 and 1"),
        ([run, str(folder), "--sort-into", str(tmp_path)], "--sort-into needs --to FILE"),
    ):
        with pytest.raises(UserError, match=message):
            main(words)


def test_what_is_no_image_file_is_a_row_and_nothing_hangs(given, capsys, monkeypatch, tmp_path):
    run, folder, _ = given
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "phone.HEIC").write_bytes(b"any")
    (tmp_path / "empty.png").write_bytes(b"")
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(1 << 30)
    names = ("pipe.png", "phone.HEIC", "empty.png", "large.png")
    lines = ["/dev/zero", "a\0b.png", str(folder / "cat" / "00.png").replace("/cat/", "\\cat\\")]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    status, rows = predicted(capsys, run, *(tmp_path / name for name in names), "-")
    assert status == 1
    reasons = [row["error"] for row in rows]
    assert reasons[0] == "not a regular file"
    assert reasons[1] == "the format .heic is not supported; convert the file to JPEG or PNG"
    assert reasons[2] == "the file is empty"
    assert "bytes are more than the limit" in reasons[3]
    assert reasons[4] == "not a regular file"
    assert "null byte" in reasons[5]
    assert rows[6]["class"]


def test_a_folder_of_shards_is_read_and_one_without_images_is_named(given, capsys, tmp_path):
    run, folder, _ = given
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "a.tar", "w") as tar:
        tar.add(folder / "cat" / "00.png", "00.png")
    _, rows = predicted(capsys, run, shards)
    assert [row["path"] for row in rows] == [str(shards / "a.tar" / "00.png")]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none contains no images"):
        main([run, str(tmp_path / "none"), "--to", str(tmp_path / "a.csv")])
    assert not list(tmp_path.glob("a.csv*"))


def test_paths_are_in_the_column_that_is_named(given, capsys, tmp_path):
    run, folder, _ = given
    (folder / "t.csv").write_text("Filename;Class\ncat\\00.png;x\n")
    with pytest.raises(UserError, match="the table has no column path"):
        predicted(capsys, run, folder / "t.csv")
    _, rows = predicted(capsys, run, folder / "t.csv", "--path-column", "Filename")
    assert [row["path"] for row in rows] == [str(folder / "cat" / "00.png")]
    parquet.write_table(pa.table({"path": [b"cat/00.png"]}), folder / "t.parquet")
    with pytest.raises(UserError, match=r"column path has the type .*binary.*; text is needed"):
        predicted(capsys, run, folder / "t.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a"\n', "line 1 is damaged"),
        (b"\xff\xfe\n", "line 1 is damaged"),
        (b'{"runs": []}\n[1, 2]\n', "line 2 is damaged"),
        (b'{"runs": []}\n{"path": 1}\n', "line 2 is damaged"),
    ],
)
def test_damaged_rows_are_named(given, tmp_path, content, message):
    run, folder, _ = given
    (tmp_path / "a.csv.rows").write_bytes(content)
    with pytest.raises(UserError, match=message):
        main([run, str(folder), "--to", str(tmp_path / "a.csv")])


def test_rows_are_written_to_no_other_file(given, tmp_path):
    run, folder, _ = given
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "a.csv.rows").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"a\.csv\.rows: "):
        main([run, str(folder), "--to", str(tmp_path / "a.csv")])
    assert (tmp_path / "elsewhere").read_text() == ""
    os.mkfifo(tmp_path / "b.csv.rows")
    with pytest.raises(UserError, match="is not a regular file"):
        main([run, str(folder), "--to", str(tmp_path / "b.csv")])


@pytest.mark.parametrize("name", ["..", ".", "a/b", "x\x1b[31m", "L" * 300])
def test_classes_that_are_no_folder_names_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot be names of folders"):
        _refuse_folders(tmp_path, ["cat", name])


def test_images_are_sorted_into_no_linked_folder(tmp_path):
    (tmp_path / "cat").symlink_to(tmp_path)
    with pytest.raises(UserError, match="cat is a link"):
        _refuse_folders(tmp_path, ["cat"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        _refuse_folders(tmp_path / "file", ["cat"])


def test_names_of_classes_are_printed_without_control_characters(capsys):
    show(iter([[{"path": "a\x1b[2J", "class": "x\x1b[31m"}]]), ["path", "class", "error"])
    assert "\x1b" not in capsys.readouterr().out


def test_hdf5_files_are_predicted_by_index(given, capsys, tmp_path):
    h5py = pytest.importorskip("h5py")
    run, folder, _ = given
    files = sorted(folder.rglob("*.png"))
    _, expected = predicted(capsys, run, *files)
    pixels = np.stack([np.asarray(Image.open(path)) for path in files])
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["images"] = pixels
    with h5py.File(tmp_path / "grouped.data", "w") as file:  # the contents of files, in groups, under another name
        for number, some in (("b", files[:3]), ("a", files[3:])):
            stored = file.create_dataset(f"{number}/raw", (len(some),), h5py.vlen_dtype(np.uint8))
            for at, path in enumerate(some):
                stored[at] = np.frombuffer(path.read_bytes(), np.uint8)
    said = [(row["class"], row["probability"]) for row in expected]
    whole, grouped = tmp_path / "whole.h5", tmp_path / "grouped.data"
    status, rows = predicted(capsys, run, whole)
    assert status == 0
    assert [row["path"] for row in rows] == [f"{whole}:{number}" for number in range(len(files))]
    assert [(row["class"], row["probability"]) for row in rows] == said
    _, rows = predicted(capsys, run, grouped, "--data.images", "raw")
    assert [row["path"] for row in rows[-3:]] == [f"{grouped}:b/{number}" for number in range(3)]
    assert [(row["class"], row["probability"]) for row in [*rows[-3:], *rows[:-3]]] == said
    with pytest.raises(UserError, match=r"no HDF5 dataset images, the file has a, b; name it with --data.images"):
        predicted(capsys, run, grouped)


def test_frames_are_in_the_order_of_their_numbers(given, capsys, tmp_path):
    run, folder, _ = given
    frames = tmp_path / "frames"
    for name in ("10/frame_1.png", "2/frame_10.png", "2/frame_2.png", "2/frame_1.png"):
        (frames / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "cat" / "00.png", frames / name)
    _, rows = predicted(capsys, run, frames)
    names = [os.path.relpath(row["path"], frames) for row in rows]
    assert names == ["2/frame_1.png", "2/frame_2.png", "2/frame_10.png", "10/frame_1.png"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_only_the_limit_of_the_size_can_be_changed(given, capsys, tmp_path):
    run, _, _ = given
    Image.new("L", (9500, 9500)).save(tmp_path / "large.png")  # more than 90 megapixels
    status, rows = predicted(capsys, run, tmp_path / "large.png")
    assert status == 1
    assert "set --data.max_megapixels 91" in rows[0]["error"]
    assert predicted(capsys, run, tmp_path / "large.png", "--data.max_megapixels", "91")[0] == 0
    for words, message in (
        (["--data.background", "black"], "images are read as those of the run; only --data.max_megapixels, "),
        (["--data.max_megapixels", "1000"], "--data.max_megapixels: .*178"),
    ):
        with pytest.raises(UserError, match=message):
            predicted(capsys, run, tmp_path / "large.png", *words)


def test_runs_that_convert_pixels_differently_do_not_answer_together(given):
    run, folder, (_, source, runs) = given
    fields = {"data.background": "black", "epochs": 1}
    other = train(runs[0].experiment.but(fields), Launch(mlflow=False, threads=1, root=source))
    with pytest.raises(UserError, match=f"{run} and {other.id} convert pixels differently"):
        main([run, other.id, str(folder)])


def test_files_of_one_name_are_sorted_beside_each_other(given, tmp_path):
    run, folder, _ = given
    clones = [tmp_path / name / "same.png" for name in ("a", "b", "c")]
    for clone in clones:
        clone.parent.mkdir()
        shutil.copy(folder / "cat" / "00.png", clone)
    for number in range(2):  # again, which makes no further links
        words = [run, *map(str, clones), "--to", str(tmp_path / f"{number}.csv")]
        assert main([*words, "--sort-into", str(tmp_path / "by")]) == 0
    links = list((tmp_path / "by").rglob("*.png"))
    assert sorted(os.path.realpath(link) for link in links) == [os.path.realpath(clone) for clone in clones]


def test_images_in_archives_are_not_sorted_and_this_is_said_first(given, tmp_path):
    run, folder, _ = given
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.write(folder / "cat" / "00.png", "00.png")
    words = [run, str(folder), str(tmp_path / "new.zip"), "--to", str(tmp_path / "out.csv")]
    with pytest.raises(UserError, match=r"images of .*new\.zip are no files of their own; unpack it"):
        main([*words, "--sort-into", str(tmp_path / "by")])
    assert not (tmp_path / "out.csv.rows").exists()


def test_the_least_certain_images_are_on_a_sheet(given, capsys, tmp_path, monkeypatch):
    run, folder, _ = given
    drawn = []
    monkeypatch.setattr(plots, "contact_sheet", lambda *given: drawn.append(given))
    monkeypatch.setattr(sheet, "MOST", 5)
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    (folder / "cat" / "bad.png").write_bytes(b"no image")
    for number, place in enumerate((folder, tmp_path / "new.zip")):
        words = [run, str(place), "--to", str(tmp_path / f"{number}.csv"), "--sheet", str(tmp_path / "sheet.png")]
        main(words)
        rows = [row for row in table_of((tmp_path / f"{number}.csv").read_text()) if not row["error"]]
        least = sorted(rows, key=lambda row: float(row["probability"]))[:5]
        pixels, titles, path = drawn[number]
        assert path == tmp_path / "sheet.png"
        names = [os.path.relpath(row["path"], place) for row in least]
        expected = [decode((folder / name).read_bytes(), "", plots.TILE) for name in names]
        assert np.array_equal(pixels, np.stack(expected))
        assert titles[0] == f"{least[0]['class']} {float(least[0]['probability']):.0%}  {Path(least[0]['path']).name}"
    for target, message in ((tmp_path / "a.jpg", "must end in .png"), (folder / "a.png", "must be outside")):
        with pytest.raises(UserError, match=message):
            main([run, str(folder), "--to", str(tmp_path / "x.csv"), "--sheet", str(target)])


def test_the_sheet_of_several_labels_shows_what_is_nearest_to_a_half(several, tmp_path, monkeypatch):
    home, table, run = several
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    target = tmp_path / "out.jsonl"
    assert main([run.id, str(table), "--to", str(target), "--sheet", str(tmp_path / "sheet.png")]) == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    nearest = [min(abs(row[f"probability of {name}"] - 0.5) for name in ("even", "large")) for row in rows]
    assert [sheet._certainty(row) for row in rows] == nearest
    assert Image.open(tmp_path / "sheet.png").size == (4 * (128 + 8) + 8, 10 * (128 + 16 + 8) + 8)
