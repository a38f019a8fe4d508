"""Functions and classes of the user that a declaration names as "package.module:name", imported when needed."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from core.common.errors import UserError
from core.common.text import did_you_mean, snake

CORE = Path(__file__).parents[1]


def spelled(name: str) -> str:
    """The name, if it is of the form package.module:function. Raises ValueError."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise ValueError("should be package.module:function, such as my_project.data:make_train")
    return name


Factory = Annotated[str, AfterValidator(spelled)]


def imported(factory: str) -> Any:
    """The function or class that "package.module:name" names; a module is also looked for in the current folder.

    Raises UserError that says what could not be imported, what Python said, and where.
    """
    module, _, path = factory.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # of an entry point such as labbook, which Python does not give it
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the code of a user raises
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            advice = f"run the command in the folder that contains {module.partition('.')[0]}, or install it"
            raise UserError([f"{factory}: there is no module {error.name}; {advice}"]) from None
        raise UserError([f"{factory}: importing {module} failed: {said(error)}"]) from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise UserError([f"{factory}: {module} has no {name}{did_you_mean(name, vars(found))}"])
        found = getattr(found, name)
    if not callable(found):
        raise UserError([f"{factory} is of type {type(found).__name__}; name a function or a class"])
    return found


def called(factory: str, arguments: Mapping[str, Any]) -> Any:
    """What the named function or class returns. Raises UserError."""
    function = imported(factory)
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise UserError(
            [f"{factory} does not take these arguments: {error}; it takes {_signature(function)}"]
        ) from None
    except ValueError:
        pass  # a function of C, whose arguments only it knows
    try:
        return function(**arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError([f"{factory} failed: {said(error)}"]) from None


def label_of(name: str | None, factory: str | None) -> str:
    """A label for what is given by its class name or by a factory: the last word of either, in snake case."""
    return snake(name or str(factory).rpartition(":")[2].rpartition(".")[2])


def said(error: BaseException) -> str:
    """The last line of what Python says about an error, and the file and line of the user's code that led to it."""
    reason = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError) and error.filename:
        return f"{reason} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<") and not _is_installed(frame.filename)]
    own = [frame for frame in own if not Path(frame.filename).is_relative_to(CORE)]
    return f"{reason} ({own[-1].filename}, line {own[-1].lineno})" if own else reason


def _is_installed(filename: str) -> bool:
    paths = sysconfig.get_paths()
    return any(Path(filename).is_relative_to(paths[name]) for name in ("stdlib", "purelib", "platlib"))


def _signature(function: Any) -> str:
    return str(inspect.signature(function))[:200]
