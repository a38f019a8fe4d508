"""Trains the bank: one file for each declaration, written again as a whole after each of its seeds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.common.errors import NonFinite
from core.common.files import make_folder, replacing
from core.common.paths import home
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Images, Splits
from core.training.assemble import Assembly, assemble
from core.training.loop import fit

QUIET = Launch(mlflow=False, threads=1, workers=0, device="cpu")
CURVES = ("val/loss", "val/nll", "val/accuracy")


def folder() -> Path:
    """Where the bank is unless a folder is given; git does not see it."""
    return home() / "mlruns" / "bank"


def path_of(out: Path, number: int) -> Path:
    """The file of a declaration."""
    return out / f"{number:02d}.npz"


def fill(out: Path, experiments: list[Experiment], seeds: int, digest: str) -> Iterator[tuple[int, int]]:
    """Train what the bank lacks, and yield (seed, number of the declaration) of each run: seed by seed, so that a bank
    of fewer seeds is whole, too. Raises ValueError if the folder holds a bank of other declarations."""
    make_folder(out)
    splits = experiments[0].data.load(None)
    for seed in range(seeds):
        for number, experiment in enumerate(experiments):
            path = path_of(out, number)
            kept = read(path, digest) if path.exists() else {}
            if seed < len(kept.get("test", ())):
                continue
            new = _run(experiment.but({"seed": seed}), splits)
            rows = {name: np.concatenate([*([kept[name]] if kept else []), row[None]]) for name, row in new.items()}
            with replacing(path) as stream:
                np.savez_compressed(stream, digest=np.array(digest), **rows)
            yield seed, number


def read(path: Path, digest: str) -> dict[str, np.ndarray]:
    """{name: [seeds, ...]} of a declaration. Raises ValueError if it belongs to other declarations."""
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    if str(found.pop("digest")) != digest:
        raise ValueError(f"{path}: other declarations were trained there; give another --out")
    return found


def _run(experiment: Experiment, splits: Splits) -> dict[str, np.ndarray]:
    """The curves of a run, [epochs] each, NaN from where it failed, and what the weights of its best epoch answer."""
    parts = assemble(experiment, splits, QUIET)
    curves = {name: np.full(experiment.epochs, np.nan, np.float32) for name in CURVES}
    best: Any = copy.deepcopy(parts.state.evaluated)
    try:
        for event in fit(parts.setup, parts.state, parts.train, parts.val):
            if event.validation:
                for name in CURVES:
                    curves[name][event.epoch] = event.metrics[name]
                if experiment.best_epoch(parts.state.history) == event.epoch:
                    best = copy.deepcopy(parts.state.evaluated)
    except NonFinite:
        pass
    parts.state.trained["model"].load_state_dict(best.state_dict())
    answers = {f"{name} {kind}": row for name in ("val", "test") for kind, row in _answers(parts, name).items()}
    right = answers["test predicted"] == splits.test.targets
    return curves | answers | {"test": np.array(right.mean(), np.float32)}


def _answers(parts: Assembly, split: str) -> dict[str, np.ndarray]:
    """The predicted class uint8 [N] and the probability of the true one float16 [N], in the order of the split."""
    images: Images = getattr(parts.splits, split)
    logits = parts.network.logits(images.pixels[images.rows]).double().numpy()
    own = logits[np.arange(len(images)), images.targets]
    largest = logits.max(axis=1)
    log_sum = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return {"predicted": logits.argmax(axis=1).astype(np.uint8), "own": np.exp(own - log_sum).astype(np.float16)}
