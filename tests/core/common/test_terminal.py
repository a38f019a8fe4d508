"""Tables on standard output, whoever reads it."""

import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from core.cli.main import run as labbook
from core.cli.verbs import VERBS
from core.common.terminal import complain, console, tell
from core.common.text import printable


def test_a_pipe_gets_tables_wide_enough_for_names(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table()
    table.add_column("a_name_that_must_not_be_cut" * 4)
    console().print(table)
    assert "a_name_that_must_not_be_cut" * 4 in capsys.readouterr().out
    assert console(90).width == 90
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert console(90).width != 90


EVIL = "\x1b]0;owned\x07\x1b[31mname\r\x9b2J\u202e\udc80[/bold]"


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_what_is_printable_controls_nothing_and_loses_nothing(text):
    shown = printable(text)
    shown.encode()
    assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char not in "\t\n"]
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200f")
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text
    assert printable(text, "ascii").isascii()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_from_outside_reach_no_terminal(encoding, monkeypatch):
    """Neither by a line nor by a table; and a name that cannot be encoded does not end the output."""
    for name, write in (("stdout", tell), ("stderr", complain)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, name, stream)
        write(f"run {EVIL} ä")
        write("after")
        shown = stream.buffer.getvalue().decode(encoding)
        assert not set(shown) & set("\x1b\x07\x9b\r\u202e")
        assert shown.endswith("after\n")
        assert "\\x1b[31mname\\r\\x9b2J\\u202e\\udc80[/bold]" in shown


@pytest.mark.parametrize(("name", "write"), [("stdout", tell), ("stderr", complain)])
def test_a_line_is_written_in_one_piece(name, write, monkeypatch):
    """So that lines of several threads or processes do not mix."""
    pieces = []

    class Stream(io.StringIO):
        def write(self, text):
            pieces.append(text)
            return len(text)

    monkeypatch.setattr(sys, name, Stream())
    write("one")
    write("two")
    assert pieces == ["one\n", "two\n"]


def test_tables_show_names_as_they_are(capsys):
    table = Table(title=f"title {EVIL}", box=None)
    table.add_column(f"head {EVIL}")
    table.add_row(EVIL)
    console().print(table)
    console().print(f"line {EVIL}", highlight=False)
    text = capsys.readouterr().out
    assert text.count("\\x1b[31mname\\r\\x9b2J\\u202e\\udc80[/bold]") == 4
    assert "\x1b" not in text


def test_commands_print_no_escape_of_an_imported_run(home, tmp_path, capsys):
    old = tmp_path / "old\x1b[31mrun"
    old.mkdir()
    (old / "metrics.csv").write_text("epoch,val_accuracy,bad\x1b[2Jname\n0,0.5,1\n1,0.6,2\n")
    assert labbook("import", [str(old), "--experiment", "old"], VERBS) == 0
    assert labbook("compare", ["old", "--metric", "val/accuracy"], VERBS) == 0
    assert labbook("compare", ["gone\x1b[31m"], VERBS) == 2
    found = capsys.readouterr()
    assert "\x1b" not in found.out + found.err
    assert "gone\\x1b[31m" in found.err
