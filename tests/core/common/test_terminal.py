"""Tables on standard output, whoever reads it."""

import sys

from rich.table import Table

from core.common.terminal import console


def test_a_pipe_gets_tables_wide_enough_for_names(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table()
    table.add_column("a_name_that_must_not_be_cut" * 4)
    console().print(table)
    assert "a_name_that_must_not_be_cut" * 4 in capsys.readouterr().out
    assert console(90).width == 90
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert console(90).width != 90
