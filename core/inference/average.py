"""The mean of the answers of several runs, which of them to take (Caruana et al. 2004), and what that gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from core.common.errors import UserError
from core.metrics.answers import Answers, bounded, joined
from core.metrics.bootstrap import interval
from core.metrics.by_name import compute
from core.metrics.names import direction
from core.metrics.task import task_of

AT_ONCE = 4096  # images, which bounds the memory with many classes
Score = tuple[float, float]


def mean_answers(answers: Sequence[Answers], weights: Sequence[float] | None = None) -> Answers:
    """The weighted mean of the probabilities, as answers. weights: positive; None: equal ones.

    Where only the largest logits are kept, a class that a run did not keep has an equal share of the probability that
    is left. The probability of the target is exact all the same. Raises UserError if the answers are not for the same
    images, in the same order.
    """
    first = answers[0]
    for other in answers[1:]:
        refuse_unpaired(first, other)
    shares = torch.tensor(weights or [1.0] * len(answers), dtype=torch.float64)
    shares /= shares.sum()
    places = np.arange(len(first))
    some = [places[start : start + AT_ONCE] for start in range(0, len(first), AT_ONCE)]
    return joined([_mean([each.in_order(rows) for each in answers], shares) for rows in some])


def _mean(answers: Sequence[Answers], shares: torch.Tensor) -> Answers:
    first = answers[0]
    mean = task_of(first.multi_label, first.tasks).mean_of_views(
        torch.stack([all_logits(each) for each in answers]), shares
    )
    found = bounded(first.split, first.classes, first.ids, first.targets, mean.numpy(), first.tasks)
    found = replace(found, groups=first.groups)
    if found.places is None:
        return found
    own = torch.stack([_kept(each.own) - _kept(each.log_sum) for each in answers])
    of_target = (own + shares.log()[:, None]).logsumexp(dim=0)
    return replace(found, own=(of_target - mean.amax(dim=1)).float().numpy())


def refuse_unpaired(one: Answers, other: Answers) -> None:
    """Raises UserError if two answers are not for the same images, in the same order, with the same targets."""
    if one.classes != other.classes or (one.multi_label, one.tasks) != (other.multi_label, other.tasks):
        raise UserError(["the runs have different classes; they cannot answer together"])
    if not (np.array_equal(one.ids, other.ids) and np.array_equal(one.targets, other.targets)):
        raise UserError([f"the runs have answered different {one.split} images"])


def score_of(metric: str) -> Callable[[Answers], Score]:
    """A function to the score of answers, by which a larger one is better: the metric, and for equal ones the negative
    log-likelihood (for multi-label images, the mean average precision). Raises UserError for a metric of which it is
    not known whether larger values are better."""
    better = direction(metric)
    if better is None:
        raise UserError([f"--metric {metric}: it is not known whether larger or smaller values of it are better"])

    def score(answers: Answers) -> Score:
        second = compute(answers, "map") if answers.multi_label else -compute(answers, "nll")
        return better * compute(answers, metric), second

    return score


def chosen(answers: Sequence[Answers], metric: str, size: int) -> list[int]:
    """How often each of the runs is in the ensemble that is chosen greedily, with replacement (Caruana et al. 2004,
    sections 2.1 and 2.2, without bagging): int [M].

    Starting with none, the run is added with which the mean answer has the best score, `size` times; of the ensembles
    on the way, the best is returned, and of equal ones the smallest. Equal runs count in their order.
    """
    score = score_of(metric)
    path: list[tuple[Score, list[int]]] = []
    counts = [0] * len(answers)
    for _ in range(size):
        extended = [[n + (place == at) for place, n in enumerate(counts)] for at in range(len(answers))]
        scores = [score(_of_counts(answers, each)) for each in extended]
        best = max(range(len(answers)), key=scores.__getitem__)
        counts = extended[best]
        path.append((scores[best], counts))
    return max(path, key=lambda step: step[0])[1]


def _of_counts(answers: Sequence[Answers], counts: Sequence[int]) -> Answers:
    drawn = [(each, float(count)) for each, count in zip(answers, counts, strict=True) if count]
    return mean_answers([each for each, _ in drawn], [count for _, count in drawn])


class Gain(NamedTuple):
    """value: of a metric.  difference: how much larger it is than another value.  low, high: ends of the 95 % interval
    of the difference."""

    value: float
    difference: float
    low: float
    high: float


def gain(one: Answers, other: Answers, metric: str) -> Gain:
    """The gain of `other` over `one`, with an interval by a bootstrap over images that draws the same ones of both
    (Efron and Tibshirani 1993, chapter 13). Raises UserError if the metric is not defined for one of them."""
    value = compute(other, metric)
    difference = value - compute(one, metric)

    def of(rows: np.ndarray) -> float:
        return compute(other.in_order(rows), metric) - compute(one.in_order(rows), metric)

    return Gain(value, difference, *interval(of, len(one)))


def all_logits(answers: Answers) -> torch.Tensor:
    """Logits of all classes, float64 [N, C]; of many classes, those that are not kept share the remaining probability
    equally."""
    logits = torch.from_numpy(answers.logits).double()
    if answers.places is None:
        return logits
    logs = logits - _kept(answers.log_sum)[:, None]
    classes, kept = len(answers.classes), logs.shape[1]
    left = (1 - logs.exp().sum(dim=1)).clamp(min=1e-12) / (classes - kept)
    spread = torch.minimum(left.log(), logs[:, -1])  # no more than the smallest that is kept
    return spread[:, None].repeat(1, classes).scatter_(1, torch.from_numpy(answers.places), logs)


def _kept(column: np.ndarray | None) -> torch.Tensor:
    assert column is not None  # of answers for many classes
    return torch.from_numpy(column).double()
