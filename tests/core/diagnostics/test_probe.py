"""Probes against scikit-learn's own, on the digits; test is not read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from core.common.errors import UserError
from core.diagnostics.probe import linear, neighbors, probe, reduced
from core.diagnostics.probe_options import Probe
from core.launch import Launch
from core.models import MLP
from core.training.assemble import assemble, load_splits
from data.digits import Digits
from experiments.tiny import EXPERIMENT

QUIET = Launch(mlflow=False, threads=1, device="cpu")
FIRST = EXPERIMENT.but({"model": MLP(hidden=(32,)), "augment": ()})


def test_it_probes_the_inputs_of_the_head_on_val_and_never_touches_test(monkeypatch):
    load = Digits.load

    def without_test(self, root=None):
        splits = load(self, root)
        return replace(splits, test=splits.test.take(np.arange(0)))

    monkeypatch.setattr(Digits, "load", without_test)
    found = probe(FIRST, QUIET)
    parts = assemble(FIRST, load_splits(FIRST, QUIET), QUIET)
    (x, y), (images, targets) = (inputs_of_the_head(parts, batches) for batches in (parts.images, parts.splits.val))
    assert (found.layer, found.size, found.train, found.images) == ("3", (32, 32), len(y), len(targets))
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    assert found.linear == int((regression.predict(images) == targets).sum())
    votes = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    assert found.knn == pytest.approx(int((votes.fit(x, y).predict(images) == targets).sum()), abs=1)  # of equal votes
    assert found.linear / found.images > 0.8


def inputs_of_the_head(parts, images):
    body = parts.state.model[:-1].eval()
    with torch.no_grad():
        found = [
            (body(parts.setup.normalize(batch).images).numpy(), batch.targets.numpy())
            for batch in parts.held_out(images).epoch(0)
        ]
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def data(classes=3):
    chance = np.random.default_rng(0)
    y = np.arange(90) % classes
    return chance.normal(size=(90, 6)) + np.eye(6)[y] * 2, y, chance.normal(size=(20, 6)) + np.eye(6)[np.arange(20) % 3]


def test_the_nearest_neighbor_alone_is_that_of_the_largest_cosine():
    x, y, others = data()
    theirs = KNeighborsClassifier(1, metric="cosine").fit(x, y).predict(others)
    assert (neighbors(Probe(neighbors=1), x, y, others) == theirs).all()
    assert (neighbors(Probe(neighbors=1000, temperature=1e-3), x, y, others) == theirs).all()


def test_features_are_selected_and_projected_as_by_scikit_learn_with_constant_ones_left_out():
    x, y, others = data()
    chosen = SelectKBest(f_classif, k=4).fit(x, y)
    components = PCA(2, random_state=0).fit(chosen.transform(x))
    dead = np.zeros((len(x), 1)), np.zeros((len(others), 1))
    found = reduced(Probe(select=4, pca=2), np.hstack([x, dead[0]]), y, np.hstack([others, dead[1]]))
    np.testing.assert_allclose(found[1], components.transform(chosen.transform(others)))
    assert set(linear(Probe(C=0.1), found[0], y, found[1])) <= {0, 1, 2}


@pytest.mark.parametrize("options", [{"select": 33}, {"pca": 33}])
def test_more_features_than_there_are_are_refused(options):
    with pytest.raises(UserError, match=r"33 is more than the 32 that these features have"):
        probe(FIRST, QUIET, Probe(**options))
