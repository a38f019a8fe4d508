"""Export a run's network as one program, from raw images to probabilities, that does not need labbook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from core.common.errors import UserError
from core.inference.network import model_of
from core.loading.batches import Batch
from core.loading.normalize import normalizer
from core.models.tta import averaged

if TYPE_CHECKING:
    from core.record.run import RecordedRun

ROUNDING = 1e-5  # of a probability
_LONGEST = 300  # characters of a message of torch, which can be pages long


class Served(nn.Module):
    """Normalization, the network, softmax: images uint8 [N, H, W, C] -> probabilities float [N, classes]."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.normalize = normalizer(mean, std, torch.device("cpu"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        nothing = torch.empty(0)
        normalized = self.normalize(Batch(images, nothing, nothing, nothing)).images
        logits: torch.Tensor = self.network(normalized)
        return logits.softmax(dim=1)


def exported(run: RecordedRun) -> torch.export.ExportedProgram:
    """The exported `Served` of the best epoch, for any N >= 1, with the declared test-time augmentation, on the CPU.

    Example inputs are removed, since torch would pickle them in the .pt2 file. Raises UserError if the weights are
    missing or damaged, or if torch.export does not support the network.
    """
    data, declared = run.record["data"], run.record["declaration"]
    try:
        network = Served(averaged(model_of(run), declared.get("tta", "none")), data["mean"], data["std"]).eval()
    except UserError:
        raise
    except ValueError as error:  # the network cannot be built, for example because timm is not installed
        raise UserError([f"{run.id}: {error}"]) from None
    images = torch.zeros(2, *data["image_shape"], dtype=torch.uint8)  # 2: a size of 1 would become a constant
    any_number = torch.export.Dim("batch", min=1)
    refused = f"{run.id}: torch.export cannot export {declared['model']['class'].rpartition('.')[2]}"
    try:
        with torch.no_grad():
            program = torch.export.export(network, (images,), dynamic_shapes={"images": {0: any_number}})
    except Exception as error:  # several exception types of torch, or whatever the network raises while it is traced
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise UserError([f"{refused}: {type(error).__name__}: {said[:_LONGEST]}"]) from None
    _compare(network, program, images.shape[1:], refused)
    program.example_inputs = None
    return program


def _compare(network: Served, program: torch.export.ExportedProgram, shape: Sequence[int], refused: str) -> None:
    """Raises UserError if the exported program differs, as it does for a network with random or stateful behavior."""
    images = torch.randint(256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        apart = float((program.module()(images) - network(images)).abs().max())
    if not apart <= ROUNDING:
        raise UserError([f"{refused}: the exported program returns different probabilities (by {apart:.2g})"])
