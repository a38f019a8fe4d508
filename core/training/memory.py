"""A step whose memory runs out: its gradients are computed again, in more micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from core.common.memory import is_out_of_memory, out_of_memory, release
from core.common.tensors import BatchNorm
from core.training import distributed
from core.training.state import State

T = TypeVar("T")


def within_memory(
    state: State, images: int, restart: Callable[[], None], gradients: Callable[[], T], divides: bool = True
) -> T:
    """Call `gradients`; as long as memory runs out, double `state.split` and call it again.

    images: number of images of a declared micro-batch.  restart: sets torch's generators as they were before the first
    call.  gradients: computes the gradients of a step in `state.split` parts for each declared micro-batch, and changes
    nothing else but the buffers of `state.trained`, which are set back, too: running statistics are not updated by a
    call that failed.

    With several processes, or if the declared micro-batches have to be kept (`divides`), the error is raised as it is:
    the others are waiting in the backward pass. Raises OutOfMemory if micro-batches cannot be divided further.
    """
    if distributed.several() or not divides:
        return gradients()
    state.keep_buffers()
    while True:
        try:
            return gradients()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if images // (2 * state.split) < _smallest(state.trained):
                left = -(-images // state.split)
                smallest = f"micro-batches of {left} image{'s' * (left > 1)} cannot be divided further"
                raise out_of_memory(error, f"{smallest}: choose a smaller model or smaller images") from error
        release()
        state.split *= 2
        state.reset_buffers()
        restart()


def _smallest(trained: nn.Module) -> int:
    """The smallest number of images in a micro-batch: BatchNorm cannot compute the variance of a single one."""
    return 2 if any(isinstance(module, BatchNorm) for module in trained.modules()) else 1
