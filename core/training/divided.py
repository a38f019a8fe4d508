"""How a run is divided among its processes, as launched."""

from __future__ import annotations

from core.common.ranks import Ranks
from core.launch import Launch
from core.training.parallel import FSDP, PIPELINE, Parallel
from core.training.replicated import Replicated


def divided(launch: Launch, ranks: Ranks) -> Parallel:
    """The division of --parallel. What it needs of torch is imported only where it is used: that takes seconds."""
    if launch.parallel == FSDP:
        from core.training.sharded import Sharded

        return Sharded()
    if launch.parallel == PIPELINE:
        from core.training.staged import Staged

        return Staged(ranks, launch.microbatches)
    return Replicated(ranks.rank)
