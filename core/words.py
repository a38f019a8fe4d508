"""What follows a verb of labbook on the command line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from core.part import Mistakes


class Words(argparse.ArgumentParser):
    """Raises Mistakes where argparse would print its usage and exit."""

    def __init__(self, verb: str, description: str | None):
        super().__init__(prog=f"labbook {verb}", description=description)

    def error(self, message: str) -> NoReturn:
        raise Mistakes([f"{self.prog.removeprefix('labbook ')}: {message}"])
