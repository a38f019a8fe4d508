"""Randomness as a function of (seed, epoch, index): integer keys, hashed to uniforms.

No generator has a state to save or to share: the same key gives the same bits in any process, in numpy and in torch,
on CPU and GPU. Keys are int64; arithmetic wraps. The hash is the 64-bit finalizer of MurmurHash3 (Appleby, 2011).
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Keys = TypeVar("Keys", "np.ndarray", "torch.Tensor")

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, odd, as int64
_UNSIGNED_SHIFT = (1 << 31) - 1  # >> is arithmetic on int64: mask the copies of the sign away


def mix(keys: Keys) -> Keys:
    """A bijection of int64 in which every input bit moves every output bit."""
    keys = keys ^ ((keys >> 33) & _UNSIGNED_SHIFT)
    keys = keys * -49064778989728563
    keys = keys ^ ((keys >> 33) & _UNSIGNED_SHIFT)
    keys = keys * -4265267296055464877
    mixed: Keys = keys ^ ((keys >> 33) & _UNSIGNED_SHIFT)
    return mixed


def fold(keys: Keys, values: Keys) -> Keys:
    """Keys that also depend on `values` (int64, broadcast)."""
    return mix((keys ^ (values * _GOLDEN)) + _GOLDEN)


def unfold(keys: Keys, values: Keys) -> Keys:
    """The keys that were folded with `values`: fold(unfold(keys, values), values) == keys."""
    unfolded: Keys = _before_fold(keys) ^ (values * _GOLDEN)
    return unfolded


def _before_fold(keys: Keys) -> Keys:
    keys = keys ^ ((keys >> 33) & _UNSIGNED_SHIFT)  # a shift by more than half undoes itself
    keys = keys * -7154897129451604005  # the inverses of mix's factors
    keys = keys ^ ((keys >> 33) & _UNSIGNED_SHIFT)
    keys = keys * 5725274745694666757
    unmixed: Keys = (keys ^ ((keys >> 33) & _UNSIGNED_SHIFT)) - _GOLDEN
    return unmixed


def key(seed: int, *values: int | str) -> np.ndarray:
    """One key, int64 [1], of a seed and whatever tells this draw from others (epoch, purpose, rank)."""
    result = mix(np.array([_signed(seed)], dtype=np.int64))
    for value in values:
        result = fold(result, np.array([_purpose(value) if isinstance(value, str) else value], dtype=np.int64))
    return result


def permutation(seed: int, epoch: int, n: int, purpose: str = "order") -> np.ndarray:
    """The order of an epoch, or another one by its purpose: int64 [n]."""
    return np.argsort(fold(key(seed, purpose, epoch), np.arange(n, dtype=np.int64)), kind="stable")


def sample_keys(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """The key of each sample in an epoch, int64 [N]; every random choice about it is `uniform(key, purpose)`."""
    return fold(key(seed, "sample", epoch), index.astype(np.int64))


def told_apart(keys: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The keys of samples, int64 [N], those of one that comes again folded with how often it came before."""
    by_sample = np.argsort(index, kind="stable")
    place = np.arange(len(index))
    begins = np.r_[True, np.diff(index[by_sample]) != 0]
    before = np.empty_like(place)
    before[by_sample] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return np.where(before > 0, fold(keys, before), keys)


def alternating(seed: int, purpose: str, keys: Keys, index: Keys) -> Keys:
    """int64 0 or 1 for each sample: a coin of (seed, index) that is turned over from every epoch to the next.

    keys: as `sample_keys` gave them for `index`, in any epoch.  Shape of `keys`.
    """
    # What is left of a sample's key without its index is the epoch's; before it was mixed, that was of (seed, "sample")
    # xor epoch times an odd number: its lowest bit changes with every epoch.
    parity = _before_fold(unfold(keys, index)) & 1
    start = _signed(int(key(seed, purpose)[0]))
    return ((mix(index ^ start) >> 40) & 1) ^ parity


def step_seeds(seed: int, rank: int, first: int, count: int) -> list[int]:
    """Seeds for torch's own generators (dropout) at steps first, first + 1, ..."""
    steps = np.arange(first, first + count, dtype=np.int64)
    seeds: list[int] = (fold(key(seed, "noise", rank), steps) & ((1 << 63) - 1)).tolist()
    return seeds


def another(keys: Keys, purpose: str) -> Keys:
    """Keys of the same samples for a second set of choices about them, independent of the first. Shape of `keys`."""
    return mix(keys ^ _purpose(purpose))


def uniform(keys: Keys, purpose: str) -> Keys:
    """float32 in [0, 1), 24 random bits each, so exact on every device. Shape of `keys`."""
    bits = (another(keys, purpose) >> 40) & 0xFFFFFF
    if isinstance(bits, np.ndarray):
        return bits.astype(np.float32) * np.float32(2**-24)
    return bits.float() * 2**-24


def integers(keys: Keys, purpose: str, n: int) -> Keys:
    """int64 in 0 .. n-1, for n up to 2^20. Shape of `keys`."""
    scaled = uniform(keys, purpose) * n
    return scaled.astype(np.int64) if isinstance(scaled, np.ndarray) else scaled.long()


@cache
def _purpose(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _signed(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
