"""Every error that a run, a search or a command can end with."""

from __future__ import annotations

import signal
from collections.abc import Iterable


class UserError(ValueError):
    """What a user got wrong, all of it at once: one line each, ready to print."""

    def __init__(self, lines: Iterable[str]):
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class Damaged(ValueError):
    """A checkpoint that is not what was written. The message names the file and what is wrong."""


class PeerLost(RuntimeError):
    """Another process of this run has gone, and so this one cannot go on; the run can be resumed."""


class Unfinished(RuntimeError):
    """A run had to stop for a reason outside of it (disk, a process that was killed). run: what `resume` takes."""

    def __init__(self, reason: str, run: str):
        self.run = run
        super().__init__(reason)


class Failing(RuntimeError):
    """Trial after trial of a search failed: the cause lies in what they share."""


class OutOfMemory(RuntimeError):
    """The device, or the machine, has no memory left."""


class DataError(UserError):
    """The data are missing, broken or not what the declaration says. Each line says what to do."""


class ImageLost(RuntimeError):
    """A file that was there when the run began cannot be read any more. One line that names it."""


class NonFinite(ArithmeticError):
    """A loss or gradient was NaN or infinite. The weights were kept from it. `step` counts from 1."""

    def __init__(self, step: int, epoch: int, where: str):
        self.step, self.epoch = step, epoch
        advice = "Lower optimizer.lr, add schedule.warmup_epochs or clip_grad_norm, or use precision fp32"
        if step == 1:  # no rate has moved anything yet
            advice = "Nothing had moved yet: look at the fields of loss, method and model, or use precision fp32"
        super().__init__(
            f"loss or gradient not finite at step {step} (epoch {epoch + 1}): {where}. The weights were kept from it. "
            + advice
        )


class Interrupted(KeyboardInterrupt):
    """Left because of a signal; the exit status is 128 + number.  run: the id of one that can be resumed."""

    def __init__(self, number: int, where: str, run: str | None = None):
        self.number, self.run = number, run
        super().__init__(f"{signal.Signals(number).name}: {where}")


class WorkerLost(RuntimeError):
    """A process that loads images died, or gave no sign of life for too long."""

    def __init__(self, what: str):
        super().__init__(f"{what}; if memory ran out, use fewer --workers; if reading is slow, raise --worker_timeout")
