"""Self-contained pages: tables, pictures, sentences. They fetch nothing and open without a server."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
  overflow-wrap: anywhere }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid #ddd; vertical-align: top }
th, td { white-space: nowrap } th:first-child, td:first-child, th:last-child, td:last-child { text-align: left }
td:last-child { white-space: normal; min-width: 18rem } svg { width: 100%; min-width: 42rem; height: auto }
"""


def text(raw: str) -> str:
    """As text of a page, whatever it holds."""
    return html.escape(raw)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are text, not HTML."""
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def items(lines: Iterable[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"


def svg(figure: Figure) -> str:
    """A figure as part of the page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    drawn = stream.getvalue()
    return f'<div class="wide">{drawn[drawn.index("<svg") :]}</div>'


def png(content: bytes, said: str) -> str:
    """A picture as part of the page. said: what it shows, for those who cannot see it."""
    return f'<img alt="{text(said)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """The whole page. title: text.  parts: HTML."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{text(title)}</title>'
    body = "".join(parts)
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}{style}</style></head><body>{body}</body></html>\n'
    )
