"""Classification metrics, computed from sums over a split, so that a short last batch has its correct weight.

Sums are added over batches and processes; metrics are pure functions of the sums, so that no logits are kept.
"""

from __future__ import annotations

import torch

from core.metrics.confusion import Margins, margins

BINS = 15  # bins of confidence, as in Guo et al. 2017, table 1
THRESHOLDS = 1000  # bins of multi-label scores


def correct(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Number of correct predictions, as float32; the class of a mixed target is its largest entry."""
    hard = targets.argmax(dim=1) if targets.is_floating_point() else targets
    return (logits.argmax(dim=1) == hard).sum(dtype=torch.float32)


def matched(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Number of exact matches, as float32: images whose predicted labels, at a score of 0.5, are exactly the true ones.

    logits float [N, C], targets float [N, C] of 0 and 1.
    """
    return ((logits >= 0) == (targets > 0.5)).all(dim=1).sum(dtype=torch.float32)


def in_top(logits: torch.Tensor, targets: torch.Tensor, k: int) -> torch.Tensor:
    """Number of targets among the k largest logits."""
    return (logits.topk(k, dim=1).indices == targets[:, None]).sum()


def likelihood(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sums for nll and ece, float [1 + 3 BINS]: the sum of -log p of the true classes; then, for each bin of
    confidence, the number of predictions, the sum of their confidences, and the number of correct ones.

    logits float [N, C], targets int64 [N]. Confidence is the largest probability; bins are of equal width.
    """
    log_p = logits.log_softmax(dim=1)
    own = log_p.gather(1, targets[:, None])[:, 0]
    return likelihood_sums(own, log_p.amax(dim=1).exp(), logits.argmax(dim=1) == targets)


def likelihood_sums(own: torch.Tensor, confidence: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The sums of `likelihood`. own: log p of the true classes, float [N].  confidence: float [N].  right: whether each
    prediction is correct, bool [N]."""
    confidence = confidence.nan_to_num()  # NaN shows in the loss; here it falls into some bin
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    facts = torch.stack([torch.ones_like(confidence), confidence, right.to(confidence.dtype)])
    binned = torch.where(place == torch.arange(BINS, device=place.device)[:, None], facts[:, None], 0.0)
    return torch.cat([-own.sum()[None], binned.sum(dim=2).flatten()])


def from_likelihood(sums: torch.Tensor) -> dict[str, float]:
    """Compute nll, in nats, and ece, the expected calibration error in 0..1 (Guo et al. 2017, equation 3).

    sums: of `likelihood`, summed over batches, on the host.
    """
    count, confidence, right = sums[1:].view(3, BINS)
    total = count.sum()
    return {"nll": float(sums[0] / total), "ece": float((confidence - right).abs().sum() / total)}


def by_class(counts: Margins) -> torch.Tensor:
    """Precision, recall and F1 of each class, float64 [C, 3]; 0 for zero denominators (Sokolova and Lapalme 2009,
    tables 2 and 3)."""
    right, predicted, true = counts.right.double(), counts.predicted, counts.true
    parts = [right / predicted.clamp(min=1), right / true.clamp(min=1), 2 * right / (predicted + true).clamp(min=1)]
    return torch.stack(parts, dim=1)


def from_confusion(table: torch.Tensor) -> dict[str, float]:
    """Compute accuracy, balanced_accuracy, and macro-averaged precision, recall and f1; each in 0..1.

    table: confusion matrix int64 [C, C], rows true classes, on the host, dense or sparse. balanced_accuracy is the mean
    recall of the classes that occur in the split (Brodersen et al. 2010). Averages exclude classes that are neither
    true nor predicted, so recall is lower than balanced_accuracy only if a class is predicted that does not occur in
    the split.
    """
    counts = margins(table)
    each, true = by_class(counts), counts.true > 0
    seen = true | (counts.predicted > 0)
    precision, recall, f1 = each[seen].mean(dim=0).tolist()
    return {
        "accuracy": int(counts.right.sum()) / int(counts.true.sum()),
        "balanced_accuracy": float(each[true, 1].mean()),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def score_table(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Histogram of multi-label scores, int64 [2, C, THRESHOLDS]: number of samples without (0) and with (1) each label
    in each bin.

    logits float [N, C], targets float [N, C] of 0 and 1. The score is sigmoid(logit).
    """
    classes = logits.shape[1]
    bins = (logits.sigmoid().nan_to_num() * THRESHOLDS).long().clamp(max=THRESHOLDS - 1)
    column = torch.arange(classes, device=logits.device)
    place = (targets.long() * classes + column) * THRESHOLDS + bins
    size = 2 * classes * THRESHOLDS
    return torch.bincount(place.flatten(), minlength=size).view(2, classes, THRESHOLDS)


def by_label(table: torch.Tensor) -> torch.Tensor:
    """Average precision of each label, and its precision, recall and F1 at a score of 0.5, float64 [C, 4]; 0 for zero
    denominators.

    table: of `score_table`, summed over batches, on the host. Average precision is the sum over thresholds of precision
    times the increase in recall (Everingham et al. 2010, section 4.2, without interpolation), with scores rounded down
    to multiples of 1 / THRESHOLDS.
    """
    without, having = table.double().flip(2).cumsum(dim=2)  # at or above each threshold, from the highest down
    gained = having.diff(dim=1, prepend=having.new_zeros(len(having), 1))
    positives = having[:, -1]
    average = (gained * having / (having + without).clamp(min=1)).sum(dim=1) / positives.clamp(min=1)
    half = THRESHOLDS - THRESHOLDS // 2 - 1  # index of 0.5, counted from the highest threshold
    right, claimed = having[:, half], (having + without)[:, half]
    parts = [right / claimed.clamp(min=1), right / positives.clamp(min=1)]
    return torch.stack([average, *parts, 2 * right / (claimed + positives).clamp(min=1)], dim=1)


def from_scores(table: torch.Tensor) -> dict[str, float]:
    """Compute map, the mean average precision over the labels that occur in the split, and macro-averaged f1 at a score
    of 0.5; both in 0..1. f1 excludes labels that neither occur nor are predicted.

    table: of `score_table`, summed over batches, on the host.
    """
    each, known = by_label(table), table[1].sum(dim=1) > 0
    claimed = table[:, :, THRESHOLDS // 2 :].sum(dim=(0, 2)) > 0
    return {"map": float(each[known, 0].mean()), "f1": float(each[known | claimed, 3].mean())}
