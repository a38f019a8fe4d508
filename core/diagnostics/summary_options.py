"""Options of `labbook summary`."""

from __future__ import annotations

from pydantic import Field

from core.diagnostics.drawing import Drawing


class SummaryOptions(Drawing):
    """What a summary shows besides the table of layers: a drawing, and the memory of a step (torch)."""

    memory: bool = Field(
        False, description="the memory that an optimizer step needs, by purpose and by layer, without training"
    )
    available: float | None = Field(
        None,
        gt=0,
        description="GB of memory that the step of --memory has to fit into; none: that of the first GPU, or what is "
        "free on this machine",
    )
