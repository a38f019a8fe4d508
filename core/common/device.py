"""The device that a run computes on."""

from __future__ import annotations

import torch

from core.common.errors import UserError
from core.common.ranks import ALONE, Ranks


def device_of(name: str = "auto", ranks: Ranks = ALONE) -> torch.device:
    """Returns the device of this name: cpu, cuda, cuda:1, mps, or auto for the fastest one available.

    Each process of a run gets its own GPU. Raises UserError for a device that cannot be used on this machine.
    """
    if ranks.ranks > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        if ranks.local_ranks > torch.cuda.device_count():
            found = f"{ranks.local_ranks} processes, but {torch.cuda.device_count()} GPUs"
            raise UserError([f"device: {found}: start one process for each GPU, or use --device cpu"])
        torch.cuda.set_device(ranks.local_rank)
        return torch.device("cuda", ranks.local_rank)
    if name == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError([f"device: {name} cannot be used here: {reason}"]) from None
    return device
