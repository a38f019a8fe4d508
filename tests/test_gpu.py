"""The GPU check itself: that it can be trusted, with the smallest sizes, on a CPU."""

import json

import pytest

from tests.gpu import __main__ as program
from tests.gpu.worker import Worker

FOUND = {
    "good": {"status": "passed", "seen": "all | well", "seconds": 1.0},
    "bad": {"status": "failed", "seen": "Traceback\nAssertionError: no", "seconds": 2.0},
    "fast": {"status": "passed", "seen": {"labbook": 10.0, "bare": 8.0, "ratio": 1.25, "rounds": 7}, "seconds": 3.0},
}


class Fake:
    def __init__(self, *given):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def ask(self, name, seconds):
        return FOUND.get(name) or {"status": "passed", "seen": {"gpu": "none", "torch": "2"}, "seconds": 0.1}


def test_entries_run_in_a_process_of_their_own_that_is_started_anew_after_a_failure():
    with Worker("cpu", small=True) as worker:
        assert worker.ask("expandable", 100)["status"] == "skipped"
        late = worker.ask("deterministic", 0.01)
        assert (late["status"], late["seen"].splitlines()[-1]) == ("failed", "it took more than 0 s")
        found = worker.ask("found_inf", 100)
        assert found["status"] == "passed", found["seen"]
        assert "not finite at step 3" in found["seen"]
        assert "KeyError" in worker.ask("unknown", 100)["seen"]


def test_the_result_is_written_after_each_entry_and_failures_do_not_end_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program, "Worker", Fake)
    monkeypatch.setattr(program.Entries, "all", lambda: program.Entries({}, dict.fromkeys(FOUND, 10)))
    assert program.main(["--device", "cpu", "--small", "--out", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["entries"] == FOUND
    table = (tmp_path / "gpu.md").read_text().splitlines()
    assert table[0] == "gpu none, torch 2"
    assert "| `good` | passed | 1.0 | all / well |" in table
    assert "| `bad` | failed | 2.0 | AssertionError: no |" in table
    assert "| `fast` | 10.0 | 8.0 | 1.25x | 7 |" in table
    assert program.main(["--only", "good", "fast", "--out", str(tmp_path)]) == 0
    assert program.main(["--only", "good", "--minutes", "0", "--out", str(tmp_path)]) == 0
    assert "no time left" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        program.main(["--only", "godo"])
    assert "no such entry: godo; there is good, bad, fast" in capsys.readouterr().err
