"""When a run ends before its epochs do: functions of the validation history. No counter to save."""

from __future__ import annotations

from pydantic import Field

from core.declare.part import Part
from core.metrics.names import History, Metric, scores


class EarlyStopping(Part):
    """Stop when `metric` has not improved by more than `min_delta` for `patience` epochs (Prechelt 1998, UP_s with
    strips of one epoch). Whether larger or smaller is better follows from the metric's name."""

    patience: int = Field(10, ge=1, description="epochs without improvement that are borne")
    min_delta: float = Field(0.0, ge=0, description="an improvement must exceed this, in units of the metric")
    monitor: Metric = Field("val/accuracy", description="what is watched")

    def __call__(self, history: History) -> bool:
        best, since = -float("inf"), 0
        for score in scores(history, self.monitor):
            best, since = (score, 0) if score > best + self.min_delta else (best, since + 1)
        return since >= self.patience


def out_of_time(history: History, minutes: float) -> bool:
    """Whether one more epoch would go beyond the budget, at the mean pace of the epochs so far.

    An entry's "minutes" is the time trained up to the end of that epoch, over all resumes. The first epoch is always
    trained: without one there is nothing to keep.
    """
    if not history:
        return False
    spent = history[-1]["minutes"]
    return spent + spent / len(history) > minutes
