"""A soup of finished runs: the mean of their weights, tested once, and put on record as a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from core.common.errors import UserError
from core.common.text import few
from core.inference.average import Score, score_of
from core.inference.combined import Soup
from core.launch import Launch
from core.losses import Loss
from core.methods import Supervised
from core.metrics.answers import Answers
from core.models import load_weights
from core.models.weights import unmerged
from core.record.run import COMBINED, WEIGHTS
from core.runs.combine import Combination, Selection, recorded, val_answers
from core.runs.results import evaluate_split
from core.runs.trained import Run
from core.tracking.api import NoMirror
from core.training.assemble import Assembly, assemble
from core.training.averaging import renew_statistics
from core.training.evaluate import Evaluation
from core.training.runtime import open_runtime

Weights = Mapping[str, torch.Tensor]
Val = tuple[Evaluation, Answers]
FREE = ("weights", "grad_checkpointing", "fp32")  # fields of a model that change neither its layers nor their start


def soup(
    runs: Sequence[Run],
    uniform: bool = False,
    metric: str = "accuracy",
    root: Path | None = None,
    device: str | None = None,
    title: str | None = None,
) -> Selection:
    """Average the weights of finished runs (Wortsman et al. 2022), and put the network on record as a run.

    uniform: take all runs; if false, they are added one after the other, the best on val first, and each that does not
    make the metric on val worse is kept (recipe 1).  metric: by name, as `labbook metric` takes it.  root, device:
    instead of those of the best run.  title: for display.

    The mean and variance of each BatchNorm are recomputed, over the training images of the best run, augmented as
    in its training. The test images are read once, at the end. Nothing is recorded if the greedy soup is a single run.
    Raises UserError for runs that did not start from the same weights, that differ in network or data, that have no
    answers on record, or that have not finished.
    """
    answers = val_answers(runs)
    refuse_strangers(runs)
    score = score_of(metric)
    scores = [score(each) for each in answers]
    runs = [runs[place] for place in sorted(range(len(runs)), key=scores.__getitem__, reverse=True)]
    first = runs[0]
    launch = Launch.read(first.record["launch"])
    launch = launch.but({"root": root or launch.root, "device": device or launch.device})
    with open_runtime(launch, NoMirror()):
        parts = _assembled(first, launch)
        weights = [load_file(run.artifact(WEIGHTS)) for run in runs]
        if uniform:
            taken, val = list(range(len(runs))), _cooked(parts, weights)
        else:
            taken, val = _greedy(parts, weights, max(scores), score)
        if len(taken) == 1:
            return Selection(None, {first.id: 1.0}, first.id, metric)
        members = [(runs[place], 1 / len(taken)) for place in taken]
        declared = first.experiment.but({"model": Soup(of=first.experiment.model)})
        network, test = parts.state.model.eval(), evaluate_split(parts, "test", parts.splits.test)
        made = Combination("soup", declared, members, network.cpu(), first.record["data"], val, test)
        return recorded(made, first, metric, title)


def mean_weights(weights: Sequence[Weights]) -> dict[str, torch.Tensor]:
    """The mean of state dicts with the same names, in float64; what is not floating-point is that of the first."""
    return {
        name: torch.stack([each[name].double() for each in weights]).mean(dim=0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in weights[0].items()
    }


def origin_of(run: Run) -> str:
    """What the weights of a run were before its training, in words; equal for runs that started from the same ones."""
    record = run.record
    if record.get("continued"):
        return f"the final state of {record['continued']}"
    if origin := record.get("weights"):
        return f"the weights {origin['name']} (sha256 {origin['sha256'][:12]})"
    return f"random weights of seed {run.experiment.seed}"


def refuse_strangers(runs: Sequence[Run]) -> None:
    """Raises UserError if the weights of runs cannot be averaged: one is an ensemble or a soup, the networks or their
    normalization differ, or they did not start from the same weights."""
    first = runs[0]
    for run in runs:
        if run.record.get(COMBINED):
            members = ", ".join(member["run"] for member in run.record[COMBINED])
            raise UserError([f"{run.id} was made of other runs; name those that were trained: {members}"])
    layers, normalization = _layers(first), _normalization(first)
    for other in runs[1:]:
        if (there := _layers(other)) != layers:
            differing = sorted(name for name in {*layers, *there} if layers.get(name) != there.get(name))
            names = ", ".join(differing)
            raise UserError([f"{first.id} and {other.id} have different networks ({names}); a soup needs equal ones"])
        if _normalization(other) != normalization:
            raise UserError([f"{first.id} and {other.id} normalize images differently; a soup needs the same"])
    origins = {run.id: origin_of(run) for run in runs}
    if len(set(origins.values())) > 1:
        each = few([f"{name} from {origin}" for name, origin in origins.items()])
        advice = "labbook ensemble averages their answers instead"
        raise UserError([f"a soup needs runs that started from the same weights, and these did not: {each}; {advice}"])


def _layers(run: Run) -> dict[str, Any]:
    """What determines the layers: dotted name -> value."""
    experiment = run.experiment
    model = {name: value for name, value in experiment.model.flat().items() if name not in FREE}
    adds_layers = type(experiment.loss).network is not Loss.network
    head = {f"loss.{name}": value for name, value in experiment.loss.flat().items()} if adds_layers else {}
    return {"class": type(experiment.model).__name__} | model | head


def _normalization(run: Run) -> tuple[Any, Any]:
    return run.record["data"]["mean"], run.record["data"]["std"]


def _assembled(run: Run, launch: Launch) -> Assembly:
    """What evaluates a network as that of a run. Its weights are replaced, and no optimizer step is made."""
    plain = {"model.weights": None, "ema": None, "swa": None, "method": Supervised()}
    return assemble(run.experiment.but(plain), run.splits(launch), launch)


def _cooked(parts: Assembly, weights: Sequence[Weights]) -> Val:
    """Load the mean of weights, recompute the statistics of BatchNorm, and evaluate val."""
    network, last = parts.state.model, parts.experiment.epochs - 1
    load_weights(network, unmerged(network, mean_weights(weights)), "the mean of the weights")
    renew_statistics(parts.setup, network, parts.train, last, last * len(parts.train.plan))
    return evaluate_split(parts, "val", parts.splits.val)


def _greedy(
    parts: Assembly, weights: Sequence[Weights], alone: Score, score: Callable[[Answers], Score]
) -> tuple[list[int], Val]:
    """(positions of the runs in the soup, its evaluation of val); the weights of the soup are then loaded (Wortsman et
    al. 2022, recipe 1).  weights: the best run first.  alone: its score."""
    taken, (reached, _) = [0], alone
    for place in range(1, len(weights)):
        _, tried = _cooked(parts, [weights[each] for each in (*taken, place)])
        if (now := score(tried)[0]) >= reached:
            taken, reached = [*taken, place], now
    return taken, _cooked(parts, [weights[each] for each in taken])
