"""What runs score on each image, for comparisons over images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from core.common import paths
from core.common.errors import UserError
from core.compare.comparison import BESIDE
from core.compare.images import Scores
from core.compare.runs import Row
from core.inference.answers import missing, read
from core.inference.paired import in_common
from core.metrics.answers import Answers
from core.metrics.per_image import PER_IMAGE
from core.record.run import RecordedRun

ROUNDING = 1e-3


def scores(rows: Sequence[Row], metric: str) -> Scores:
    """The scores of runs on the images that all of them have answered, by a metric such as val/accuracy.

    Raises UserError if the metric is not a mean over images, if a run has no answers, and if there is no image that all
    have answered.
    """
    split, _, quantity = metric.partition("/")
    if split not in ("val", "test") or quantity not in PER_IMAGE:
        names = ", ".join(name for name in PER_IMAGE if name != "loss")
        raise UserError([f"{metric} is not a mean over the images of val or test, as {names} are"])
    if split == "val" and any(row.fields.get("vary") == "split" for row in rows):
        raise UserError(["each seed has a val split of its own"])
    runs = [RecordedRun(paths.runs() / row.id) for row in rows]
    if lacking := [run.id for run in runs if missing(run, split)]:
        advice = f"labbook answers {lacking[0]} computes them"
        raise UserError([f"{len(lacking)} of {len(runs)} runs have no answers for {split}; {advice}"])
    if quantity == "loss":
        _refuse_other_losses(rows, split)
    first, ids = read(runs[0], split), []
    found: dict[str, dict[str, np.ndarray]] = {}
    for run in runs:
        answers = read(run, split)
        _refuse(answers, first)
        ids.append(answers.ids)
        for name in dict.fromkeys((quantity, *BESIDE)):
            if name == quantity or name != "brier" or answers.places is None:  # Brier needs the logits of all classes
                found.setdefault(name, {})[run.id] = PER_IMAGE[name](answers)
    places, left_out = in_common(ids, split)
    chosen = {name: _at(values, places) for name, values in found.items()}
    beside = BESIDE if quantity == "accuracy" else ()
    others = {name: {run: float(v.mean()) for run, v in chosen[name].items()} for name in beside if name in chosen}
    values, images = chosen[quantity], len(places[0])
    if first.groups is None:
        return Scores(values, "images", images, left_out, others)
    place = np.unique(first.groups[places[0]], return_inverse=True)[1]
    weight = (place.max() + 1) / images
    summed = {run: np.bincount(place, each) * weight for run, each in values.items()}
    return Scores(summed, "groups", images, left_out, others)


def _at(values: Mapping[str, np.ndarray], places: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The values of each run for the images that all have answered."""
    return {run: own[at] for (run, own), at in zip(values.items(), places, strict=True)}


def _refuse_other_losses(rows: Sequence[Row], split: str) -> None:
    """Raises UserError if the loss of a run is not the negative log-likelihood, which alone can be computed again."""
    for row in rows:
        both = [row.metrics.get(f"{split}/{name}", math.nan) for name in ("loss", "nll")]
        if not math.isclose(*both, rel_tol=ROUNDING):
            advice = f"use --metric {split}/nll"
            raise UserError([f"the loss of {row.id} is not the negative log-likelihood of each image; {advice}"])


def _refuse(answers: Answers, first: Answers) -> None:
    if answers.tasks:
        raise UserError(["the runs have several tasks, of which intervals are over seeds alone"])
    if answers.multi_label:
        raise UserError(["an image of these runs has any number of labels"])
    if answers.classes != first.classes:
        raise UserError(["the runs have different classes"])
