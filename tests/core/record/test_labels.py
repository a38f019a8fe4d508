"""Names, notes, tags and archive marks of runs: given at any time, by several processes, killed or not."""

import multiprocessing
import os
import signal
import time

import pytest

from core.common import paths
from core.common.errors import UserError
from core.launch import Launch
from core.record import journal, lock
from core.record.labels import ARCHIVED, NAME, NOTE, Labels, checked_name, labels, refusal, tag_texts, write_labels
from core.record.run import LABELS
from core.runs.recorder import RunInfo
from core.runs.seeds import resume_seeds, train_seeds
from core.runs.train import train
from experiments.tiny import EXPERIMENT

QUICK = EXPERIMENT.but({"epochs": 1, "limit": 64})
QUIET = Launch(mlflow=False, threads=1)


def on_record(name="tiny-20260101-000000-aaaa"):
    journal.Journal(paths.runs() / name).close("FINISHED")
    return paths.runs() / name


def test_the_last_text_of_a_label_stands_and_an_empty_one_removes_it(home):
    folder = on_record()
    assert labels(folder) == Labels()
    write_labels(folder, {NAME: "first", "stage": "draft", "who": "me"})
    write_labels(folder, {NAME: "second", NOTE: "two\nlines", "stage": "", ARCHIVED: "true"})
    assert labels(folder) == Labels("second", "two\nlines", {"who": "me"}, True)
    write_labels(folder, {ARCHIVED: ""})
    assert not labels(folder).archived


def test_a_run_that_is_trained_can_be_labeled_and_its_journal_is_left_alone(home):
    folder = on_record()
    before = (folder / journal.FILE).read_bytes()
    with lock.locked(folder):
        write_labels(folder, {"stage": "paper"})
    assert labels(folder).tags == {"stage": "paper"}
    assert (folder / journal.FILE).read_bytes() == before


def _label_slowly(folder, number):
    write = os.write

    def in_halves(descriptor, data):
        first = write(descriptor, data[: len(data) // 2])
        time.sleep(0.005)
        return first + write(descriptor, data[len(data) // 2 :])

    os.write = in_halves
    for at in range(8):
        write_labels(folder, {f"tag{number}": str(at)})


def test_two_processes_at_once_lose_nothing(home):
    folder, start = on_record(), multiprocessing.get_context("fork")
    workers = [start.Process(target=_label_slowly, args=(folder, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sum(1 for _ in journal.read(folder, LABELS)) == 16
    assert labels(folder).tags == {"tag0": "7", "tag1": "7"}


def _label_and_die(folder):
    write = os.write

    def torn(descriptor, data):
        write(descriptor, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    os.write = torn
    write_labels(folder, {"stage": "paper"})


def test_a_process_killed_in_the_middle_of_a_line_leaves_the_labels_before(home):
    folder = on_record()
    write_labels(folder, {"stage": "draft"})
    worker = multiprocessing.get_context("fork").Process(target=_label_and_die, args=(folder,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert not (folder / LABELS).read_bytes().endswith(b"\n")
    assert labels(folder).tags == {"stage": "draft"}
    write_labels(folder, {"who": "me"})
    assert labels(folder).tags == {"stage": "draft", "who": "me"}


def test_a_removed_run_is_not_made_again(home):
    with pytest.raises(UserError, match="was removed meanwhile"):
        write_labels(paths.runs() / "tiny-20260101-000000-aaaa", {"stage": "paper"})
    assert not paths.runs().exists()


def test_wrong_tags_are_all_named():
    words = ["stage", "seed=1", "mlflow.user=me", "a b=1", "x=1", "x=2"]
    with pytest.raises(UserError) as caught:
        tag_texts(words)
    said = caught.value.lines
    assert len(said) == 5
    assert said[0] == "stage: a tag is written NAME=TEXT, such as stage=paper; NAME= removes it"
    assert "the tag seed is reserved" in said[1]
    assert "the tag mlflow.user is reserved" in said[2]
    assert "letters, digits" in said[3]
    assert said[4] == "x: given twice"
    for name in ("", " ", "a\nb", "x" * 251):
        with pytest.raises(UserError, match="a name is one line"):
            checked_name(name)


def test_names_and_tags_of_a_training_reach_each_seed_and_every_tag_of_labbook_is_reserved(home):
    info = RunInfo("tiny", name="wide", tags={"stage": "paper"})
    seeds = train_seeds(QUICK, 2, QUIET, info)
    assert labels(seeds.parent.folder) == Labels("wide", "", {"stage": "paper"})
    assert seeds.parent.opening["name"] == "wide"
    assert [labels(run.folder).name for run in seeds.runs] == ["wide seed 0", "wide seed 1"]
    assert all(labels(run.folder).tags == {"stage": "paper"} for run in seeds.runs)
    own = [name for run in (seeds.parent, *seeds.runs) for name in run.tags]
    assert len(own) > 30
    assert [name for name in own if not refusal(name)] == []


def test_seeds_that_are_trained_after_an_interruption_are_labeled_like_the_others(home, monkeypatch):
    with monkeypatch.context() as stopped:
        stopped.setattr("core.runs.seeds._Group._summarize", lambda *arguments: None)
        stopped.setattr("core.runs.seeds.write_summary", lambda run, status: None)
        stopped.setattr(journal.Journal, "close", lambda *arguments, **fields: None)
        seeds = train_seeds(QUICK, 1, QUIET, RunInfo("tiny", tags={"stage": "paper"}))
    assert seeds.parent.status != "FINISHED"
    write_labels(seeds.parent.folder, {"stage": "draft"})
    monkeypatch.setattr("core.runs.seeds._Group._below", lambda group: {})  # the run was lost
    (again,) = resume_seeds(seeds.parent).runs
    assert labels(again.folder).tags == {"stage": "draft"}


def test_runs_without_labels_are_as_before(home):
    run = train(QUICK, QUIET, "tiny")
    assert not (run.folder / LABELS).exists()
    assert run.opening["name"].endswith(f"seed 0 {run.id[-4:]}")
