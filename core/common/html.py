"""Render HTML pages that need no other file, and plain texts, from Jinja templates beside the modules that use them."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure


def render(template: str, **values: Any) -> str:
    """Render a template of core, for example "report/page.html.jinja", with escaped text.

    Raises jinja2.UndefinedError if a value that the template uses is missing.
    """
    return _environment().get_template(template).render(values)


def render_text(template: str, **values: Any) -> str:
    """As `render`, for a text that is not HTML: nothing is escaped."""
    return _environment(False).get_template(template).render(values)


@cache
def _environment(escapes: bool = True) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("core", ""),
        autoescape=escapes,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def svg(figure: Figure) -> Markup:
    """Returns a figure as an SVG element."""
    from markupsafe import Markup

    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    drawn = stream.getvalue()
    return Markup(drawn[drawn.index("<svg") :])


def data_uri(png: bytes) -> str:
    """Returns the content of a PNG file as a data URI, which embeds it in the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
