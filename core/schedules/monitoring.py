"""Monitoring, the base class of parts that follow a validation metric over the epochs."""

from __future__ import annotations

from abc import ABC
from typing import Any

from pydantic import Field, PrivateAttr

from core.context import Context
from core.declare.part import Part
from core.metrics.names import MONITORED, History, Monitor, scores


class Monitoring(Part, ABC):
    """Base class of parts with a field `monitor`. Whether the metric is maximized or minimized follows from its name
    or, if the declaration adds it, from its part."""

    monitor: Monitor = Field(description=f"validation metric to monitor: {MONITORED}")
    _better: int | None = PrivateAttr(None)

    def build(self, context: Context) -> Any:
        built = self.model_copy()
        built._better = context.directions.get(self.monitor)
        return built

    def scores(self, history: History) -> list[float]:
        """Values of the monitored metric per epoch, with sign such that larger is better. Raises UserError."""
        return scores(history, self.monitor, self._better)
