"""What the network sees: the first images of the first batch, after every augmentation, as a picture."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from core import plots
from core.augment import per_image
from core.batches import Batch, Fetch, Request
from core.build import ALONE, Assembly
from core.experiment import Experiment
from core.launch import Launch
from core.listing import entries
from core.options import parse
from core.part import Mistakes
from core.spelling import did_you_mean

LOOK = "look.png"
SHOWN = 16
MOST_NAMED = 2  # classes named of a mixed target


def main(words: Sequence[str]) -> int:
    """labbook look NAME, with any of the experiment's options, and --to PATH. Raises Mistakes."""
    known = [entry.name for entry in entries()]
    if "--help" in words or "-h" in words:
        print("usage: labbook look NAME [--option value ...] [--to PATH]\n")
        print(f"NAME: {', '.join(known)}\nits options: python -m experiments.NAME --help")
        return 0
    if not words or words[0].startswith("-"):
        raise Mistakes([f"look needs an experiment: {', '.join(known)}"])
    name, rest = words[0], list(words[1:])
    if name not in known:
        raise Mistakes([f"look {name}: no such experiment{did_you_mean(name, known)}; there is {', '.join(known)}"])
    path = Path(f"look_{name}.png")
    if "--to" in rest:
        place = rest.index("--to")
        _, *given = rest[place : place + 2]
        if not given or not Path(given[0]).absolute().parent.is_dir():
            raise Mistakes(["--to: needs the path of a PNG in a folder that exists"])
        path = Path(given[0])
        del rest[place : place + 2]
    importlib.import_module("data")
    module = importlib.import_module(f"experiments.{name}")
    options = parse(rest, module.EXPERIMENT, getattr(module, "VARIANTS", {}))
    print(look(options.experiment, options.launch, path))
    return 0


def contact_sheet(path: Path, experiment: Experiment, parts: Assembly) -> None:
    """Write a PNG of the first training images of step 1, as the network gets them, with their classes."""
    plan = parts.train.plan
    order, shown = plan.order(0), min(SHOWN, plan.size)
    request = Request(order[:shown], plan.keys(0, order)[:shown])
    fetched = Fetch(parts.images, per_image(experiment.augment))[request]
    batch = Batch(*(tensor.to(parts.setup.device) for tensor in fetched))
    ready = parts.setup.augment(parts.setup.normalise(batch))
    said = label_titles if parts.setup.several else titles
    plots.contact_sheet(pixels(ready.images, parts.mean, parts.std), said(ready.targets, parts.context.classes), path)


def look(experiment: Experiment, launch: Launch, path: Path) -> Path:
    """The contact sheet of a declaration that need not be trained. Raises Mistakes, as `train` does."""
    from core.run import prepare

    _, parts = prepare(experiment, launch, ALONE)
    contact_sheet(path, experiment, parts)
    return path


def pixels(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 [N, H, W, C] of normalised images float [N, C, H, W]; what is beyond black or white is cut off.

    Images normalised each by itself have lost what they were: they are shown at middle brightness and contrast."""
    channels_last = images.detach().float().cpu().permute(0, 2, 3, 1)
    scaled = channels_last * torch.tensor(tuple(std) or (0.25,)) + torch.tensor(tuple(mean) or (0.5,))
    return (scaled * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def titles(targets: torch.Tensor, classes: Sequence[str]) -> list[str]:
    """The class of each of N targets, int64 [N]; of mixed ones, float [N, C], the largest with their shares."""
    if not targets.is_floating_point():
        return [classes[target] for target in targets.tolist()]
    shares, places = targets.cpu().topk(min(MOST_NAMED, targets.shape[1]), dim=1)
    return [
        " + ".join(f"{classes[place]} {share:.2f}" for share, place in zip(*row, strict=True) if share >= 0.005)
        for row in zip(shares.tolist(), places.tolist(), strict=True)
    ]


def label_titles(targets: torch.Tensor, classes: Sequence[str]) -> list[str]:
    """The labels of each of N targets, float [N, C] of 0 and 1."""
    return [" + ".join(name for name, has in zip(classes, row, strict=True) if has) or "-" for row in targets.tolist()]
