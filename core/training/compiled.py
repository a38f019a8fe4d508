"""--compile: the step translated by torch.compile, that is, the forward pass, the loss and their gradients.

Clipping, optimizer and moving averages are fused kernels already. Evaluation is not translated: its answers are those
that `predict` gives, and it would have to be translated a second time for a small share of the work.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from core.common.errors import UserError
from core.common.ranks import Ranks
from core.common.terminal import tell
from core.experiment import Experiment
from core.launch import Launch
from core.methods.base import Compiled, as_it_is

NO, YES, GRAPHS = "no", "yes", "cuda graphs"
PAYS_FROM = 5_000  # optimizer steps of a run from which `auto` compiles on a GPU: compiling takes up to a minute
OLDEST_GPU = (7, 0)  # compute capability that Triton needs


def choice(
    experiment: Experiment, launch: Launch, device: torch.device, ranks: Ranks, steps: int, repeated: bool = False
) -> str:
    """Whether the steps of a run are compiled: "no", "yes", or "cuda graphs". steps: optimizer steps of the run.
    repeated: whether it is that of a run on record, which cannot be given other launch options.

    A function of declaration, launch options and machine. Raises UserError for `--compile on` where it cannot be used,
    unless the run is repeated: then it is not compiled.
    """
    if launch.compile == "off" or (launch.compile == "auto" and not _pays(launch, device, steps)):
        return NO
    reasons = [*_against(experiment, launch), *_fails(device)]
    if reasons and launch.compile == "on" and not repeated:
        raise UserError(f"compile: {line}" for line in reasons)
    if reasons:
        tell(f"not compiled: {reasons[0]}")
        return NO
    # a CUDA graph overwrites the gradients of a micro-batch with those of the next one; and it is kept away from
    # DistributedDataParallel, which reads gradients while the graph may run again
    constant = experiment.grad_accum_steps == 1 and ranks.ranks == 1
    return GRAPHS if device.type == "cuda" and constant else YES


def translation(choice: str) -> Compiled:
    """The function that translates what is called at each step."""
    if choice == NO:
        return as_it_is
    torch.compiler.reset()  # torch translates a function for a limited number of networks, and forgets none by itself
    # random numbers are drawn by the same generators as without --compile, so that dropout masks are the same
    options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": choice == GRAPHS}
    return partial(torch.compile, dynamic=False, options=options)


def _pays(launch: Launch, device: torch.device, steps: int) -> bool:
    """Whether compiling is likely to save more time than it takes."""
    short = launch.smoke or launch.overfit or launch.detect_anomaly or steps < PAYS_FROM
    return device.type == "cuda" and not short and torch.cuda.get_device_capability(device) >= OLDEST_GPU


def _against(experiment: Experiment, launch: Launch) -> Iterator[str]:
    """Yield the reasons not to compile this run."""
    if experiment.quantize:
        yield "quantize rounds to int8, which turns differences of rounding into whole steps; use --compile off"
    if launch.parallel != "ddp":
        yield f"parallel {launch.parallel}: no process has the whole network; use --compile off"
    if launch.detect_anomaly:
        yield "detect_anomaly names operations of the network as it is written; use --compile off with it"


def _fails(device: torch.device) -> list[str]:
    """The reason why torch.compile does not work on this machine, if it does not."""
    failure = _failure(device.type)
    advice = "install a C++ compiler (apt-get install g++)" + ", and Triton for a GPU" * (device.type == "cuda")
    return [f"torch.compile does not work here: {failure}; {advice}, or use --compile off"] if failure else []


@functools.cache
def _failure(device: str) -> str:
    """Compile a small function. Returns the reason why it failed, in a line, or nothing."""
    if device == "cuda" and find_spec("triton") is None:
        return "the package triton is missing"
    try:
        torch.compile(_small, dynamic=False)(torch.zeros(2, device=device))
    except Exception as error:  # of any kind: torch documents none
        return reason(error)
    return ""


def reason(error: BaseException) -> str:
    """What an error of torch.compile is about, in a line. Some begin with "backend='inductor' raised:"."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.endswith("raised:")]
    return (lines or [type(error).__name__])[0][:200]


def _small(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
