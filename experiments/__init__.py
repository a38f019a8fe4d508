"""Declared experiments, one folder each. An experiment never imports another; what two share stands in recipes.py.

$LABBOOK_EXPERIMENTS names a further folder (or several, separated as in $PATH) whose packages are experiments too.
"""

import os

__path__ += filter(None, os.environ.get("LABBOOK_EXPERIMENTS", "").split(os.pathsep))
