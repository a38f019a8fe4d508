"""Declared experiments, one folder each. An experiment never imports another; what two share stands in recipes.py.

$LABBOOK_EXPERIMENTS names a further folder (or several, separated as in $PATH) whose packages are experiments too.
"""

import os
import sys
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


if sys.argv[:1] == [
    "-m"
]:  # Python imports the experiment of `python -m experiments.NAME` before labbook can catch errors
    sys.excepthook = _explain
