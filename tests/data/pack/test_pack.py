"""`labbook pack`: what is packed, what is left out, and that a packed set is the same however it was made."""

import csv
import errno
import json
import os
import shutil
import threading
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from core.cli import main as labbook
from core.common.errors import UserError
from core.engines.opening import opened
from core.launch import Launch
from core.runs.train import train
from data import Hdf5, HuggingFace, ImageFolder, ImageTable, WebShards
from data.check import check
from data.check.check import inspect
from data.kinds import kind_of
from data.pack import reduce
from data.reading.decode import decode
from experiments.tiny import EXPERIMENT
from tests.support.optional import library
from tests.support.samples import encoded, noise, packed, tree

READ = {"shards": WebShards, "lmdb": ImageFolder, "hdf5": Hdf5, "parquet": HuggingFace}


def smooth(seed, height=40, width=50):
    """A picture that is like no other, and like itself at another size. uint8 [height, width, 3]"""
    return np.asarray(Image.fromarray(noise(seed, 7, 7)).resize((width, height), Image.Resampling.BICUBIC))


def pictures(folder, classes=("cat", "dog"), each=6, splits=("train", "test"), form="PNG", height=40):
    """split/class/n: pictures that are unlike each other, and larger than what they are packed to."""
    seed = 0
    for split in splits:
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for number in range(each):
                seed += 1
                content = encoded(smooth(seed, height), form)
                (folder / split / name / f"{number:02}.{form.lower()}").write_bytes(content)
    return folder


def run(*words):
    """Exit status of `labbook pack`."""
    return labbook.run("pack", [str(word) for word in words], labbook.VERBS)


def packing(source, target, *words, to="shards", workers=0):
    status = run(source, "--to", to, "--size", 24, "--out", target, "--workers", workers, "--per-task", 5, *words)
    assert status == 0
    return target


def contents_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_out(target):
    with (target / "left_out.csv").open(newline="") as stream:
        return {row["name"]: (row["kind"], row["reason"]) for row in csv.DictReader(stream)}


def shown(splits):
    """split -> {(class, pixels)}"""
    return {
        split: {
            (splits.classes[target], part.pixels[row].tobytes())
            for row, target in zip(part.rows.tolist(), part.targets.tolist(), strict=True)
        }
        for split, part in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }


@pytest.mark.parametrize("to", READ)
def test_every_format_is_trained_on_as_it_lies(to, tmp_path, capsys):
    library({"shards": "tarfile", "parquet": "datasets"}.get(to, {"lmdb": "lmdb", "hdf5": "h5py"}.get(to, "")))
    source = pictures(tmp_path / "source", splits=("train", "val", "test"), each=2)
    target = packing(source, tmp_path / "set", to=to)
    root = target / "images.h5" if to == "hdf5" else target
    found = READ[to](size=16).load(root)
    assert (len(found.train), len(found.val), len(found.test)) == (4, 4, 4)
    assert found.classes == ("cat", "dog")
    reduced = Image.fromarray(decode((source / "val/cat/00.png").read_bytes(), "")).resize((30, 24), Image.BILINEAR)
    expected = decode(encoded(np.asarray(reduced), "JPEG", quality=95), "", 16)
    assert ("cat", expected.tobytes()) in shown(found)["val"]
    assert kind_of(root) == READ[to].__name__
    said = capsys.readouterr().out
    assert f"--data {READ[to].__name__} --data.size 21 --root {root} --normalize 0." in said
    made = json.loads((target / "pack.json").read_text())
    assert made["digest"] in said
    assert made["splits"]["train"] == {"images": 4, "classes": {"cat": 2, "dog": 2}}
    assert (made["reduced"], made["copied"], made["width"]["max"], made["height"]["min"]) == (12, 0, 50, 40)
    assert not (tmp_path / "set.part").exists()


@pytest.mark.slow
@pytest.mark.parametrize("to", READ)
def test_a_run_trains_on_a_packed_set_with_its_statistics(to, tmp_path):
    source = pictures(tmp_path / "source", each=12)
    target = packing(source, tmp_path / "set", to=to)
    root = target / "images.h5" if to == "hdf5" else target
    made = json.loads((target / "pack.json").read_text())
    of_train = ImageFolder(size=24).load(source).train
    pixels = of_train.pixels[of_train.rows].reshape(-1, 3) / 255
    assert np.allclose(made["mean"], pixels.mean(axis=0), atol=0.02)
    assert np.allclose(made["std"], pixels.std(axis=0), atol=0.02)
    declared = EXPERIMENT.but({"data": READ[to](size=16), "epochs": 1, "batch_size": 4, "normalize": "0.5/0.2"})
    assert "test/accuracy" in train(declared, Launch(mlflow=False, root=root)).history


def test_the_bytes_are_the_same_for_any_workers_and_for_an_archive(tmp_path):
    source = pictures(tmp_path / "source", splits=("",), each=8)
    one = contents_of(packing(source, tmp_path / "one", "--split", "0.5,0.25,0.25"))
    two = contents_of(packing(source, tmp_path / "two", "--split", "0.5,0.25,0.25", "--per-task", 3, workers=2))
    assert one == two
    archived = packing(packed(source, tmp_path / "source.zip"), tmp_path / "three", "--split", "0.5,0.25,0.25")
    alike = contents_of(archived)
    assert {name: alike[name] for name in alike if name.endswith(".tar")} == {
        name: one[name] for name in one if name.endswith(".tar")
    }


@pytest.mark.slow
@pytest.mark.parametrize("to", READ)
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_dask_and_ray_pack_the_same_bytes(engine, to, tmp_path):
    library({"dask": "distributed"}.get(engine, engine), extra=engine)
    source = pictures(tmp_path / "source", each=8)
    shutil.copy(source / "train/cat/00.png", source / "train/cat/copy.png")
    (source / "train/dog/bad.png").write_bytes(b"hello")
    here = packing(source, tmp_path / "here", to=to)
    there = packing(source, tmp_path / "there", "--engine", engine, to=to, workers=2)
    assert contents_of(there) == contents_of(here)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "dask", "ray"])
def test_a_worker_killed_while_it_packs_changes_no_byte(engine, tmp_path):
    library({"local": "psutil", "dask": "distributed"}.get(engine, engine), extra=engine)
    source = pictures(tmp_path / "source", each=40, height=400)
    here = packing(source, tmp_path / "here")
    tasks, killed = tmp_path / "there.part" / "tasks", []

    def works(process):
        """Whether this is a process that packs."""
        words = " ".join(process.cmdline())
        if engine == "local":
            return "forkserver" in words and process.ppid() != os.getpid()
        return words.startswith("ray::reduce") if engine == "ray" else "--multiprocessing-fork" in words

    def kill():
        while not list(tasks.glob("[!.]*")):
            time.sleep(0.01)
        victim = max(filter(works, psutil.Process().children(recursive=True)), key=lambda each: each.cpu_times().user)
        victim.kill()
        killed.append(victim.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    there = packing(source, tmp_path / "there", "--engine", engine, workers=2)
    killer.join()
    assert killed
    assert contents_of(there) == contents_of(here)


def test_a_killed_command_continues_and_the_set_is_the_same(tmp_path, forge):
    source = pictures(tmp_path / "source", each=5)
    whole = contents_of(packing(source, tmp_path / "whole"))
    words = ["core", "pack", source, "--to", "shards", "--size", 24, "--per-task", 5, "--workers", 0]
    words += ["--out", tmp_path / "set"]

    def started(point):
        process = forge.start(*map(str, words), env={"LABBOOK_FAILPOINT": point})
        return process.wait(), process.text

    work = tmp_path / "set.part"
    assert started(" renamed")[0] == -9  # after the first task
    assert not (tmp_path / "set").exists()
    assert len(list((work / "tasks").glob("[!.]*"))) == 1
    assert started(" synced")[0] == -9  # in the second, before it is in its place
    assert started("tar renamed")[0] == -9  # after the first shard
    status, said = started("")
    assert status == 0
    assert "continued: 20 of 20 images were reduced before" in said
    assert contents_of(tmp_path / "set") == whole
    assert not work.exists()
    status, said = started("")  # again: nothing is done
    assert (status, "is finished; nothing was done" in said) == (0, True)
    assert contents_of(tmp_path / "set") == whole


def test_small_files_are_copied_and_damaged_ones_listed_or_refused(tmp_path, capsys):
    source = pictures(tmp_path / "source", splits=("",), each=4, form="JPEG", height=24)
    (source / "cat/bad.jpeg").write_bytes((source / "cat/00.jpeg").read_bytes()[:300])
    (source / "dog/page.jpg").write_bytes(b"<!DOCTYPE html>404")
    (source / "dog/link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    status = run(source, "--to", "shards", "--size", 24, "--out", tmp_path / "no", "--workers", 0, "--damaged", "error")
    said = capsys.readouterr().err
    assert status == 2
    assert "3 of 11 images cannot be packed" in said
    assert "dog/page.jpg: not an image but a web page" in said
    target = packing(source, tmp_path / "set")
    reasons = left_out(target)
    assert reasons.keys() == {"cat/bad.jpeg", "dog/page.jpg", "dog/link.jpg"}
    assert {kind for kind, _ in reasons.values()} == {"damaged"}
    assert "truncated" in reasons["cat/bad.jpeg"][1].lower()
    whole = (target / "train-000000.tar").read_bytes()
    assert all(path.read_bytes() in whole for path in source.glob("*/0?.jpeg"))
    assert "left out: 3 damaged" in capsys.readouterr().out


def test_copies_and_near_duplicates_are_left_out_of_training(tmp_path, capsys):
    source = pictures(tmp_path / "source", classes=("cat", "dog", "owl"), each=3)
    shutil.copy(source / "train/cat/00.png", source / "train/cat/copy.png")
    shutil.copy(source / "test/cat/01.png", source / "train/cat/leak.png")
    shutil.copy(source / "train/owl/02.png", source / "train/dog/both.png")
    (source / "train/dog/again.jpg").write_bytes(encoded(smooth(4, 80, 100), "JPEG"))  # of train/dog/00
    target = packing(source, tmp_path / "set")
    found = left_out(target)
    assert found["train/cat/copy.png"] == ("duplicate", "the same content as train/cat/00.png")
    assert found["train/cat/leak.png"] == ("duplicate", "the same content as test/cat/01.png")
    both = "ambiguous", "the same content is in the classes dog, owl"
    assert found["train/dog/both.png"] == found["train/owl/02.png"] == both
    assert found["train/dog/again.jpg"][0] == "near-duplicate" or found["train/dog/00.png"][0] == "near-duplicate"
    assert len(found) == 5
    assert len(left_out(packing(source, tmp_path / "exact", "--duplicates", "exact"))) == 4
    assert not left_out(packing(source, tmp_path / "keep", "--duplicates", "keep"))


def table_of(folder, parts, suffix):
    """Part-files of a table of 24 images in 6 groups, as Spark writes them."""
    import pyarrow as pa
    from pyarrow import csv as pyarrow_csv
    from pyarrow import parquet

    (folder / "img").mkdir(parents=True)
    rows = []
    for number in range(24):
        (folder / "img" / f"{number:02}.png").write_bytes(encoded(smooth(number)))
        rows.append({"path": f"img/{number:02}.png", "label": "ab"[number % 2], "house": f"house {number // 4}"})
    for part in range(parts):
        table, path = pa.Table.from_pylist(rows[part::parts]), folder / f"part-{part:05}-uuid.{suffix}"
        parquet.write_table(table, path) if suffix == "parquet" else pyarrow_csv.write_csv(table, path)
    (folder / "_SUCCESS").touch()
    return folder


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_part_files_are_one_table_and_groups_stay_together(suffix, tmp_path, capsys):
    source = table_of(tmp_path / "source", 3, suffix)
    assert kind_of(source) == "ImageTable"
    assert len(ImageTable(size=16).load(source).train) == 18
    target = packing(source, tmp_path / "set", "--split", "0.5,0.25,0.25", "--group", "house")
    with (target / "images.csv").open(newline="") as stream:
        where = {row["name"]: row["split"] for row in csv.DictReader(stream)}
    assert len(where) == 24
    assert set(where.values()) == {"train", "val", "test"}
    for house in range(6):
        assert len({where[f"img/{number:02}.png"] for number in range(4 * house, 4 * house + 4)}) == 1
    capsys.readouterr()
    packing(source, tmp_path / "two", "--split", "0.8,0.2", "--group", "house")
    assert "training draws val without the groups" in capsys.readouterr().err


def test_what_is_wrong_with_part_files_names_the_part(tmp_path, capsys):
    source = table_of(tmp_path / "source", 3, "parquet")
    (source / "img/05.png").unlink()  # row 2 of the last part
    target = packing(source, tmp_path / "set")
    assert left_out(target)[""] == ("row", "part-00002-uuid.parquet row 2: img/05.png does not exist")
    assert run(source, "--to", "shards", "--out", tmp_path / "no", "--damaged", "error", "--workers", 0) == 2
    assert "part-00002-uuid.parquet row 2: img/05.png does not exist" in capsys.readouterr().err
    part = source / "part-00001-uuid.parquet"
    part.write_bytes(part.read_bytes()[:100])
    assert run(source, "--to", "shards", "--out", tmp_path / "no", "--workers", 0) == 2
    assert f"{part} is not a Parquet file" in capsys.readouterr().err


def test_a_full_disk_keeps_what_is_done(tmp_path, capsys, monkeypatch):
    source = pictures(tmp_path / "source", each=5)
    room = [2]

    def place(part, target, really=reduce.place):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        room[0] -= 1
        really(part, target)

    monkeypatch.setattr(reduce, "place", place)
    words = [source, "--to", "shards", "--size", 24, "--out", tmp_path / "set", "--workers", 0, "--per-task", 5]
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert "2 tasks of up to 5 images are done and kept in" in said
    assert "free more, and the same command continues" in said
    assert not list((tmp_path / "set.part/tasks").glob(".*"))
    room[0] = 99
    assert run(*words) == 0
    assert room[0] == 97  # the two tasks that were missing
    assert "continued: 10 of 20 images" in capsys.readouterr().err


def test_what_cannot_be_packed_is_one_message_and_writes_nothing(tmp_path, capsys, monkeypatch):
    source = pictures(tmp_path / "source", each=2)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    flat = pictures(tmp_path / "flat", splits=("",), each=2, classes=("cat",))

    def complaint(*words):
        assert run(*words, "--workers", 0) == 2
        return capsys.readouterr().err

    to = ["--to", "shards", "--size", 24]
    assert "should be outside" in complaint(source, *to, "--out", source / "set")
    assert "has other files in it" in complaint(source, *to, "--out", full)
    assert "x.part: Not a directory" in complaint(source, *to, "--out", next(full.iterdir()) / "x")
    assert "the images have the splits test, train already" in complaint(
        source, *to, "--out", tmp_path / "set", "--split", "0.9,0.1"
    )
    assert "should be two shares for train and test" in complaint(
        source, *to, "--out", tmp_path / "set", "--split", "0.9,0.2"
    )
    assert "only a table has columns" in complaint(source, *to, "--out", tmp_path / "set", "--group", "patient")
    assert "should be 8 to 4096 pixels" in complaint(source, "--to", "lmdb", "--size", 2, "--out", tmp_path / "set")
    assert "contains no images" in complaint(full, *to, "--out", tmp_path / "set")
    assert "is the only class" in complaint(flat, *to, "--out", tmp_path / "set")
    packing(source, tmp_path / "done")
    message = complaint(source, "--to", "shards", "--size", 20, "--out", tmp_path / "done")
    assert "holds a set that differs in size; remove it, or name another folder" in message
    (source / "train/cat/00.png").write_bytes(encoded(smooth(99)))
    message = complaint(source, "--to", "shards", "--size", 24, "--out", tmp_path / "done")
    assert "differs in the images" in message
    monkeypatch.setattr(reduce, "versions", lambda: "Pillow 1.0")
    assert "has Pillow 1.0, but Pillow" in complaint(source, *to, "--out", tmp_path / "set")


def test_check_finds_the_same_on_an_engine(tmp_path):
    source = tree(tmp_path / "source", each=6)
    (source / "train/cat/text.jpg").write_bytes(b"hello, I am text")
    (source / "test/dog/copy.png").write_bytes((source / "train/dog/00.png").read_bytes())
    data = ImageFolder()
    here = inspect(source, data)
    with opened("local", 2) as engine:
        there = inspect(source, data, engine)
    assert (there.survey.seen, there.survey.unreadable) == (here.survey.seen, here.survey.unreadable)
    assert np.array_equal(there.survey.thumbs, here.survey.thumbs)
    assert (there.same, there.near, there.counts) == (here.same, here.near, here.counts)


def test_options_of_an_engine_need_one(tmp_path):
    with pytest.raises(UserError, match="add --engine local, dask or ray"):
        check.main([str(tree(tmp_path / "source")), "--workers", "2"])
