"""How batches are read: from memory on the device, in this process, or by loader worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from core.common.machine import usable_cores
from core.loading.batches import Batch, Batches, ImageFunction, Plan
from core.loading.images import Images
from core.loading.watchdog import Watched

PREFETCH = 2  # batches that each worker prepares ahead, as torch does


@dataclass(frozen=True)
class Resident:
    """Batches of images that are resident on the device. On a CPU, they are the memory map itself."""

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
    """The samples of a batch to load: positions in the split and their keys, int64 [N] each."""

    index: np.ndarray  # type: ignore[assignment]
    keys: np.ndarray


@dataclass(frozen=True)
class Fetch:
    """Data set of a loader: reads the samples of a request into host memory and applies the image transform."""

    images: Images
    per_image: ImageFunction | None = None

    def __getitem__(self, request: Request) -> Batch:
        stored, rows = self.images.pixels, self.images.rows[request.index]
        if isinstance(stored, np.ndarray):
            stored = np.asarray(stored)  # indexing a memory map as such costs a microsecond for each image
        if self.per_image:
            samples = zip(rows.tolist(), request.keys.tolist(), strict=True)
            # in a worker, torch collates directly into shared memory
            images = default_collate([torch.from_numpy(self.per_image.read(stored, *one)) for one in samples])
        else:
            images = torch.from_numpy(np.require(stored[rows], requirements=["C", "W", "E"]))
        others = (self.images.targets[request.index], request.keys, request.index)
        return Batch(images, *map(torch.from_numpy, others))


@dataclass(frozen=True)
class Host:
    """Batches read on the host, in this process (workers = 0) or by loader workers, and then moved to the device."""

    plan: Plan
    fetch: Fetch
    device: torch.device
    requests: _Requests
    loader: Watched | None = None

    @classmethod
    def of(
        cls,
        plan: Plan,
        fetch: Fetch,
        device: torch.device,
        workers: int,
        timeout: int = 300,
        prefetch: int | None = None,
    ) -> Host:
        requests = _Requests(plan)
        if not workers:
            return cls(plan, fetch, device, requests)
        loader: DataLoader[Any] = DataLoader(
            fetch,  # type: ignore[arg-type]
            batch_size=None,
            sampler=requests,
            num_workers=workers,
            prefetch_factor=prefetch or PREFETCH,
            pin_memory=device.type == "cuda",
            persistent_workers=True,
            worker_init_fn=_one_thread,
            # otherwise the loader draws its base seed from the global generator
            generator=torch.Generator(),
            timeout=timeout,
        )
        return cls(plan, fetch, device, requests, Watched(loader, timeout))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.requests.at(epoch, start)
        for batch in self.loader.epoch(epoch, start) if self.loader else map(self.fetch.__getitem__, self.requests):
            yield Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))


class _Requests:
    """Batch sampler of a loader that is kept across epochs; `at` sets the next epoch."""

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
    prefetch: int | None = None,
) -> Batches:
    """Load the batches of a plan in the fastest way possible. workers, resident, timeout, prefetch: workers, resident,
    worker_timeout and prefetch of Launch."""
    decoded = isinstance(images.pixels, np.ndarray)
    if decoded and per_image is None and not workers and (resident or (resident is None and _fits(images, device))):
        return Resident.of(plan, images, device)
    if workers is None:
        workers = 0 if device.type == "cpu" and decoded else min(8, max(1, usable_cores() - 1))
    return Host.of(plan, Fetch(images, per_image), device, workers, timeout, prefetch)


def chosen(batches: Batches) -> str:
    """How the images of these batches are read, in a few words."""
    if not isinstance(batches, Host):
        return "images in memory"
    if batches.loader is None:
        return "images read by this process"
    loader = batches.loader.loader
    workers = f"{loader.num_workers} worker{'s' if loader.num_workers > 1 else ''}"
    ahead = loader.prefetch_factor or PREFETCH
    return f"images read by {workers}, {ahead} batch{'es' * (ahead > 1)} ahead"


def _fits(images: Images, device: torch.device) -> bool:
    if device.type == "cuda":
        need = len(images) * images.pixels[:1].nbytes
        return need < torch.cuda.get_device_properties(device).total_memory / 4
    return device.type == "cpu"


def _one_thread(worker: int) -> Any:
    torch.set_num_threads(1)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Convert an array that is only read, usually a read-only memory map, without a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.asarray(array))
