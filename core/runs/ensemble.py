"""An ensemble of finished runs: chosen on their val answers, tested once, and put on record as a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from core.common.precision import HALVES
from core.inference.average import chosen, mean_answers, score_of
from core.inference.combined import AS_PIXELS, Ensemble, Member
from core.inference.network import model_of
from core.losses import BinaryCrossEntropy, CrossEntropy
from core.metrics.answers import Answers
from core.metrics.base import Metric, measured
from core.metrics.by_name import compute
from core.metrics.confusion import confusion_of
from core.metrics.task import MULTI_LABEL, TOP5_FROM
from core.runs.combine import Combination, Selection, paired, recorded, val_answers
from core.runs.trained import Run
from core.training.evaluate import Evaluation

SIZE = 20  # draws
SINGLE = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "nll", "ece")


def ensemble(runs: Sequence[Run], metric: str = "accuracy", size: int = SIZE, title: str | None = None) -> Selection:
    """Choose an ensemble of finished runs greedily on their val answers (Caruana et al. 2004), and put it on record.

    metric: by name, as `labbook metric` takes it; of equal values, the negative log-likelihood decides.  size: number
    of draws with replacement, after which the best ensemble on the way is taken.  title: for display.

    The ensemble is a run of its own, whose network contains the networks of its members: it does not need their
    folders. Its answers for test are the mean of those of its members. No test answer is read before it is chosen.
    Nothing is recorded if a single run is best. Raises UserError for runs that cannot answer together, that have no
    answers on record, or that have not finished.
    """
    val = val_answers(runs)
    scores = [score_of(metric)(each) for each in val]
    best = max(range(len(runs)), key=scores.__getitem__)
    counts = chosen(val, metric, size)
    drawn = [place for place, count in enumerate(counts) if count]
    members = [(runs[place], counts[place] / sum(counts)) for place in drawn]
    if len(members) == 1:
        return Selection(None, {members[0][0].id: 1.0}, runs[best].id, metric)
    weights = [weight for _, weight in members]
    answers = [
        mean_answers(each, weights)
        for each in ([val[place] for place in drawn], paired([r for r, _ in members], "test"))
    ]
    made = _made(members, *[(evaluated(each, runs[drawn[0]].experiment.metrics), each) for each in answers])
    return recorded(made, runs[best], metric, title)


def _made(
    members: Sequence[tuple[Run, float]], val: tuple[Evaluation, Answers], test: tuple[Evaluation, Answers]
) -> Combination:
    first, _ = members[0]
    declared = tuple(_member(run, weight) for run, weight in members)
    model = Ensemble(members=declared, multi_label=first.multi_label)
    network: nn.Module = model.of([model_of(run) for run, _ in members])
    # the network of a member has its weights in fp32, whatever they are in on record
    precisions = {"fp32" if run.precision in HALVES else run.precision for run, _ in members}
    changes = {
        "model": model,
        "loss": BinaryCrossEntropy() if first.multi_label else CrossEntropy(),
        "tta": "none",  # each member has its own
        "precision": precisions.pop() if len(precisions) == 1 else "fp32",
    }
    data = first.record["data"]
    mean, std = AS_PIXELS
    channels = data["image_shape"][2]
    pixels = {"mean": [mean] * channels, "std": [std] * channels}
    return Combination("ensemble", first.experiment.but(changes), members, network.eval(), data | pixels, val, test)


def _member(run: Run, weight: float) -> Member:
    experiment, data = run.experiment, run.record["data"]
    return Member(
        model=experiment.model,
        loss=experiment.loss,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        tta=experiment.tta,
        weight=weight,
    )


def evaluated(answers: Answers, declared: Sequence[Metric] = ()) -> Evaluation:
    """The evaluation that is on record of answers: the metrics of the end of a training, with cross-entropy as loss,
    and the declared ones."""
    own = measured(declared, answers)
    if answers.multi_label:
        logits, targets = torch.from_numpy(answers.logits), torch.from_numpy(answers.targets)
        table, sums = MULTI_LABEL.count(logits, targets)
        loss = BinaryCrossEntropy()(logits, targets).sum()
        return Evaluation(MULTI_LABEL.summary(table, torch.cat([loss[None], sums])) | own, table)
    names = (*SINGLE, "top5") if len(answers.classes) >= TOP5_FROM else SINGLE
    metrics = {name: compute(answers, name) for name in names}
    predicted, targets = torch.from_numpy(answers.predicted), torch.from_numpy(answers.targets)
    table = confusion_of(predicted, targets, len(answers.classes))
    return Evaluation({"loss": metrics["nll"]} | metrics | own, table)
