"""Early stopping and the time limit: pure functions of the validation history, without state to save."""

from __future__ import annotations

from pydantic import Field

from core.metrics.names import MONITORED, History, Monitor
from core.schedules.monitoring import Monitoring


class EarlyStopping(Monitoring):
    """Stop training when the metric `monitor` has not improved for `patience` epochs (Prechelt 1998: UP_s with strips
    of one epoch)."""

    patience: int = Field(10, ge=1, description="epochs without improvement after which training stops")
    min_delta: float = Field(
        0.0, ge=0, description="minimum change of the metric, in its units, that counts as an improvement"
    )
    monitor: Monitor = Field("val/accuracy", description=f"validation metric to monitor: {MONITORED}")

    def __call__(self, history: History) -> bool:
        best, since = -float("inf"), 0
        for score in self.scores(history):
            best, since = (score, 0) if score > best + self.min_delta else (best, since + 1)
        return since >= self.patience


def out_of_time(history: History, minutes: float) -> bool:
    """Whether another epoch would exceed the time limit, given the mean duration of the epochs so far.

    "minutes" of a history entry is the training time up to the end of that epoch, including time before a resume. The
    first epoch is always trained, so that a run has a result.
    """
    if not history:
        return False
    spent = history[-1]["minutes"]
    return spent + spent / len(history) > minutes
