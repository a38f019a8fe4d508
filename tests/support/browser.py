"""A real browser for the tests that look at pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.optional import library


@contextmanager
def chromium() -> Iterator:
    """Playwright's browser. Skips the test where Chromium or playwright is not installed."""
    playwright = library("playwright.sync_api", package="playwright")
    programs = map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    program = next(filter(None, programs), None)
    if program is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
