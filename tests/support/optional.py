"""Libraries that some tests need and labbook does not."""

from types import ModuleType

import pytest


def library(module: str, *, extra: str = "", package: str = "") -> ModuleType:
    """The module. Skips the test, or the file, where it is not installed, saying what installs it."""
    wanted = f"-e '.[{extra}]'" if extra else package
    found: ModuleType = pytest.importorskip(
        module, reason=f"{module.partition('.')[0]} is not installed: pip install {wanted}"
    )
    return found
