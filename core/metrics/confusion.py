"""Confusion matrices, int64 [C, C], rows true classes, columns predictions.

Up to DENSE classes they are dense. Above, they are sparse, because their size grows with the square of the number of
classes: 21,841 classes would take 3.8 GB. Their margins and their cells are the same in either form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core.metrics.names import DENSE

if TYPE_CHECKING:
    from scipy.sparse import coo_array


class Margins(NamedTuple):
    """Number of images of each class: correctly predicted, predicted, and true; int64 [C] each."""

    right: torch.Tensor
    predicted: torch.Tensor
    true: torch.Tensor


def empty(classes: int, device: torch.device) -> torch.Tensor:
    """A confusion matrix of no images, to which those of batches are added."""
    if classes <= DENSE:
        return torch.zeros(classes, classes, dtype=torch.int64, device=device)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return torch.sparse_coo_tensor(none.expand(2, 0), none, (classes, classes), check_invariants=False)


def confusion(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Confusion matrix of logits [N, C] and targets int64 [N]."""
    return confusion_of(logits.argmax(dim=1), targets, logits.shape[1])


def confusion_of(predicted: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Confusion matrix of predicted classes int64 [N] and targets int64 [N]."""
    if classes <= DENSE:
        return torch.bincount(targets * classes + predicted, minlength=classes**2).view(classes, classes)
    places = torch.stack([targets, predicted])
    return torch.sparse_coo_tensor(places, torch.ones_like(targets), (classes, classes), check_invariants=False)


def margins(table: torch.Tensor) -> Margins:
    """The margins of a confusion matrix."""
    if not table.is_sparse:
        return Margins(table.diag(), table.sum(dim=0), table.sum(dim=1))
    table = table.coalesce()
    (true, predicted), counts = table.indices(), table.values()
    none = counts.new_zeros(len(table))
    right = none.index_add(0, true, counts * (true == predicted))
    return Margins(right, none.index_add(0, predicted, counts), none.index_add(0, true, counts))


def cells(table: torch.Tensor) -> coo_array[Any]:
    """The cells that are not zero, ordered by row and column. table: on the host."""
    from scipy.sparse import coo_array

    if not table.is_sparse:
        return coo_array(table.numpy())
    table = table.coalesce()
    return coo_array((table.values().numpy(), tuple(table.indices().numpy())), shape=tuple(table.shape))
