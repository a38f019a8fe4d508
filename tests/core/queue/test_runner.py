"""labbook queue run: runners and the processes that they start, as real processes, killed and interrupted."""

import os
import signal
import time

import pytest

from core.cli import queue as command_line
from core.queue import entries
from core.queue.runner import Runner
from core.queue.slots import Slot, slots
from tests.support.queue_bench import until


def test_several_adders_and_two_runners_at_once_run_each_entry_once(bench):
    adders = []
    for _ in range(3):
        if (pid := os.fork()) == 0:
            try:
                bench.add("end", "end", "end")
                os._exit(0)
            finally:
                os._exit(1)
        adders.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in adders] == [0, 0, 0]
    assert list(entries.read()) == list(range(1, 10))
    first, second = bench.start("--jobs", "2"), bench.start("--jobs", "2")
    statuses, texts = [first.wait(), second.wait()], [first.text, second.text]
    assert statuses == [0, 0], texts
    assert set(bench.states().values()) == {"finished"}
    assert [len(bench.starts(number)) for number in range(1, 10)] == [1] * 9
    assert sum(text.count(" starts: python -m experiments.standin end") for text in texts) == 9


def test_an_entry_outlives_its_runner_and_is_never_trained_by_two_processes(bench):
    (number,) = bench.add("wait")
    first = bench.start()
    until(lambda: bench.starts(number))
    first.kill()
    first.wait()
    assert bench.states() == {number: "running"}
    second = bench.start()
    until(lambda: "\n" in second.text)
    pid = bench.starts(number)[0]["pid"]
    assert f"{number} is still trained by process {pid}, whose runner has ended" in second.text
    assert len(bench.starts(number)) == 1
    bench.go()
    assert second.wait() == 0, second.text
    assert bench.states() == {number: "finished"}
    first, again = bench.starts(number)  # the same command, as the same job, says what became of it
    assert first["LABBOOK_INVOCATION"] == again["LABBOOK_INVOCATION"]
    assert not (bench.folder / f"running-{number}").exists()


def test_what_was_killed_with_its_runner_is_interrupted_and_resumed(bench):
    (number,) = bench.add("wait")
    process = bench.start()
    until(lambda: bench.starts(number))
    process.kill()
    process.wait()
    bench.kill(number)
    assert bench.states() == {number: "interrupted"}
    bench.go()
    status, text = bench.run()
    assert status == 0, text
    assert f"{number} resumes: " in text
    assert bench.states() == {number: "finished"}


@pytest.mark.slow
def test_a_killed_process_fails_its_entry_alone_and_retry_resumes_it(bench, capsys):
    first, second = bench.add("wait", "end")
    process = bench.start()
    until(lambda: bench.starts(first))
    bench.kill(first)
    assert process.wait() == 1, process.text
    assert f"{first} failed: exit status 137" in process.text
    assert bench.states() == {first: "failed", second: "finished"}
    entries.update(first, state="waiting")
    bench.go()
    assert bench.run()[0] == 0


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["ctrl_c", "terminated"]
)
def test_one_signal_makes_every_run_save_and_the_next_runner_resumes_them(number, bench):
    bench.add("wait", "wait", "end")
    process = bench.start("--jobs", "2")
    until(lambda: bench.starts(1) and bench.starts(2))
    process.kill(number)
    assert process.wait() == 128 + number, process.text
    assert bench.states() == {1: "interrupted", 2: "interrupted", 3: "waiting"}
    assert entries.get(1).status == 143
    bench.go()
    status, text = bench.run()
    assert status == 0, text
    assert [len(bench.starts(each)) for each in (1, 2, 3)] == [2, 2, 1]


@pytest.mark.slow
def test_a_process_that_somebody_stops_is_not_started_again_by_itself(bench):
    (number,) = bench.add("wait")
    process = bench.start()
    until(lambda: bench.starts(number))
    os.kill(entries.process_of(number), signal.SIGTERM)
    assert process.wait() == 1, process.text
    assert f"{number} stopped: its process received SIGTERM; to resume it: labbook queue retry {number}" in process.text
    assert bench.states() == {number: "stopped"}


def test_an_entry_runs_after_others_have_finished_and_is_skipped_if_one_failed(bench, monkeypatch):
    failing, good = bench.add("fail", "end")
    (after_both,) = bench.add("end", after=(failing, good))
    (after_that,) = bench.add("end", after=(after_both,))
    (after_good,) = bench.add("end", after=(good,))
    status, text = bench.run("--jobs", "2")
    assert status == 1
    assert f"{failing} failed: exit status 3: the reason of the failure" in text
    assert f"{after_both} is skipped: entry {failing} failed" in text
    assert f"{after_that} is skipped: entry {after_both} was skipped" in text
    assert bench.states()[after_good] == "finished"
    monkeypatch.setattr("core.cli.launch.checked", lambda name, words: tuple(words))
    bench.go()
    assert command_line.main(["retry", str(failing)]) == 0
    assert bench.states() == {1: "waiting", 2: "finished", 3: "waiting", 4: "waiting", 5: "finished"}
    assert bench.run("--jobs", "2")[0] == 0
    assert (bench.folder / "order").read_text().split()[-3:] == ["1", "3", "4"]


def test_an_entry_whose_code_has_changed_is_held_and_says_what_and_how_to_release_it(bench):
    (number,) = bench.add("end")
    package = bench.folder / "packages" / "standin" / "__init__.py"
    package.write_text("VALUE = 2\n")
    status, text = bench.run()
    diff = entries.file(number, "diff")
    assert status == 1
    assert f"the code has changed since it was added: {package}; the whole diff is {diff}" in text
    assert f"labbook queue retry {number}" in text
    assert "-VALUE = 1\n+VALUE = 2\n" in diff.read_text()
    assert (bench.states(), bench.starts(number)) == ({number: "changed"}, [])
    status, text = bench.run("--changed", "run")
    assert (status, len(bench.starts(number))) == (0, 1), text
    assert "it runs with the present code" in text
    bench.key = ""
    (other,) = bench.add("end")  # added with this code
    package.unlink()
    assert bench.run()[0] == 1
    assert bench.states()[other] == "changed"
    assert "+++ /dev/null" in entries.file(other, "diff").read_text()


@pytest.mark.slow
def test_each_run_gets_a_gpu_that_no_other_runner_on_this_machine_uses(bench):
    bench.add("wait", "wait", "wait")
    first = bench.start(CUDA_VISIBLE_DEVICES="4,7")
    until(lambda: bench.starts(1) and bench.starts(2))
    second = bench.start(CUDA_VISIBLE_DEVICES="7,4")
    time.sleep(1.5)
    assert not bench.starts(3)
    assert {bench.starts(number)[0]["CUDA_VISIBLE_DEVICES"] for number in (1, 2)} == {"4", "7"}
    bench.go()
    for process in (first, second):
        assert process.wait() == 0, process.text
    assert len(bench.starts(3)) == 1


def test_the_slots_of_a_machine(monkeypatch):
    monkeypatch.setattr("core.queue.slots.usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert slots() == [Slot("2", 4), Slot("5", 4)]
    assert slots(jobs=1) == [Slot("2", None)]
    assert slots(cores=3) == [Slot("", 3), Slot("", 3)]
    assert slots(2, 4)[0].environment == {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "4"}
    for wrong in ((3, None), (3, 3), (None, 9)):
        with pytest.raises(ValueError, match=r"--jobs 3|--cores 9"):
            slots(*wrong)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots() == [Slot(None, None)]
    assert slots(jobs=2) == [Slot(None, 4)] * 2


def test_a_full_disk_loses_no_entry(bench, monkeypatch, capsys):
    """The outcome cannot be written; the next runner finds it out."""
    bench.add("end", "end")
    write = entries.write_atomic

    def full(path, text):
        if '"finished"' in text:
            raise OSError(28, "No space left on device", str(path))
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(entries, "write_atomic", full)
        assert Runner([Slot(None, None)]).run() == 1
    assert "No space left on device; no more entries are started" in capsys.readouterr().err
    assert bench.states() == {1: "interrupted", 2: "waiting"}
    assert Runner([Slot(None, None)]).run() == 0
    assert bench.states() == {1: "finished", 2: "finished"}


def test_of_a_grid_that_does_not_fit_onto_the_disk_nothing_is_added(bench, monkeypatch):
    bench.add("end")
    write = entries.write_atomic

    def full(path, text):
        if path.stem == "00004":
            raise OSError(28, "No space left on device", str(path))
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(entries, "write_atomic", full)
        with pytest.raises(OSError, match="No space left"):
            bench.add("end", "end", "end", "end")
    assert list(entries.read()) == [1]


def test_a_damaged_entry_is_reported_and_the_others_run(bench, capsys):
    bench.add("end", "end", "end")
    entries.file(1).write_text(entries.file(1).read_text()[:40])
    entries.file(2).write_text(entries.file(2).read_text().replace('"waiting"', '"wating"'))
    status, text = bench.run()
    assert status == 1
    assert "00001.json: damaged: " in text
    assert "00002.json: damaged: state: Input should be" in text
    assert bench.states() == {1: "damaged", 2: "damaged", 3: "finished"}
    assert command_line.main(["rm", "1"]) == 0
    assert bench.add("end") == [4]
    assert command_line.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "labbook queue rm 2" in shown
    assert str(entries.file(3, "log")) in shown
