"""labbook look NAME: the first images of the first batch, after every augmentation, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.cli.find_experiment import execute, find_experiment, handle_help, only_one
from core.common.errors import UserError
from core.common.ranks import ALONE
from core.common.terminal import tell
from core.experiment import Experiment
from core.launch import Launch
from core.options import Options


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    experiment, rest = find_experiment("look", words)
    if handle_help(experiment, rest):
        return 0
    path = Path(f"look_{experiment.name}.png")
    if "--to" in rest:
        place = rest.index("--to")
        _, *given = rest[place : place + 2]
        if not given or not Path(given[0]).absolute().parent.is_dir():
            raise UserError(["--to: needs the path of a PNG in a folder that exists"])
        path = Path(given[0])
        del rest[place : place + 2]
    options = experiment.parse(rest)
    return execute(experiment, lambda: _look(options, path))


def _look(options: Options, path: Path) -> int:
    only_one(options, "look")
    tell(str(look(options.experiment, options.launch, path)))
    return 0


def look(experiment: Experiment, launch: Launch, path: Path) -> Path:
    """Write the contact sheet of a declaration without training it. Returns its path. Raises UserError as `train`."""
    from core.diagnostics.contact_sheet import contact_sheet
    from core.training.assemble import prepare

    contact_sheet(path, prepare(experiment, launch, ALONE))
    return path
