"""The exceptions that end a run, a search or a command."""

from __future__ import annotations

import signal
from collections.abc import Iterable


class UserError(ValueError):
    """One or more errors of the user. lines: one message for each error, ready to print."""

    def __init__(self, lines: Iterable[str]):
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class Damaged(ValueError):
    """A checkpoint is damaged: its contents are not what was written. The message names the file and the problem."""


class PeerLost(RuntimeError):
    """Another process of this run has died, so this one cannot continue; the run can be resumed."""


class Unfinished(RuntimeError):
    """A run had to stop for an external reason, such as a full disk or a killed process. run: id, for `resume`."""

    def __init__(self, reason: str, run: str):
        self.run = run
        super().__init__(reason)


class Failing(RuntimeError):
    """A search stopped, because consecutive trials or workers failed, or its storage is unreachable."""


class OutOfMemory(RuntimeError):
    """The device or the machine is out of memory."""


class NotCompiled(RuntimeError):
    """torch.compile failed to translate the step of a run."""


class DataError(UserError):
    """The data are missing, damaged, or do not match the declaration. Each line says what to do."""


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


class NothingValidated(NonFinite):
    """The monitored metric was NaN in every epoch, so that no weights are the best ones."""

    def __init__(self, metric: str, epochs: int):
        ArithmeticError.__init__(
            self,
            f"{metric} was NaN in each of {epochs} epochs: no epoch is the best one, and no test image was read. "
            "The training loss was finite, so look at the validation images and at what evaluation does differently "
            "(batch normalization, dropout, ema); lower optimizer.lr, or use precision fp32",
        )


class Interrupted(KeyboardInterrupt):
    """A signal stopped the process, which exits with status 128 + number. run: id of the run to resume, if any."""

    def __init__(self, number: int, where: str, run: str | None = None):
        self.number, self.run = number, run
        super().__init__(f"{signal.Signals(number).name}: {where}")


class WorkerLost(RuntimeError):
    """A loader worker process died, or did not answer for too long."""

    def __init__(self, what: str):
        super().__init__(f"{what}; if memory ran out, use fewer --workers; if reading is slow, raise --worker_timeout")
