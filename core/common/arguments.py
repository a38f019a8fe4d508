"""What follows a verb of labbook on the command line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from core.common.errors import UserError


class Words(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and exit."""

    def __init__(self, verb: str, description: str | None):
        super().__init__(prog=f"labbook {verb}", description=description)

    def error(self, message: str) -> NoReturn:
        raise UserError([f"{self.prog.removeprefix('labbook ')}: {message}"])
