"""The templates of pages: what is text stays text, and an installed labbook has them."""

import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from core.common import html

ROOT = Path(__file__).parents[3]
VALUES = {"title": "a < b", "forest": "", "headings": ["<i>"], "rows": [["<td>"]], "sentences": ["'&'"], "curves": ""}
VALUES |= {"matrices": None, "settings": 1, "most": 12}


def test_text_is_escaped_in_pages_and_macros():
    page = html.render("compare/page.html.jinja", **VALUES)
    for raw in ("<title>a &lt; b</title>", "<h1>a &lt; b</h1>", "<th>&lt;i&gt;</th>", "<td>&lt;td&gt;</td>"):
        assert raw in page
    assert "<li>&#39;&amp;&#39;</li>" in page
    assert page.startswith("<!doctype html>")


def test_a_value_that_a_template_lacks_is_an_error():
    del (lacking := VALUES.copy())["rows"]
    with pytest.raises(UndefinedError, match="rows"):
        html.render("compare/page.html.jinja", **lacking)


def test_templates_are_package_data():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    templates = [path for path in ROOT.glob("core/**/*") if path.is_file() and ".jinja" in path.name]
    assert len(templates) >= 4
    assert all(any(path.match(pattern) for pattern in patterns) for path in templates)
    assert all((path.parent / "__init__.py").exists() for path in templates)
