"""What this machine can do before anything trains: each check tries what a run would do, and names the fix."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from core.common import paths
from core.common.machine import usable_cores
from core.common.text import size
from core.tracking.reach import Reached, reach

SHM = Path("/dev/shm")
# bytes; 8 loader workers with 2 batches of 128 images of 224 x 224 pixels each take 294 MiB
SHM_NEEDED = 512 * 2**20
CLOCK_SECONDS = 5.0  # runs are listed by time, and heartbeats of workers are compared across machines
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
FEW_GB = 5.0

State = Literal["ok", "none", "fail"]


@dataclass(frozen=True)
class Check:
    """The result of one check. state: none where the machine lacks what no run there needs, such as a GPU.
    fix: what to do about a failure."""

    name: str
    state: State
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Asked:
    """What the checks depend on. need_gb: free disk that is wanted in the home and for temporary files, in GB.
    address: HOST:PORT of the rendezvous; None: that of MASTER_ADDR and MASTER_PORT.  seconds: longest wait of a
    check."""

    need_gb: float = FEW_GB
    address: str | None = None
    seconds: float = 60.0


def checks(asked: Asked) -> Iterator[Check]:
    """Yield the result of each check. Nothing is left behind. A check that fails unexpectedly is a failure, too."""
    store: list[Reached] = []

    def mlflow() -> Check:
        store.append(reach(min(10.0, asked.seconds)))
        return _mlflow(store[0])

    each: dict[str, Callable[[], Check]] = {
        "python": _python,
        "torch": _torch,
        "cuda": _cuda,
        "cudnn": _cudnn,
        "gloo": partial(all_reduce, "gloo", 2, asked.seconds),
        "nccl": partial(_nccl, asked.seconds),
        "bf16": _bf16,
        "disk home": partial(disk, "disk home", paths.home(), asked.need_gb, "LABBOOK_HOME"),
        "disk temp": partial(disk, "disk temp", Path(tempfile.gettempdir()), asked.need_gb, "TMPDIR"),
        "shm": partial(shared_memory, SHM),
        "mlflow": mlflow,
        "clock": lambda: clock(store[0].ahead if store else None),
        "rendezvous": partial(rendezvous, asked.address, min(5.0, asked.seconds)),
    }
    for name, check in each.items():
        try:
            yield check()
        except Exception as error:  # of a library that is broken, which is what is looked for
            reason = (str(error).splitlines() or [""])[0][:200]
            yield Check(name, "fail", f"{type(error).__name__}: {reason}", FIXES.get(name, "see the message"))


REINSTALL = "install torch again, for this Python and this driver: https://pytorch.org/get-started/locally"
FIXES = {"torch": REINSTALL, "cuda": REINSTALL, "cudnn": REINSTALL}


def _python() -> Check:
    found = f"{platform.python_version()} ({sys.executable}), {usable_cores()} usable CPU cores"
    return Check("python", "ok", found)


def _torch() -> Check:
    import torch
    import torchvision

    weight = torch.ones(8, 8, requires_grad=True)
    (weight @ torch.ones(8, 8)).sum().backward()
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # its compiled part fits this torch
    return Check("torch", "ok", f"{torch.__version__}, torchvision {torchvision.__version__}")


def _cuda() -> Check:
    import torch

    built = torch.version.cuda or torch.version.hip
    if torch.cuda.is_available():
        torch.ones(8, device="cuda").sum().item()
        each = (torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count()))
        gpus = ", ".join(f"{gpu.name} ({size(gpu.total_memory)})" for gpu in each)
        return Check("cuda", "ok", f"{built}, {gpus}")
    if any(Path("/dev").glob("nvidia[0-9]*")):
        fix = "nvidia-smi shows whether the driver works; install a torch that is built for its CUDA version"
        return Check("cuda", "fail", f"this machine has a GPU that torch (built for CUDA {built}) cannot use", fix)
    return Check("cuda", "none", "no GPU; runs use the CPU")


def _cudnn() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("cudnn", "none", "no GPU")
    if not torch.backends.cudnn.is_available():
        return Check("cudnn", "fail", "torch was built without cuDNN", REINSTALL)
    torch.nn.Conv2d(3, 8, 3, device="cuda")(torch.ones(2, 3, 8, 8, device="cuda")).sum().item()
    return Check("cudnn", "ok", str(torch.backends.cudnn.version()))


def _nccl(seconds: float) -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("nccl", "none", "no GPU")
    return all_reduce("nccl", min(2, torch.cuda.device_count()), seconds)


def all_reduce(backend: str, ranks: int, seconds: float) -> Check:
    """A real all-reduce over processes of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if name not in RANKS}
        environment["PYTHONPATH"] = paths.python_path()
        place = (str(ranks), str(Path(folder, "store")), str(max(1, int(seconds))))
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "core.diagnostics.all_reduce", backend, str(rank), *place],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        end, reasons = time.monotonic() + seconds, []
        for process in started:
            try:
                _, text = process.communicate(timeout=max(0.1, end - time.monotonic()))
                if process.returncode:
                    reasons.append((text.strip().splitlines() or [f"status {process.returncode}"])[-1])
            except subprocess.TimeoutExpired:
                reasons.append(f"no answer within {seconds:g} s")
                process.kill()
                process.communicate()
    count = f"{ranks} process{'es' * (ranks > 1)}"
    if reasons:
        variable = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}[backend]
        fix = f"name the network interface (ip addr lists them): export {variable}=lo, or eth0 for several machines"
        return Check(backend, "fail", f"all-reduce over {count}: {reasons[0][:200]}", fix)
    return Check(backend, "ok", f"all-reduce over {count}")


def _bf16() -> Check:
    import torch

    from core.models.precision import NATIVE

    able = torch.cpu.get_capabilities()
    cpu = ", ".join(name for name in NATIVE if able.get(name)) or "no instructions for it; runs use fp32 there"
    if not torch.cuda.is_available():
        return Check("bf16", "ok" if any(able.get(name) for name in NATIVE) else "none", f"CPU: {cpu}")
    gpu = torch.cuda.is_bf16_supported(including_emulation=False)
    return Check("bf16", "ok", f"CPU: {cpu}; GPU: {'native' if gpu else 'emulated; runs use fp16 there'}")


def disk(name: str, folder: Path, need_gb: float, variable: str) -> Check:
    """Whether a folder, or the one that it would be made in, can be written and has so much free space."""
    here = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(here).free
    found, fix = f"{folder}: {size(free)} free", f"free some space, or set {variable} to another folder"
    try:
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(bytes(1_000_000))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Check(name, "fail", f"{found}; it cannot be written: {error.strerror}", fix)
    if free < need_gb * 1e9:
        return Check(name, "fail", f"{found}, less than {need_gb:g} GB", fix)
    return Check(name, "ok", found)


def shared_memory(folder: Path) -> Check:
    """Whether loader workers can pass batches to the trainer: they do through this folder on Linux."""
    if not folder.exists():
        return Check("shm", "none", f"no {folder} on this system")
    free = shutil.disk_usage(folder).free
    found = f"{folder}: {size(free)} free"
    fix = "docker run --shm-size=8g, or mount -o remount,size=8G /dev/shm; without that, train with --workers 0"
    if free < SHM_NEEDED:
        return Check("shm", "fail", f"{found}, and loader workers may need {size(SHM_NEEDED)}", fix)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, 1_000_000)
    except OSError as error:
        return Check("shm", "fail", f"{found}; it cannot be written: {error.strerror}", fix)
    return Check("shm", "ok", found)


def _mlflow(store: Reached) -> Check:
    if store.wrong:
        fix = "runs are recorded without it, and labbook sync sends them once it answers; or unset MLFLOW_TRACKING_URI"
        return Check("mlflow", "fail", store.wrong, fix)
    return Check("mlflow", "ok", store.found)


def clock(ahead: float | None) -> Check:
    """Compare the clock of this machine with that of the MLflow server or, without one, of the disk of the home.
    ahead: seconds by which the server's clock is ahead."""
    other = "the MLflow server"
    if ahead is None:
        here = next(path for path in (paths.home(), *paths.home().parents) if path.exists())
        with tempfile.TemporaryFile(dir=here) as file:
            before = time.time()
            file.write(b"0")
            file.flush()
            os.fsync(file.fileno())
            ahead = os.fstat(file.fileno()).st_mtime - (before + time.time()) / 2
        other = f"the disk of {paths.home()}"
    found = f"{abs(ahead):.1f} s {'behind' if ahead > 0 else 'ahead of'} that of {other}"
    if abs(ahead) > CLOCK_SECONDS:
        return Check("clock", "fail", found, "set the clock, on both machines: timedatectl set-ntp true")
    return Check("clock", "ok", found)


def rendezvous(address: str | None, seconds: float) -> Check:
    """Whether HOST:PORT answers, or is a free port of this machine, on which the first process would listen.

    address: None for that of MASTER_ADDR and MASTER_PORT.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if address is None and not host and not port:
        return Check("rendezvous", "none", "no --address and no MASTER_ADDR; processes of one machine need none")
    named = "--address" if address is not None else "MASTER_ADDR:MASTER_PORT"
    if address is not None:
        host, _, port = address.rpartition(":")
    found = f"{named} {host}:{port}"
    if not host or not (port.isdecimal() and 0 < int(port) < 65536):
        return Check("rendezvous", "fail", f"{found} is not HOST:PORT", "set both, for example node1:29500")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except socket.gaierror as error:
        fix = "use its IP address, or enter it into DNS or /etc/hosts of every machine"
        return Check("rendezvous", "fail", f"{found}: the name is not known here ({error.strerror})", fix)
    except OSError as error:
        if _is_free_here(host, int(port)):
            return Check("rendezvous", "ok", f"{found} is a free port of this machine, for the first process")
        refused = isinstance(error, ConnectionRefusedError)
        fix = "start rank 0 there first" if refused else "open the port in the firewall, or choose a reachable address"
        reason = "nothing listens there" if refused else error.strerror or f"no answer within {seconds:g} s"
        return Check("rendezvous", "fail", f"{found}: {reason}", fix)
    return Check("rendezvous", "ok", f"{found} answers")


def _is_free_here(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True
