"""Declared experiments, one folder each. An experiment never imports another; what two share stands in recipes.py.

$LABBOOK_EXPERIMENTS names a further folder (or several, separated as in $PATH) whose packages are experiments too.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

__path__ += filter(None, os.environ.get("LABBOOK_EXPERIMENTS", "").split(os.pathsep))


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Describe an error in an experiment in one line, as `labbook train` does."""
    from core.cli.exits import explain
    from core.cli.find_experiment import import_errors
    from core.common.errors import UserError

    sys.excepthook = sys.__excepthook__
    if not (lines := import_errors(error)):
        return sys.__excepthook__(kind, error, trace)
    raise SystemExit(explain("the experiment cannot be imported", UserError(lines)))


for _name in ("core", "data"):
    _found = find_spec(_name)
    if _found and _found.origin and Path(__file__).resolve().parents[1] not in Path(_found.origin).resolve().parents:
        # `python -m` looks into the folder in which it is typed first
        raise SystemExit(
            f"{_found.origin} hides the package {_name} of labbook; type the command in another folder or rename it"
        )

if sys.argv[:1] == [
    "-m"
]:  # Python imports the experiment of `python -m experiments.NAME` before labbook can catch errors
    sys.excepthook = _explain
