"""Lora: fine-tuning by small matrices beside the weights of the network, which stay as they are.

peft is not used, though a test holds both together: its adapters are modules around the layers. Those around
nn.MultiheadAttention change the weights below them by rounding in every forward pass, also of an evaluation; networks
that read the weight of a layer, as torchvision's Swin does, would pass them by; and it brings transformers along.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils import parametrize

from core.common.tensors import BatchNorm
from core.common.text import did_you_mean, few
from core.declare.part import Part
from core.models.freeze import Frozen, Layers
from core.models.inspection import matching, within
from core.models.transfer import head_of

ADAPTED: dict[type[nn.Module], str] = {
    nn.Linear: "weight",
    nn.Conv1d: "weight",
    nn.Conv2d: "weight",
    nn.Conv3d: "weight",
    nn.MultiheadAttention: "in_proj_weight",  # of queries, keys and values; its out_proj is a linear layer
}


class Lora(Part):
    """Low-rank adaptation (LoRA, Hu et al. 2022, section 4.1) of convolutions, linear layers and attention.

    The weight of an adapted layer is W + alpha / rank * up @ down, with W fixed, up [outputs, rank] zero at the start,
    and down [rank, inputs] random; the weight of a convolution counts as a matrix [outputs, inputs * height * width].
    Trained are these matrices, the head, and the modules named in `train`. BatchNorm that is not trained uses its
    running statistics and does not update them. Averages of weights (ema, swa) are those of the matrices.

    Weights on record are those of the plain network, W + alpha / rank * up @ down under the name of W: they answer to
    the bit as the adapted network does, and load wherever those of the plain network do. It is meant to be used with
    `model.weights`.
    """

    rank: int = Field(8, ge=1, description="rank of the matrices added to each weight")
    alpha: float = Field(16.0, gt=0, description="scale: what is added is multiplied by alpha / rank")
    targets: tuple[str, ...] = Field(
        (),
        description="names of layers to adapt, or of modules with all layers in them, in full or their last parts; * "
        "is a wildcard, e.g. qkv,proj or layer4; none: all layers before the head",
    )
    train: tuple[str, ...] = Field(
        (), description="names of further modules that are trained whole, such as norms; * is a wildcard, e.g. *.bn1"
    )

    def prepare(self, network: nn.Module) -> nn.Module:
        """Add the matrices to the layers of the network, in place, and return it; all that is not trained then requires
        no gradient. Raises ValueError for targets and names in `train` that match nothing."""
        head = network.get_submodule(head_of(network))
        whole = within([head, *matching(network, self.train, "lora.train").values()])
        layers = self._layers(network, whole)
        network.requires_grad_(False)
        for module in layers:
            name = _weight_of(module)
            adapter = LowRank(getattr(module, name), self.rank, self.alpha / self.rank)
            parametrize.register_parametrization(module, name, adapter)
        for module in whole:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
        return network

    def of(self, network: nn.Module) -> Frozen:
        """BatchNorm without a trained parameter, as frozen modules of the prepared network."""
        norms = {name: module for name, module in network.named_modules() if isinstance(module, BatchNorm)}
        still = tuple(name for name, norm in norms.items() if not any(p.requires_grad for p in norm.parameters()))
        return Frozen((Layers((), still),))

    def _layers(self, network: nn.Module, whole: set[nn.Module]) -> list[nn.Module]:
        """The layers to adapt, in order of definition. whole: modules of which all is trained."""
        able = {name: module for name, module in network.named_modules() if _weight_of(module) and module not in whole}
        if not able:
            raise ValueError("lora: no convolution, linear layer or attention is left to adapt; leave lora out")
        chosen: set[nn.Module] = set()
        for target in self.targets:
            found = within(module for name, module in network.named_modules() if _names(target, name))
            if found.isdisjoint(able.values()):
                what = "only what LoRA cannot adapt, or is trained whole" if found else "no module of the model"
                raise ValueError(
                    f"lora.targets: {target} matches {what}{did_you_mean(target, able)}; layers: {few(able)}"
                )
            chosen |= found
        return [module for module in able.values() if module in chosen or not self.targets]


class LowRank(nn.Module):
    """Adds scale * up @ down to a weight. The sum is computed in the precision of the weight, also under autocast."""

    def __init__(self, weight: torch.Tensor, rank: int, scale: float):
        super().__init__()
        self.scale = scale
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))
        self.down = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as loralib and peft

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.up @ self.down).view(weight.shape)


def _weight_of(module: nn.Module) -> str:
    """The name of the weight that can be adapted, or nothing."""
    name = next((weight for kind, weight in ADAPTED.items() if isinstance(module, kind)), "")
    free = isinstance(getattr(module, name, None), nn.Parameter) and not parametrize.is_parametrized(module)
    return name if name and free else ""


def _names(target: str, name: str) -> bool:
    """Whether a name, or its last parts, match a target."""
    return fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")
