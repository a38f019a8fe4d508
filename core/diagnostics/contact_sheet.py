"""Contact sheet: the first images of the first batch after all augmentation, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from core.augment import per_image
from core.common import plots
from core.loading.batches import Batch
from core.loading.loader import Fetch, Request
from core.training.assemble import Assembly
from core.training.sanity_check import START

LOOK = "look.png"
SHOWN = 16


def contact_sheet(path: Path, parts: Assembly) -> None:
    """Write a PNG of the first training images of step 1, as the network receives them, with their classes."""
    plan = parts.train.plan
    order, shown = plan.order(0), min(SHOWN, plan.size)
    request = Request(order[:shown], plan.keys(0, order)[:shown])
    fetched = Fetch(parts.images, per_image(parts.experiment.augment))[request]
    batch = Batch(*(tensor.to(parts.setup.device) for tensor in fetched))
    ready = parts.setup.augment(parts.setup.normalize(batch), START)
    titles = parts.setup.task.titles(ready.targets, parts.context.classes)
    plots.contact_sheet(pixels(ready.images, parts.mean, parts.std), titles, path)


def pixels(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Convert normalized images float [N, C, H, W] to uint8 [N, H, W, C]; values out of range are clipped.

    The statistics of images normalized by their own are lost; these are shown with medium brightness and contrast."""
    channels_last = images.detach().float().cpu().permute(0, 2, 3, 1)
    scaled = channels_last * torch.tensor(tuple(std) or (0.25,)) + torch.tensor(tuple(mean) or (0.5,))
    return (scaled * 255).round().clamp(0, 255).to(torch.uint8).numpy()
