"""Optional libraries: their import, and what to do without them."""

from __future__ import annotations

import importlib
from typing import Any

from core.common.errors import UserError


def lacking(module: str, extra: str, why: str) -> list[str]:
    """The message of `library`, in a list; empty if the module can be imported."""
    try:
        library(module, extra, why)
    except UserError as error:
        return list(error.lines)
    return []


def library(module: str, extra: str, why: str) -> Any:
    """Import a module.  extra: the extra of pyproject.toml that installs it.  why: what needs it, for the message.

    Raises UserError, in one line, if the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module
        state = "is not installed" if missing else f"cannot be imported ({error})"
        advice = f'install it with pip install -e ".[{extra}]"'
        raise UserError([f"{why} requires the library {module}, which {state}; {advice}"]) from None
