"""The long proof itself: in full with `-m slow` (LABBOOK_ENDURANCE=0.1 for a tenth), and that it can be trusted."""

import json
import os

import pytest

from tests import endurance
from tests.endurance import Tally, main, run
from tests.support import endurance_parts
from tests.support.endurance_parts import PARTS, Part


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", PARTS)
def test_to_its_target(name, tmp_path):
    target = max(1, round(PARTS[name].target * float(os.environ.get("LABBOOK_ENDURANCE", "1"))))
    tally = Tally(tmp_path / "state.json")
    assert run({name: target}, tally), tally.table({name: target})
    assert tally.of(name)["reached"] >= target


@pytest.fixture
def played(monkeypatch):
    """The rounds played of two parts that take no time; the third round of "weak" fails."""
    played = []

    def part(name, fails=None):
        def play(bench, number, folder):
            played.append((name, number))
            (folder / "left").touch()
            if number == fails:
                raise ValueError("out of order")
            return 5, []

        return Part(play, 5, 20)

    monkeypatch.setattr(endurance, "PARTS", {"sound": part("sound"), "weak": part("weak", 2)})
    return played


def test_it_goes_on_where_it_was_stopped_and_tells_of_failures(played, tmp_path, monkeypatch, capsys):
    state = tmp_path / "state.json"
    words = ["--state", str(state)]
    add = Tally.add

    def interrupted(tally, *arguments):
        add(tally, *arguments)
        if len(played) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Tally, "add", interrupted)
    assert main(words) == 1
    assert sum(counts["rounds"] for counts in json.loads(state.read_text())["parts"].values()) == 3
    assert main(words) == 1
    assert sorted(played) == [*(("sound", n) for n in range(4)), *(("weak", n) for n in range(5))]
    output = capsys.readouterr().out
    assert "python -m tests.endurance weak --round 2" in output
    assert "out of order" in output
    assert (tmp_path / "endurance-weak-2" / "left").exists()
    assert main(["weak", "--round", "2", *words]) == 1
    assert main(["sound", "--round", "0", *words]) == 0


def test_the_counts_are_written_whole(tmp_path, monkeypatch):
    tally = Tally(tmp_path / "state.json")
    tally.add("kills", 1, [])
    monkeypatch.setattr(endurance.os, "replace", lambda *paths: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception):
        tally.add("kills", 1, [])
    assert Tally(tmp_path / "state.json").of("kills")["reached"] == 1


def test_the_targets_are_those_of_the_page():
    output = {name: part.target for name, part in endurance_parts.PARTS.items()}
    assert output == {"kills": 100, "deep": 10, "points": 100_000, "images": 10_000, "mistakes": 20_000, "cold": 16}
