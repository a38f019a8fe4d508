"""Memory that runs out: how it is recognized, what is given back, forward passes in smaller parts, and the settings of
CUDA's allocator."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Mapping

import torch

from core.common.errors import OutOfMemory

ADVICE = "use --precision bf16, --model.grad_checkpointing true, --resident false or fewer --workers"
EXPANDABLE = "expandable_segments:True"
# the names that torch reads, the one that applies to any kind of GPU first
SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_NO_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|Cannot allocate memory|_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU (torch.OutOfMemoryError) or the machine ran out of memory."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


def out_of_memory(error: BaseException, advice: str) -> OutOfMemory:
    """The error to show to the user in place of this one. advice: what to change first."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    more = f"; {_about_fragmentation()}" if isinstance(error, torch.OutOfMemoryError) else ""
    return OutOfMemory(f"out of memory: {reason}; {advice}, {ADVICE}{more}")


def release() -> None:
    """Free what nothing refers to, and return the memory that CUDA's allocator keeps for later to the GPU.

    Call it after the block that caught an error: while the error is handled, its traceback refers to the tensors of the
    frames that it passed.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def in_parts(network: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network, images [N, ...] -> [N, ...], with as many images in a forward pass as memory allows.

    Where memory runs out, the pass is repeated once with the cache of the allocator emptied, then in twice as many
    parts, which later batches keep. The outputs differ by rounding at most, if those of an image do not depend on the
    others, as in evaluation mode. Raises the error of a pass that cannot be divided further.
    """
    parts, emptied = 1, False

    def outputs(images: torch.Tensor) -> torch.Tensor:
        nonlocal parts, emptied
        while True:
            try:
                return network(images) if parts == 1 else torch.cat([*map(network, images.tensor_split(parts))])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or (emptied and 2 * parts > len(images)):
                    raise
            release()
            parts, emptied = parts * (1 + emptied), True

    return outputs


def prefer_expandable() -> None:
    """Let segments of CUDA's allocator grow, unless the environment has settings of its own.

    Without it, memory is fragmented by batches of different sizes: those of training and evaluation, the steps that are
    repeated in more micro-batches. torch reads the setting when CUDA is first used; later, it has no effect.
    """
    if not any(name in os.environ for name in SETTINGS):
        os.environ[SETTINGS[0]] = EXPANDABLE


def _about_fragmentation() -> str:
    if any(EXPANDABLE in os.environ.get(name, "") for name in SETTINGS):
        return f"{EXPANDABLE}, which avoids fragmentation, is set"
    return f"set {SETTINGS[0]}={EXPANDABLE} to avoid fragmentation"


def of_gpu(counts: Mapping[str, int]) -> dict[str, float]:
    """System metrics of what torch.cuda.memory_stats has counted: the memory that tensors use now and at most so far,
    the memory that the allocator has reserved, in MB, and the fraction of it that no tensor uses.

    Empty for an allocator that does not count, such as cudaMallocAsync's.
    """
    used, reserved = (counts.get(f"{what}_bytes.all.current", 0) for what in ("allocated", "reserved"))
    if not reserved:
        return {}
    return {
        "system/torch_memory_allocated_megabytes": used / 2**20,
        "system/torch_memory_peak_megabytes": counts["allocated_bytes.all.peak"] / 2**20,
        "system/torch_memory_reserved_megabytes": reserved / 2**20,
        "system/torch_memory_fragmentation": (reserved - used) / reserved,
    }
