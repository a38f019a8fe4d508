"""The pictures of runs and studies, left blank: drawing takes most of the time of a short run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from PIL import Image

from core.common import plots

BLANK = "LABBOOK_TESTS_BLANK"  # in the environment of the programs that a test starts
DRAW = {name: getattr(plots, name) for name in ("learning_curves", "confusion_matrix", "save")}


def _blank(path: Any) -> None:
    Image.new("1", (1, 1)).save(path)


_BLANK: dict[str, Callable[..., None]] = {
    "learning_curves": lambda history, best, path: _blank(path),
    "confusion_matrix": lambda counts, classes, path, title: _blank(path),
    "save": lambda figure, path: _blank(path),
}


def leave_blank(setattr: Callable[[Any, str, Any], None] = setattr) -> None:
    """In this process. The plots of a study, which are Optuna's, are left out."""
    for name, function in _BLANK.items():
        setattr(plots, name, function)
    if search := sys.modules.get("core.search.search"):
        setattr(search, "log_plots", lambda journal, study, goals: None)


def as_declared() -> None:
    """In a process that a test has started: as in the test."""
    if os.environ.get(BLANK):
        leave_blank()
