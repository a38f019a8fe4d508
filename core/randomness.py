"""Counter-based random numbers: functions of (seed, epoch, index) through hashed integer keys.

No generator state is saved or shared: the same key gives the same bits in any process, in numpy and in torch, on CPU
and GPU. Keys are int64; arithmetic wraps. The hash is the 64-bit finalizer of MurmurHash3 (Appleby, 2011).
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
_UNSIGNED_SHIFT = (1 << 31) - 1  # >> on int64 is arithmetic: mask the sign bits that it shifts in


def mix(keys: Keys) -> Keys:
    """Hash int64 keys: a bijection in which every input bit affects every output bit. Shape of `keys`."""
    keys = keys ^ ((keys >> 33) & _UNSIGNED_SHIFT)
    keys = keys * -49064778989728563
    keys = keys ^ ((keys >> 33) & _UNSIGNED_SHIFT)
    keys = keys * -4265267296055464877
    return keys ^ ((keys >> 33) & _UNSIGNED_SHIFT)  # type: ignore[no-any-return]


def fold(keys: Keys, values: Keys) -> Keys:
    """Derive keys that also depend on `values` (int64, broadcast)."""
    return mix((keys ^ (values * _GOLDEN)) + _GOLDEN)


def key(seed: int, *values: int | str) -> np.ndarray:
    """A key, int64 [1], of a seed and the values that identify this draw (epoch, purpose, rank)."""
    result = mix(np.array([_signed(seed)], dtype=np.int64))
    for value in values:
        result = fold(result, np.array([_purpose(value) if isinstance(value, str) else value], dtype=np.int64))
    return result


def permutation(seed: int, epoch: int, n: int, purpose: str = "order") -> np.ndarray:
    """A random permutation of 0 .. n-1 for an epoch and a purpose, int64 [n]."""
    return np.argsort(fold(key(seed, purpose, epoch), np.arange(n, dtype=np.int64)), kind="stable")


def sample_keys(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """The key of each sample in an epoch, int64 [N]; every random choice about it is `uniform(key, purpose)`."""
    return fold(key(seed, "sample", epoch), index.astype(np.int64))


def distinct(keys: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Make the keys of repeated samples distinct, int64 [N]: each repetition is folded with the number of earlier
    ones."""
    by_sample = np.argsort(index, kind="stable")
    place = np.arange(len(index))
    begins = np.r_[True, np.diff(index[by_sample]) != 0]
    before = np.empty_like(place)
    before[by_sample] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return np.where(before > 0, fold(keys, before), keys)


def first_times(seed: int, epoch: int, keys: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Whether keys are those of the first occurrence of each sample in the epoch, as `sample_keys` returns them, bool
    [N]. False for repeated samples and for keys of a second set of choices."""
    import torch

    return keys == fold(torch.full_like(index, int(key(seed, "sample", epoch)[0])), index)


def alternating(seed: int, purpose: str, epoch: int, index: Keys) -> Keys:
    """A random bit for each sample that alternates between epochs: 0 or 1, int64. Shape of `index`, int64."""
    side = (int(key(seed, "sample")[0]) + epoch) & 1
    return ((mix(index ^ int(key(seed, purpose)[0])) >> 40) & 1) ^ side


def step_seeds(seed: int, rank: int, first: int, count: int) -> list[int]:
    """Seeds of torch's generators (dropout) for the steps first .. first + count - 1."""
    steps = np.arange(first, first + count, dtype=np.int64)
    seeds: list[int] = (fold(key(seed, "noise", rank), steps) & ((1 << 63) - 1)).tolist()
    return seeds


def another(keys: Keys, purpose: str) -> Keys:
    """Keys of the same samples for a second, independent set of random choices. Shape of `keys`."""
    return mix(keys ^ _purpose(purpose))


def uniform(keys: Keys, purpose: str) -> Keys:
    """Uniform float32 in [0, 1) with 24 random bits, exact on every device. Shape of `keys`."""
    bits = (another(keys, purpose) >> 40) & 0xFFFFFF
    if isinstance(bits, np.ndarray):
        return bits.astype(np.float32) * np.float32(2**-24)
    return bits.float() * 2**-24


def uniforms(keys: np.ndarray, purposes: tuple[str, ...]) -> np.ndarray:
    """`uniform(keys, purpose)` of each purpose for keys int64 [N], float32 [purposes, N], in the time of one."""
    bits: np.ndarray = (mix(keys ^ _purposes(purposes)) >> 40) & 0xFFFFFF
    return bits.astype(np.float32) * np.float32(2**-24)


def integers(keys: Keys, purpose: str, n: int) -> Keys:
    """Uniform int64 in 0 .. n-1, for n up to 2^20. Shape of `keys`."""
    scaled = uniform(keys, purpose) * n
    return scaled.astype(np.int64) if isinstance(scaled, np.ndarray) else scaled.long()


@cache
def _purpose(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


@cache
def _purposes(names: tuple[str, ...]) -> np.ndarray:
    return np.array([[_purpose(name)] for name in names], dtype=np.int64)


def _signed(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
