"""Libraries that only some data sets need: each missing one is told of in one line."""

from __future__ import annotations

import importlib
from typing import Any

from core.common.errors import DataError


def library(module: str, extra: str, why: str) -> Any:
    """The module. why: what needs it, for people.  extra: of pyproject.toml. Raises DataError where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        gone = isinstance(error, ModuleNotFoundError) and error.name == module
        state = "is missing" if gone else f"does not work here ({error})"
        raise DataError([f'{why}: its library {module} {state}; pip install -e ".[{extra}]"']) from None
