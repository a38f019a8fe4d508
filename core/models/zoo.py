"""Networks of other libraries by name: torchvision's, and timm's where it is installed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import nn

from core.common.text import did_you_mean
from core.context import Context
from core.models.base import Model
from core.models.hooks import drop_branches, dropout_before, resize_input
from core.models.input_size import fitted, last_linear
from core.models.resnet import branch_ends

AUXILIARY = ("googlenet", "inception_v3")


class Torchvision(Model):
    """A classification network of torchvision by name: images [N, C, H, W] to logits [N, classes].

    Its first convolution takes the images' channels, its head their classes, a transformer their size. With auxiliary,
    GoogLeNet and Inception v3 give (logits, auxiliary logits, ...) in training, which method Auxiliary weighs.
    """

    name: str = Field(description="as torchvision.models spells it, e.g. efficientnet_b0")
    dropout: float | None = Field(
        None, ge=0, lt=1, description="none: the network's own; where it has none, before the last layer"
    )
    resize: int | None = Field(
        None, ge=8, le=1024, description="the network sees images resized to this side, bilinear; none: as they come"
    )
    stochastic_depth: float | None = Field(
        None, ge=0, lt=1, description="of the deepest residual branch (Huang et al. 2016); none: the network's own"
    )
    aux_logits: bool = Field(False, description="googlenet, inception_v3: with their auxiliary heads")

    def check(self) -> None:
        # torchvision takes 1.3 s to import: not when a declaration is written or --help is asked for
        import torchvision.models

        known = torchvision.models.list_models(module=torchvision.models)
        if self.name not in known:
            hint = did_you_mean(self.name, known)
            raise ValueError(f"torchvision has no classification model {self.name}{hint}")
        if self.aux_logits and self.name not in AUXILIARY:
            raise ValueError(f"{self.name} has no auxiliary heads; there is {', '.join(AUXILIARY)}")

    def published(self) -> str | None:
        return self.name

    def network(self, context: Context) -> nn.Module:
        """Raises ValueError for images that it cannot take, with the smallest that it can."""
        self.check()
        side = self.resize
        shape = context.image_shape if side is None else (side, side, context.image_shape[2])
        network = fitted(self.name, self._make, replace(context, image_shape=shape))
        if self.stochastic_depth is not None:
            self._drop_depth(network, self.stochastic_depth)
        if side is not None:
            resize_input(network, side)
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
                raise ValueError(f"it takes square images whose side is a multiple of {side}")
            given |= {"image_size": height} if self.name != "maxvit_t" else {"input_size": (height, width)}
        if self.dropout is None:
            plain: nn.Module = torchvision.models.get_model(self.name, weights=None, **given)
            return plain
        try:
            own: nn.Module = torchvision.models.get_model(self.name, weights=None, dropout=self.dropout, **given)
            return own
        except TypeError:  # it has none of its own
            network: nn.Module = torchvision.models.get_model(self.name, weights=None, **given)
            dropout_before(last_linear(network), self.dropout)
            return network

    def _drop_depth(self, network: nn.Module, deepest: float) -> None:
        from torchvision.ops import StochasticDepth

        if ends := branch_ends(network):
            return drop_branches(ends, deepest)
        dropping = [module for module in network.modules() if isinstance(module, StochasticDepth)]
        if not dropping:
            raise ValueError(f"model.stochastic_depth: {self.name} has no residual branches to drop; leave it at none")
        largest = max(module.p for module in dropping)
        for module in dropping:  # theirs rise in a line, too
            module.p *= deepest / largest
        return None


class Timm(Model):
    """A network of timm by name, where timm is installed: images [N, C, H, W] to logits [N, classes].

    `pip install -e ".[timm]"` installs it. Weights are drawn, not downloaded.
    """

    name: str = Field(description="as timm.list_models() spells it, e.g. resnet26d")
    dropout: float | None = Field(None, ge=0, lt=1, description="timm's drop_rate; none: the network's own")
    stochastic_depth: float | None = Field(None, ge=0, lt=1, description="timm's drop_path_rate; none: its own")

    def check(self) -> None:
        timm = _timm()
        if not timm.is_model(self.name):
            raise ValueError(f"timm has no model {self.name}{did_you_mean(self.name, timm.list_models())}")

    def network(self, context: Context) -> nn.Module:
        """Raises ValueError for images that it cannot take, with the smallest that it can."""
        self.check()
        return fitted(self.name, self._make, context)

    def _make(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        timm = _timm()
        pretrained = timm.get_pretrained_cfg(self.name)
        sized = pretrained is not None and pretrained.fixed_input_size
        try:
            network: nn.Module = timm.create_model(
                self.name,
                num_classes=classes,
                in_chans=shape[2],
                drop_rate=self.dropout,
                drop_path_rate=self.stochastic_depth,
                img_size=shape[:2] if sized else None,
            )
            return network
        except TypeError as error:
            raise ValueError(f"it does not take this: {error}") from None


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ValueError('timm is not installed; pip install -e ".[timm]" adds it') from None
    return timm
