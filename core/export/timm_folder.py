"""config.json beside the weights of a run, with which timm.create_model("local-dir:FOLDER") builds the same network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.common.errors import UserError
from core.common.extras import library
from core.models.timm_weights import CONFIG, FOLDER
from core.record.run import RecordedRun

ROUNDING = 1e-4  # of a logit, relative to the largest one


def write(folder: Path, run: RecordedRun, network: nn.Module, conversion: Mapping[str, Any]) -> str:
    """Write config.json into a folder with the weights of a run. Returns why timm cannot load them, or an empty text if
    it does: what timm builds of the folder gives the logits of the network, in float32.

    network: of the run, on the CPU, in evaluation mode.  conversion: how images are converted; see
    data/predict/conversion.py. Raises OSError. No file is left if timm cannot load it.
    """
    declared = run.record["declaration"]["model"]
    kind, name = declared["class"].rpartition(".")[2], declared.get("name", "")
    if kind not in ("Timm", "Torchvision"):
        return f"{kind} is not a network of timm"
    if not run.record["data"]["mean"]:
        return "each image is normalized by its own statistics, which timm does not do"
    try:
        timm = library("timm", "timm", f"to compare {name} with timm's")
    except UserError as missing:
        return str(missing)
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        return f"timm has no network {architecture}"
    config = folder / CONFIG
    config.write_text(json.dumps(_config(timm, architecture, run, conversion), indent=2) + "\n")
    if reason := _apart(timm, folder, network, run.record["data"]["image_shape"]):
        config.unlink()
        return f"{name} of {kind.lower()} is another network than {architecture} of timm: {reason}"
    return ""


def _config(timm: Any, architecture: str, run: RecordedRun, conversion: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that timm reads; see timm.models.PretrainedCfg."""
    data = run.record["data"]
    height, width, channels = data["image_shape"]
    known = timm.get_pretrained_cfg(architecture)
    sized = bool(known and known.fixed_input_size)
    return {
        "architecture": architecture,
        "num_classes": len(data["classes"]),
        "label_names": data["classes"],
        "model_args": {"in_chans": channels} | ({"img_size": [height, width]} if sized else {}),
        "pretrained_cfg": {
            "input_size": [channels, height, width],
            "fixed_input_size": sized,
            "interpolation": conversion["interpolation"],
            "crop_pct": crop_pct(height, conversion["resize_size"]),
            "crop_mode": "center",
            "mean": data["mean"],
            "std": data["std"],
            # with the name of the first convolution, timm would adapt weights of one channel to its own way of gray
            "first_conv": known.first_conv if known and channels == 3 else None,
            "classifier": known.classifier if known else None,
        },
    }


def crop_pct(side: int, resize_size: int | None) -> float:
    """The share of the shorter side that is kept, of which timm computes floor(side / share) again."""
    if resize_size is None:
        return 1.0
    share = side / resize_size
    return share if math.floor(side / share) == resize_size else side / (resize_size + 0.5)


def _apart(timm: Any, folder: Path, network: nn.Module, shape: tuple[int, int, int]) -> str:
    """How what timm builds of a folder differs from the network; empty if it does not."""
    height, width, channels = shape
    images = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    try:
        made = timm.create_model(f"{FOLDER}{folder}", pretrained=True).eval()
        with torch.inference_mode():
            found, expected = made(images), network(images)
    except Exception as error:  # of torch, for other names and shapes of layers, or whatever timm raises
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    if found.shape != expected.shape:
        return f"it gives {found.shape[1]} logits, not {expected.shape[1]}"
    apart = float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    return "" if apart <= ROUNDING else f"its logits differ by {apart:.2g}"
