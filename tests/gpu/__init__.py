"""The GPU check: every path of labbook that needs a GPU, and ratios to bare scripts. `python -m tests.gpu`."""

import tests.support  # noqa: F401 its experiments become known
