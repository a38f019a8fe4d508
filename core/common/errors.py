"""Every error with which a run, a search or a command can end."""

from __future__ import annotations

import signal
from collections.abc import Iterable


class UserError(ValueError):
    """Every mistake of a user at once: one line each, ready to print."""

    def __init__(self, lines: Iterable[str]):
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class Damaged(ValueError):
    """A checkpoint that is not what was written. The message names the file and what is wrong."""


class PeerLost(RuntimeError):
    """Another process of this run has died, so this one cannot continue; the run can be resumed."""


class Unfinished(RuntimeError):
    """A run had to stop for a reason outside of it (disk, a process that was killed). run: what `resume` takes."""

    def __init__(self, reason: str, run: str):
        self.run = run
        super().__init__(reason)


class Failing(RuntimeError):
    """Many trials of a search failed in a row: the cause lies in what they have in common."""


class OutOfMemory(RuntimeError):
    """The device or the machine is out of memory."""


class DataError(UserError):
    """The data are missing, damaged or different from the declaration. Each line says what to do."""


class ImageLost(RuntimeError):
    """A file that existed when the run started can no longer be read. The message names it."""


class NonFinite(ArithmeticError):
    """A loss or gradient was NaN or infinite. The weights were not updated with it. `step` counts from 1."""

    def __init__(self, step: int, epoch: int, where: str):
        self.step, self.epoch = step, epoch
        advice = "Lower optimizer.lr, add schedule.warmup_epochs or clip_grad_norm, or use precision fp32"
        if step == 1:  # no learning rate has changed a weight yet
            advice = "No weight had been updated yet: check the fields of loss, method and model, or use precision fp32"
        super().__init__(
            f"loss or gradient not finite at step {step} (epoch {epoch + 1}): {where}. The weights were not updated. "
            + advice
        )


class Interrupted(KeyboardInterrupt):
    """Stopped by a signal; the exit status is 128 + number.  run: the id of a run that can be resumed."""

    def __init__(self, number: int, where: str, run: str | None = None):
        self.number, self.run = number, run
        super().__init__(f"{signal.Signals(number).name}: {where}")


class WorkerLost(RuntimeError):
    """A loader worker process died, or did not answer for too long."""

    def __init__(self, what: str):
        super().__init__(f"{what}; if memory ran out, use fewer --workers; if reading is slow, raise --worker_timeout")
