"""match_weights: a declaration whose images are prepared as its pretrained weights expect them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.common.errors import UserError
from core.experiment import Experiment
from core.loading.normalize import IMAGENET
from core.models.preset import Preset


def matched(experiment: Experiment) -> Experiment:
    """The declaration with the image size, crop, interpolation, mean and deviation of its pretrained weights.

    What the data set does not declare, such as the size of CIFAR-10's images, stays as it is. Raises UserError for
    weights of which this is not known, and for an interpolation that the data set does not have.
    """
    if (origin := experiment.model.origin()) is None:
        raise UserError(["match_weights: the model has no pretrained weights; set model.weights"])
    if origin.preset is None:
        advice = "declare data.size and normalize as they were trained with"
        raise UserError([f"match_weights: it is not known how images were prepared for {origin.name}; {advice}"])
    declared = type(experiment.data).model_fields
    sizes = {f"data.{name}": value for name, value in _of_files(origin.preset).items() if name in declared}
    try:
        return experiment.but(sizes | {"normalize": _normalization(origin.preset.mean, origin.preset.std)})
    except UserError as mistakes:
        raise UserError(f"match_weights: {origin.name}: {line}" for line in mistakes.lines) from None


def _of_files(preset: Preset) -> dict[str, Any]:
    height, width = preset.size
    return {
        "size": height if height == width else f"{height}x{width}",
        "resize_size": preset.resize_size,
        "interpolation": preset.interpolation,
    }


def _normalization(mean: Sequence[float], std: Sequence[float]) -> str:
    """The value of normalize; by its name where it has one, which also fits gray images."""
    if (tuple(mean), tuple(std)) == IMAGENET:
        return "imagenet"
    if {*mean, *std} == {0.5}:
        return "inception"
    return "/".join(",".join(f"{value:.10g}" for value in values) for values in (mean, std))
