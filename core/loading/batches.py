"""Batches: what comes at (epoch, step) for rank r of n. A pure function of the seed; nothing is remembered.

Three ways lead from the store of images to the device: resident there, read in this process, read by workers.
All give the same batches; `feed` picks one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from core import keys as K
from core.common.machine import usable_cores
from core.loading.images import Images, Pixels
from core.loading.workers import Watched


class ImageFunction(Protocol):
    """What is done to one image on its way into a batch; core/augment/pipeline.py builds it from declared steps."""

    def read(self, pixels: np.ndarray | Pixels, row: int, key: int) -> np.ndarray:
        """Image `row` of pixels uint8 [M, H, W, C], for the sample with this key -> uint8 [H, W, C]."""


class Batch(NamedTuple):
    """images: uint8 [N, H, W, C] from the loader, float [N, C, H, W] once normalized.  targets: int64 [N], or float
    [N, C] once mixed or of several labels.  keys: int64 [N].  index: int64 [N], positions in the split."""

    images: torch.Tensor
    targets: torch.Tensor
    keys: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # the field's own name, not tuple's method


@dataclass(frozen=True)
class Plan:
    """Which samples make up which batch.

    A shuffled plan (training) drops the last incomplete batch of an epoch. An ordered one (validation, test) keeps
    it and gives every sample to exactly one rank. `size` counts the images of a batch over all ranks.
    drawn: (seed, epoch) -> positions int64 [count], repeated ones among them, in place of a permutation.
    repeats: how often a shuffled epoch goes through the samples, each time in another order.
    """

    count: int
    size: int
    seed: int = 0
    shuffled: bool = True
    rank: int = 0
    ranks: int = 1
    drawn: Callable[[int, int], np.ndarray] | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.shuffled and self.size > self.count:
            raise ValueError(f"batch_size: {self.size} is more than the {self.count} training images; lower it")
        if self.size % self.ranks or (self.ranks > 1 and self.size // self.ranks % 2):
            raise ValueError(f"batch_size: {self.size} does not divide into {self.ranks} even parts, one a process")

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.repeats * self.count // self.size if self.shuffled else -(-self.count // self.size)

    @property
    def share(self) -> int:
        """Images of a whole batch that come to this rank."""
        return self.size // self.ranks

    def order(self, epoch: int) -> np.ndarray:
        """Positions in the split in the order of this epoch, int64 [repeats * count]."""
        if self.drawn is not None:
            return self.drawn(self.seed, epoch)
        if not self.shuffled:
            return np.arange(self.count)
        first = epoch * self.repeats
        return np.concatenate([K.permutation(self.seed, first + i, self.count) for i in range(self.repeats)])

    def keys(self, epoch: int, order: np.ndarray) -> np.ndarray:
        """The key of each sample of an order, int64 [count]; that of a repeated one differs each time it comes."""
        keys = K.sample_keys(self.seed, epoch, order)
        return keys if self.drawn is None else K.told_apart(keys, order)

    def spans(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """(first, last + 1) in the order, of this rank's share of each batch from step `start` on; none is empty.

        A share is contiguous and, in training, even: neighbors, which mix, stay on one rank.
        """
        end = self.repeats * self.count
        for first in range(start * self.size, len(self) * self.size, self.size):
            share = -(-min(self.size, end - first) // self.ranks)
            mine = first + self.rank * share
            if mine < end:
                yield mine, min(mine + share, end)


class Batches(Protocol):
    """What `fit` and `evaluate` iterate."""

    @property
    def plan(self) -> Plan: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this epoch from step `start` on; nothing before it is read."""
        ...


@dataclass(frozen=True)
class Resident:
    """Every image of the split on the device. On a CPU, that is the memory map itself."""

    plan: Plan
    pixels: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, plan: Plan, images: Images, device: torch.device) -> Resident:
        assert isinstance(images.pixels, np.ndarray)
        pixels, rows = _tensor(images.pixels), _tensor(images.rows)
        if device.type != "cpu":
            pixels, rows = pixels[rows].to(device), torch.arange(len(rows), device=device)
        return cls(plan, pixels, rows, _tensor(images.targets).to(device))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = self.plan.order(epoch)
        keys = torch.from_numpy(self.plan.keys(epoch, order)).to(self.rows.device)
        index = torch.from_numpy(order).to(self.rows.device)
        rows, targets = self.rows[index], self.targets[index]
        for first, end in self.plan.spans(start):
            images = self.pixels.index_select(0, rows[first:end])
            yield Batch(images, targets[first:end], keys[first:end], index[first:end])


class Request(NamedTuple):
    """What a loader is asked for: positions in the split and their keys, int64 [N] each."""

    index: np.ndarray  # type: ignore[assignment]
    keys: np.ndarray


@dataclass(frozen=True)
class Fetch:
    """Reads the samples of a request into host memory, image steps applied."""

    images: Images
    per_image: ImageFunction | None = None

    def __getitem__(self, request: Request) -> Batch:
        stored, rows = self.images.pixels, self.images.rows[request.index]
        if self.per_image:
            asked = zip(rows.tolist(), request.keys.tolist(), strict=True)
            # collated by torch: in a worker, straight into the memory that the trainer reads
            images = default_collate([torch.from_numpy(self.per_image.read(stored, *one)) for one in asked])
        else:
            images = torch.from_numpy(np.require(stored[rows], requirements=["C", "W", "E"]))
        others = (self.images.targets[request.index], request.keys, request.index)
        return Batch(images, *map(torch.from_numpy, others))


@dataclass(frozen=True)
class Host:
    """Batches read on the host, in this process (workers = 0) or by loader workers, then moved to the device."""

    plan: Plan
    fetch: Fetch
    device: torch.device
    requests: _Requests
    loader: Watched | None = None

    @classmethod
    def of(cls, plan: Plan, fetch: Fetch, device: torch.device, workers: int, timeout: int = 300) -> Host:
        requests = _Requests(plan)
        if not workers:
            return cls(plan, fetch, device, requests)
        loader: DataLoader[Any] = DataLoader(
            fetch,  # type: ignore[arg-type]
            batch_size=None,
            sampler=requests,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=True,
            worker_init_fn=_one_thread,
            # a loader draws its base seed from the global generator, unless it has one of its own
            generator=torch.Generator(),
            timeout=timeout,
        )
        return cls(plan, fetch, device, requests, Watched(loader, timeout))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.requests.at(epoch, start)
        for batch in self.loader.epoch(epoch, start) if self.loader else map(self.fetch.__getitem__, self.requests):
            yield Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))


class _Requests:
    """The sampler of a loader that lives through many epochs: it is told which epoch comes next."""

    def __init__(self, plan: Plan):
        self.plan, self.next = plan, (0, 0)

    def at(self, epoch: int, start: int) -> None:
        self.next = (epoch, start)

    def __len__(self) -> int:
        return len(self.plan) - self.next[1]

    def __iter__(self) -> Iterator[Request]:
        epoch, start = self.next
        order = self.plan.order(epoch)
        keys = self.plan.keys(epoch, order)
        for first, end in self.plan.spans(start):
            yield Request(order[first:end], keys[first:end])


def feed(
    plan: Plan,
    images: Images,
    device: torch.device,
    per_image: ImageFunction | None = None,
    workers: int | None = None,
    resident: bool | None = None,
    timeout: int = 300,
) -> Batches:
    """The batches of a plan by the fastest way that serves. workers, resident, timeout: as in Launch, there
    worker_timeout."""
    decoded = isinstance(images.pixels, np.ndarray)
    if decoded and per_image is None and not workers and (resident or (resident is None and _fits(images, device))):
        return Resident.of(plan, images, device)
    if workers is None:
        workers = 0 if device.type == "cpu" and decoded else min(8, max(1, usable_cores() - 1))
    return Host.of(plan, Fetch(images, per_image), device, workers, timeout)


def _fits(images: Images, device: torch.device) -> bool:
    if device.type == "cuda":
        need = len(images) * images.pixels[:1].nbytes
        return need < torch.cuda.get_device_properties(device).total_memory / 4
    return device.type == "cpu"


def _one_thread(worker: int) -> Any:
    torch.set_num_threads(1)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """What is only read, without a copy: mostly a read-only memory map."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.asarray(array))
