"""Networks of torchvision, and of timm if it is installed, by name."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from core.common.errors import UserError
from core.common.text import did_you_mean, suggestion
from core.context import Context
from core.models import timm_weights
from core.models.base import Model
from core.models.hooks import drop_branches, dropout_before, resize_input
from core.models.input_size import fitted, last_linear
from core.models.norms import MOMENTUM_MEANING, set_momentum
from core.models.pretrained import Origin
from core.models.resnet import branch_ends

AUXILIARY = ("googlenet", "inception_v3")


class Torchvision(Model):
    """A classification network of torchvision by name, from images [N, C, H, W] to logits [N, classes].

    The first convolution is adapted to the channels of the images, the head to the number of classes, and a vision
    transformer to the image size. With aux_logits, GoogLeNet and Inception v3 return (logits, auxiliary logits, ...) in
    training, for the method Auxiliary.
    """

    name: str = Field(description="name of the model in torchvision.models, e.g. efficientnet_b0")
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="dropout probability (before the last layer in networks without dropout); none: the default",
    )
    resize: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="side length in pixels to which the network resizes its input, bilinear; none: no resizing",
    )
    stochastic_depth: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="probability of dropping the last residual branch (Huang et al. 2016); none: the network's default",
    )
    norm_momentum: float | None = Field(None, gt=0, le=1, description=MOMENTUM_MEANING)
    aux_logits: bool = Field(
        False, description="use the auxiliary heads of googlenet and inception_v3; requires --method Auxiliary"
    )

    @classmethod
    def has(cls, name: str) -> bool:
        return name in _torchvision_names()

    def check(self) -> None:
        known = _torchvision_names()
        if self.name not in known:
            hint = did_you_mean(self.name, known)
            raise ValueError(f"torchvision has no classification model {self.name}{hint}")
        if self.aux_logits and self.name not in AUXILIARY:
            raise ValueError(f"aux_logits: {self.name} has no auxiliary heads; {' and '.join(AUXILIARY)} have")

    def published(self) -> str | None:
        return self.name

    def network(self, context: Context) -> nn.Module:
        """The network. Raises ValueError, with the minimum image size, for images that it does not support."""
        self.check()
        side = self.resize
        shape = context.image_shape if side is None else (side, side, context.image_shape[2])
        network = fitted(self.name, self._make, replace(context, image_shape=shape))
        if self.stochastic_depth is not None:
            self._drop_depth(network, self.stochastic_depth)
        if side is not None:
            resize_input(network, side)
        if self.norm_momentum is not None:
            set_momentum(network, self.norm_momentum)
        return network

    def _make(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        import torchvision.models

        height, width, _ = shape
        given: dict[str, Any] = {"num_classes": classes}
        if self.name in AUXILIARY:
            given |= {"aux_logits": self.aux_logits, "init_weights": True}
        if self.name.startswith("vit_") or self.name == "maxvit_t":
            side = int(self.name.rsplit("_", 1)[1]) if self.name != "maxvit_t" else 224
            if height != width or height % side:
                raise ValueError(f"it requires square images whose side is a multiple of {side}")
            given |= {"image_size": height} if self.name != "maxvit_t" else {"input_size": (height, width)}
        network: nn.Module
        if self.dropout is None:
            network = torchvision.models.get_model(self.name, weights=None, **given)
            return network
        try:
            network = torchvision.models.get_model(self.name, weights=None, dropout=self.dropout, **given)
        except TypeError:  # the network has no dropout argument
            network = torchvision.models.get_model(self.name, weights=None, **given)
            dropout_before(last_linear(network), self.dropout)
        return network

    def _drop_depth(self, network: nn.Module, deepest: float) -> None:
        from torchvision.ops import StochasticDepth

        if ends := branch_ends(network):
            return drop_branches(ends, deepest)
        dropping = [module for module in network.modules() if isinstance(module, StochasticDepth)]
        if not dropping:
            raise ValueError(f"model.stochastic_depth: {self.name} has no residual branches to drop; set it to none")
        largest = max(module.p for module in dropping)
        for module in dropping:  # torchvision's probabilities increase linearly as well
            module.p *= deepest / largest
        return None


class Timm(Model):
    """A network of timm by name, from images [N, C, H, W] to logits [N, classes].

    Requires timm (`pip install -e ".[timm]"`). `weights` takes DEFAULT or a tag of timm's pretrained weights
    (timm.list_pretrained), hf-hub:OWNER/NAME, local-dir:PATH, a run, or a file. timm itself reads its weights, and
    converts position embeddings to the image size.
    """

    name: str = Field(description="name of the model in timm.list_models(), e.g. resnet26d")
    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout probability (drop_rate of timm); none: the network's default"
    )
    stochastic_depth: float | None = Field(
        None, ge=0, lt=1, description="stochastic depth (drop_path_rate of timm); none: the network's default"
    )
    norm_momentum: float | None = Field(None, gt=0, le=1, description=MOMENTUM_MEANING)

    @classmethod
    def has(cls, name: str) -> bool:
        return find_spec("timm") is not None and bool(_timm().is_model(name))

    def check(self) -> None:
        timm = _timm()
        if not timm.is_model(self.name):
            raise ValueError(f"timm has no model {self.name}{did_you_mean(self.name, timm.list_models())}")

    def origin(self) -> Origin | None:
        wanted = self.weights
        if wanted is None or Path(wanted).expanduser().is_file():
            return super().origin()
        if found := timm_weights.find(_timm(), self.name, wanted):
            return found
        try:
            return super().origin()
        except UserError as mistakes:
            known = timm_weights.tags(_timm(), self.name)
            advice = suggestion(wanted, known) or f"; timm has no weights for {self.name}"
            raise UserError([f"{mistakes}{advice}"]) from None

    def tensors(self, origin: Origin, context: Context) -> tuple[dict[str, torch.Tensor], str]:
        if not isinstance(origin, timm_weights.TimmOrigin):
            return super().tensors(origin, context)
        height, width, _ = context.image_shape
        return timm_weights.read(_timm(), self.name, origin, (height, width) if self._is_sized() else None), ""

    def network(self, context: Context) -> nn.Module:
        """The network. Raises ValueError, with the minimum image size, for images that it does not support."""
        self.check()
        network = fitted(self.name, self._make, context)
        if self.norm_momentum is not None:
            set_momentum(network, self.norm_momentum)
        return network

    def _is_sized(self) -> bool:
        """Whether the network is made for one image size."""
        pretrained = _timm().get_pretrained_cfg(self.name)
        return pretrained is not None and bool(pretrained.fixed_input_size)

    def _make(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        timm = _timm()
        sized = self._is_sized()
        try:
            network: nn.Module = timm.create_model(
                self.name,
                num_classes=classes,
                in_chans=shape[2],
                drop_rate=self.dropout,
                drop_path_rate=self.stochastic_depth,
                img_size=shape[:2] if sized else None,
            )
        except TypeError as error:
            raise ValueError(f"timm does not accept these options for it: {error}") from None
        return network


def _torchvision_names() -> list[str]:
    # imported here, because importing torchvision takes 1.3 s, too long for a declaration or --help
    import torchvision.models

    return list(torchvision.models.list_models(module=torchvision.models))


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ValueError('timm is not installed; install it with pip install -e ".[timm]"') from None
    return timm
