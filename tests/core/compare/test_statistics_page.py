"""The example of docs/statistics.md is what compare prints."""

from core.cli.compare import main as command
from tests.support.documentation import ROOT, blocks
from tests.support.example import write_example


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def test_the_table_of_the_page_is_what_compare_prints(lab, capsys):
    write_example(lab)
    assert command(["tiny"]) == 0
    page = (ROOT / "docs" / "statistics.md").read_text()
    assert lines(capsys.readouterr().out) == lines(blocks(page, "text")[0].code)
