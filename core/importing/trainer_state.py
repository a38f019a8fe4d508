"""trainer_state.json, in which Hugging Face's Trainer keeps what it has logged; every checkpoint has one.

The names get the prefixes that the Trainer itself gives them in TensorBoard and W&B: eval_loss is eval/loss, loss is
train/loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.importing.log import Log, Point, json_in, placed

KIND = "Hugging Face"
FILE = "trainer_state.json"
MOST_BYTES = 2**28
_SETTINGS = ("num_train_epochs", "max_steps", "train_batch_size")
_PLACES = ("step", "epoch")


def runs(files: Iterable[Path]) -> dict[Path, Path]:
    """Returns folder of a run -> its file. The latest checkpoint has the logs of those before; the folder around the
    checkpoints is the run."""
    found: dict[Path, tuple[int | float, Path]] = {}
    for file in files:
        start, _, step = file.parent.name.rpartition("-")
        is_checkpoint = start == "checkpoint" and step.isdigit()
        run, rank = (file.parent.parent, int(step)) if is_checkpoint else (file.parent, math.inf)
        if run not in found or rank > found[run][0]:
            found[run] = rank, file
    return {run: file for run, (_, file) in found.items()}


def read(path: Path) -> Log:
    """Read what a Trainer has logged. Raises UserError if the file is not that of a Trainer, or has no numbers."""
    state = _state(path)
    points, notes = placed(_points(path, state["log_history"]))
    if not points:
        raise UserError([f"{path}: nothing was logged in it yet; a later checkpoint has more"])
    params = {name: str(state[name]) for name in _SETTINGS if isinstance(state.get(name), int | float)}
    return Log(KIND, params, tuple(points), tuple(notes))


def _state(path: Path) -> dict[str, Any]:
    state = json_in(path, MOST_BYTES)
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise UserError([f"{path}: has no log_history, a list of what a Trainer of Hugging Face has logged"])
    found: dict[str, Any] = state
    return found


def _points(path: Path, history: Iterable[dict[str, Any]]) -> Iterator[Point]:
    for number, entry in enumerate(history, 1):
        step, epoch = entry.get("step"), entry.get("epoch")
        if type(step) is not int:
            raise UserError([f"{path}: entry {number} of log_history has no integer step"])
        whole = int(epoch) if isinstance(epoch, int | float) and float(epoch).is_integer() else None
        for name, value in entry.items():
            if name not in _PLACES and isinstance(value, int | float) and not isinstance(value, bool):
                yield Point(_prefixed(name), step, float(value), whole)


def _prefixed(name: str) -> str:
    split = next((split for split in ("eval", "test") if name.startswith(f"{split}_")), "")
    return f"{split}/{name.removeprefix(f'{split}_')}" if split else f"train/{name}"
