"""Where the runs of a runner compute: one on each GPU, or each on some of the CPU cores."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from core.common.errors import UserError
from core.common.machine import usable_cores

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of NVIDIA, of Windows below WSL, of AMD


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time. device: its GPU, as CUDA_VISIBLE_DEVICES has it; "" for none, and None for what is
    visible here.  threads: of its CPU, or None for what the run chooses."""

    device: str | None
    threads: int | None

    @property
    def environment(self) -> dict[str, str]:
        """What a run in this slot gets in its environment."""
        found = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        return found if self.threads is None else found | {"OMP_NUM_THREADS": str(self.threads)}


def slots(jobs: int | None = None, cores: int | None = None) -> list[Slot]:
    """The slots of this machine. jobs: most runs at once.  cores: CPU cores of each run, which then uses no GPU. Raises
    UserError if there are not so many."""
    usable = usable_cores()
    if cores is not None:
        if cores > usable:
            raise UserError([f"--cores {cores}: this process may use {usable} CPU cores"])
        if jobs is not None and jobs * cores > usable:
            raise UserError(
                [f"--jobs {jobs}: with --cores {cores}, {usable} CPU cores are enough for {usable // cores}"]
            )
        return [Slot("", cores)] * (jobs or usable // cores)
    found = gpus()
    if jobs is not None and found and jobs > len(found):
        raise UserError([f"--jobs {jobs}: each run gets a GPU, and there are {len(found)}; on the CPU: --cores C"])
    count = jobs or max(1, len(found))
    # a list of OMP_NUM_THREADS, or a number, is what the user chose
    threads = None if os.environ.get("OMP_NUM_THREADS") or count == 1 else max(1, usable // count)
    return [Slot(device, threads) for device in found[:count]] or [Slot(None, threads)] * count


def gpus() -> list[str]:
    """The visible GPUs, as CUDA_VISIBLE_DEVICES names them."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is not None:
        return [name.strip() for name in seen.split(",") if name.strip()]
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
