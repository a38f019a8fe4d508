"""The global generators of Python, NumPy, and torch, lent to code of others and given back as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def lent_generators(seed: int) -> Iterator[None]:
    """Context manager in which the global generators of Python, NumPy, and torch (CPU) start from this seed, int >= 0.
    Afterwards their states are what they were before."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    try:
        with lent_torch_generator(seed):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def lent_torch_generator(seed: int) -> Iterator[None]:
    """As `lent_generators`, for torch alone, which takes much less time."""
    import torch

    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
