"""Answers: what a network says of each image of a split. Metrics are functions of them; no image is needed again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.common.blocks import Blocks, own_names, spans
from core.common.errors import UserError

MOST_CLASSES, KEPT = 100, 20
COLUMNS = ("ids", "targets", "logits", "places", "log_sum", "own", "groups")  # of Answers


@dataclass(frozen=True)
class Answers:
    """The answers for the images of a split, in its order.

    classes: their names.  ids: str [N], see `identity`.  targets: int64 [N]; for multi-label images, float32 [N, C] of
    0 and 1.  logits: float32 [N, C]; of single-label images minus the largest of each, which changes no probability and
    keeps the order of nearly equal ones in half precision.

    With more than MOST_CLASSES classes, only the KEPT largest logits of an image are kept, the largest first: logits
    are [N, KEPT] and places, int64 [N, KEPT], are their classes. log_sum, float32 [N], is the logarithm of the sum of
    the exponentials of all logits; own, float32 [N], is the logit of the target. Otherwise, these three are None.

    groups: str [N], the groups that the data declare, such as patients; None if they declare none.

    tasks: the blocks of the columns of several tasks. Targets are those of multi-label images then, with at most a 1 in
    each block; an image without a label of a task has none.
    """

    split: str
    classes: tuple[str, ...]
    ids: np.ndarray
    targets: np.ndarray
    logits: np.ndarray
    places: np.ndarray | None = None
    log_sum: np.ndarray | None = None
    own: np.ndarray | None = None
    groups: np.ndarray | None = None
    tasks: Blocks = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def predicted(self) -> np.ndarray:
        """The class with the largest logit of each image, int64 [N]."""
        return self.logits.argmax(axis=1) if self.places is None else self.places[:, 0]

    @property
    def probabilities(self) -> np.ndarray:
        """The probabilities of all classes, float64 [N, C]: of softmax, with several tasks in each block, or, for
        multi-label images, of sigmoid. Raises UserError if there are more than MOST_CLASSES classes, of which not all
        logits are kept."""
        if self.places is not None:
            kept = f"of {len(self.classes):,} classes, {self.logits.shape[1]} are kept"
            raise UserError([f"it needs the probabilities of all classes; {kept}"])
        logits: np.ndarray = self.logits.astype(np.float64)
        if self.tasks:
            return np.concatenate([_softmax(logits[:, columns]) for _, columns in spans(self.tasks)], axis=1)
        if self.multi_label:
            labels: np.ndarray = np.exp(-np.logaddexp(0, -logits))
            return labels
        return _softmax(logits)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have any number of labels."""
        return self.targets.ndim == 2

    def of_task(self, task: str) -> Answers:
        """The answers of one of several tasks, for the images that have a label of it: those of single-label images."""
        columns = dict(spans(self.tasks))[task]
        own = self.targets[:, columns]
        has = own.any(axis=1)
        groups = None if self.groups is None else self.groups[has]
        names = own_names(self.tasks, task, self.classes)
        found = bounded(self.split, names, self.ids[has], own[has].argmax(axis=1), self.logits[has, columns])
        return replace(found, groups=groups)

    def in_order(self, order: np.ndarray) -> Answers:
        """The answers at these positions, int64 [n]."""
        parts = {name: getattr(self, name) for name in COLUMNS}
        return replace(self, **{name: part[order] for name, part in parts.items() if part is not None})


def _softmax(logits: np.ndarray) -> np.ndarray:
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = scores / scores.sum(axis=1, keepdims=True)
    return shares


def identity(pixels: np.ndarray) -> str:
    """The id of an image uint8 [H, W, C], 16 hexadecimal digits: a digest of its shape and pixels, so that the same
    image has the same id in every data set and split."""
    digest = hashlib.blake2b(str(pixels.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def bounded(
    split: str, classes: tuple[str, ...], ids: np.ndarray, targets: np.ndarray, logits: np.ndarray, tasks: Blocks = ()
) -> Answers:
    """Answers from all logits, float [N, C], of which the largest are kept if there are many classes."""
    logits = logits.astype(np.float32)
    if targets.ndim == 1:
        logits -= logits.max(axis=1, keepdims=True)
    if len(classes) <= MOST_CLASSES or targets.ndim == 2:
        return Answers(split, classes, ids, targets, logits, tasks=tasks)
    places = np.argsort(-logits, axis=1, kind="stable")[:, :KEPT]
    own = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    log_sum = np.log(np.exp(logits).sum(axis=1))
    return Answers(split, classes, ids, targets, np.take_along_axis(logits, places, axis=1), places, log_sum, own)


def joined(parts: Sequence[Answers], split: str | None = None) -> Answers:
    """The answers of all parts of a split. split: its name, if it is not that of the parts."""
    columns = {name: [getattr(part, name) for part in parts] for name in COLUMNS}
    whole = {name: np.concatenate(values) for name, values in columns.items() if values[0] is not None}
    return Answers(split or parts[0].split, parts[0].classes, **whole, tasks=parts[0].tasks)


def by_content(answers: Answers) -> Answers:
    """The answers sorted by the ids of the images, of identical images by group and target: an order that several runs
    on the same images have in common."""
    keys = [*answers.targets.reshape(len(answers), -1).T, *([] if answers.groups is None else [answers.groups])]
    return answers.in_order(np.lexsort((*keys, answers.ids)))
