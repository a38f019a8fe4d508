"""The network of a run as one program, from raw images to probabilities, that does not need labbook."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from core.common.errors import UserError
from core.inference.network import model_of
from core.loading.batches import Batch
from core.loading.normalize import normalizer
from core.metrics.task import SINGLE_LABEL, Task, task_of
from core.models.tta import averaged

if TYPE_CHECKING:
    from core.record.run import RecordedRun

ROUNDING = 1e-5  # of a probability
_LONGEST = 300  # characters of a message of torch, which can be pages long
_LIBRARIES = tuple(str(Path(module.__file__ or "").parent) for module in (torch, traceback))


class Served(nn.Module):
    """Normalization, the network, softmax (or sigmoid, for multi-label images): images uint8 [N, H, W, C] ->
    probabilities float [N, classes]."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], task: Task = SINGLE_LABEL):
        super().__init__()
        self.network, self.task = network, task
        self.normalize = normalizer(mean, std, torch.device("cpu"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        nothing = torch.empty(0)
        normalized = self.normalize(Batch(images, nothing, nothing, nothing)).images
        return self.task.probabilities(self.network(normalized))


def served(run: RecordedRun) -> Served:
    """The network of the best epoch with everything around it, in float32, with the declared test-time augmentation, on
    the CPU. Raises UserError if the weights are missing or damaged, if the run has several tasks, or if the network
    cannot be built."""
    run.refuse_tasks("exports and the registry do")
    data, task = run.record["data"], task_of(run.multi_label)
    try:
        network = averaged(model_of(run), run.record["declaration"].get("tta", "none"), task)
    except UserError:
        raise
    except ValueError as error:  # the network cannot be built, for example because timm is not installed
        raise UserError([f"{run.id}: {error}"]) from None
    return Served(network, data["mean"], data["std"], task).eval()


def exported(run: RecordedRun, network: Served | None = None) -> torch.export.ExportedProgram:
    """The exported program of `served(run)`, or of this network, for any N >= 1.

    Example inputs are removed, since torch would pickle them in the .pt2 file. Raises UserError, with the line of the
    network's code if it is known, if torch.export does not support the network.
    """
    network = network or served(run)
    shape = run.record["data"]["image_shape"]
    images = torch.zeros(2, *shape, dtype=torch.uint8)  # 2: a size of 1 would become a constant
    any_number = torch.export.Dim("batch", min=1)
    model = run.record["declaration"]["model"]["class"].rpartition(".")[2]
    refused = f"{run.id}: torch.export cannot export {model}"
    try:
        with torch.no_grad():
            program = torch.export.export(network, (images,), dynamic_shapes={"images": {0: any_number}})
    except Exception as error:  # several exception types of torch, or whatever the network raises while it is traced
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise UserError([f"{refused}: {type(error).__name__}: {said[:_LONGEST]}{_line(error)}"]) from None
    _compare(network, program, images.shape[1:], refused)
    program.example_inputs = None
    return program


def _line(error: Exception) -> str:
    """Where the code of the network was when tracing failed: its last line outside of libraries and of this file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if not each.filename.startswith(_LIBRARIES) and each.filename != __file__]
    own = [each for each in own if not each.filename.startswith("<")]
    return f" (in {own[-1].filename}, line {own[-1].lineno}: {own[-1].line})" if own else ""


def _compare(network: Served, program: torch.export.ExportedProgram, shape: Sequence[int], refused: str) -> None:
    """Raises UserError if the exported program differs, as it does for a network with random or stateful behavior."""
    images = torch.randint(256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        apart = float((program.module()(images) - network(images)).abs().max())
    if not apart <= ROUNDING:
        raise UserError([f"{refused}: the exported program returns different probabilities (by {apart:.2g})"])
