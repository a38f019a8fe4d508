"""`probe`: k-nearest-neighbor and linear probe on the features of a network. Nothing is trained or recorded.

The network is that of the declaration: with `model.weights`, of a run, of a file, or pretrained. Features are the
inputs of its head for images without augmentation. Probes are fitted on train and measured on val; test is not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from core.common.errors import UserError
from core.common.statistics import wilson
from core.common.terminal import console
from core.diagnostics.probe_options import Probe
from core.experiment import Experiment
from core.launch import Launch
from core.loading.batches import Batches
from core.models.transfer import head_of
from core.training.assemble import Assembly, prepare
from core.training.feature_cache import MOST_BYTES, features_at
from core.training.runtime import open_runtime
from core.training.smoke import declared

CHUNK = 1024  # images of val whose similarities to all of train are in memory at once
STEPS = 1000  # of the optimizer of logistic regression, at most


@dataclass(frozen=True)
class Probed:
    """Numbers of images of val that each probe gets right, of `images`.

    layer: whose inputs are the features.  size: number of features, before and after selection and PCA.  largest:
    images of the most frequent class of val.
    """

    layer: str
    size: tuple[int, int]
    train: int
    images: int
    knn: int
    linear: int
    largest: int


def probe(experiment: Experiment, launch: Launch | None = None, options: Probe | None = None) -> Probed:
    """Probe the network that `train` would start from. Raises UserError as `train` does, for multi-label images, and
    for options that do not fit the features."""
    launch, options = launch or Launch(), options or Probe()
    with open_runtime(launch, None) as runtime:
        parts = prepare(declared(experiment, launch, runtime.ranks), launch, runtime.ranks)
        if parts.splits.tasks:
            raise UserError(["probe: it supports a single task, and these images have several"])
        if parts.splits.multi_label:
            raise UserError(["probe: it supports only single-label images"])
        layer = head_of(parts.state.model)
        train, val = (_features(parts, layer, batches) for batches in (parts.held_out(parts.images), parts.val))
    x, y, images, targets = *train, *val
    before = x.shape[1]
    x, images = reduced(options, x, y, images)
    right = [np.sum(found == targets) for found in (neighbors(options, x, y, images), linear(options, x, y, images))]
    largest = int(np.bincount(targets).max())
    return Probed(layer, (before, x.shape[1]), len(y), len(targets), int(right[0]), int(right[1]), largest)


def reduced(options: Probe, x: np.ndarray, y: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, others) after feature selection and PCA, which are fitted on the training features x [N, D] and their classes
    y. Raises UserError for more features or components than there are."""
    from sklearn.decomposition import PCA
    from sklearn.feature_selection import SelectKBest, f_classif

    if options.select:
        _refuse("select", options.select, x.shape[1])
        varies = x.std(axis=0) > 0  # the statistic of a constant feature is not defined
        chosen = SelectKBest(f_classif, k=min(options.select, int(varies.sum()))).fit(x[:, varies], y)
        x, others = chosen.transform(x[:, varies]), chosen.transform(others[:, varies])
    if options.pca:
        _refuse("pca", options.pca, min(x.shape))
        components = PCA(options.pca, random_state=0).fit(x)
        x, others = components.transform(x), components.transform(others)
    return x, others


def neighbors(options: Probe, x: np.ndarray, y: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The class [M] of each of `others` [M, D] by the votes of its nearest neighbors among x [N, D] of classes y."""
    known, classes = F.normalize(torch.from_numpy(x).float()), torch.from_numpy(y)
    found = []
    for some in torch.from_numpy(others).float().split(CHUNK):
        similarity, nearest = (F.normalize(some) @ known.T).topk(min(options.neighbors, len(x)))
        votes = torch.zeros(len(some), int(classes.max()) + 1, dtype=torch.float64)
        weights = (similarity.double() / options.temperature).sub_(similarity[:, :1] / options.temperature).exp_()
        found.append(votes.scatter_add_(1, classes[nearest], weights).argmax(dim=1))
    return torch.cat(found).numpy()


def linear(options: Probe, x: np.ndarray, y: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The class [M] of each of `others` [M, D] by logistic regression on x [N, D] of classes y."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=options.C, max_iter=STEPS)).fit(x, y)
    return np.asarray(fitted.predict(others))


def _features(parts: Assembly, layer: str, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """(features [N, D], classes [N]) of a split; of a head that is a convolution, their means over positions."""
    found = features_at(parts.state.model, layer, batches, parts.setup)
    if found is None:
        raise UserError([f"probe: the features need more than {MOST_BYTES >> 30} GB; use fewer images, --limit N"])
    features, targets = found
    features = features.flatten(2).mean(dim=2) if features.ndim > 2 else features
    return features.float().cpu().numpy().astype(np.float64), targets.cpu().numpy()


def _refuse(field: str, wanted: int, most: int) -> None:
    if wanted > most:
        raise UserError([f"{field}: {wanted} is more than the {most} that these features have"])


def report(found: Probed) -> None:
    """Print the accuracies with their 95 % intervals."""
    before, after = found.size
    out = console(140)
    size = f"{before:,} features" + (f", reduced to {after:,}" if after != before else "")
    out.print(f"{size}, the inputs of {found.layer}; fitted on {found.train:,} images of train", highlight=False)
    for name, right in (("k-nearest-neighbor", found.knn), ("linear probe", found.linear)):
        low, high = (float(bound) for bound in wilson(np.array(right), np.array(found.images)))
        share = right / found.images
        text = f"{name}: val accuracy {share:.2%} [{low:.2%}, {high:.2%}] (n = {found.images:,})"
        out.print(text, highlight=False)
    out.print(f"the most frequent class has {found.largest / found.images:.2%} of val", highlight=False)
