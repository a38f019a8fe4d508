"""One process of a real all-reduce: python -m core.diagnostics.all_reduce BACKEND RANK RANKS FILE SECONDS."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta


def main(words: Sequence[str]) -> None:
    """Add up the numbers 1 .. RANKS, one of each process, and exit with status 1 if the sum is wrong.

    FILE: does not exist yet; the processes exchange their addresses in it.
    """
    import torch
    import torch.distributed as dist

    backend, (rank, ranks, seconds) = words[0], map(int, (words[1], words[2], words[4]))
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, init_method=f"file://{words[3]}", rank=rank, world_size=ranks, timeout=timedelta(seconds=seconds)
    )
    total = torch.full((1024,), rank + 1.0, device=device)
    dist.all_reduce(total)
    right = bool((total == ranks * (ranks + 1) / 2).all())
    dist.destroy_process_group()
    sys.exit(0 if right else "the sum is wrong")


if __name__ == "__main__":
    main(sys.argv[1:])
