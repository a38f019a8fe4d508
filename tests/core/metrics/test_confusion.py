"""Confusion matrices: sparse ones are the dense ones."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.launch import Launch
from core.metrics import confusion as module
from core.metrics.confusion import cells, confusion, empty, margins
from core.runs import results
from core.runs.train import train
from experiments.tiny import EXPERIMENT

QUIET = Launch(mlflow=False, threads=1)


@given(st.integers(1, 7), st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 99))
def test_sparse_matrices_are_the_dense_ones(classes, batches, seed):
    random = torch.Generator().manual_seed(seed)
    made = [
        (torch.randn(n, classes, generator=random), torch.randint(0, classes, (n,), generator=random)) for n in batches
    ]
    tables = []
    for most in (classes, classes - 1):
        before, module.DENSE = module.DENSE, most
        try:
            tables.append(sum((confusion(*batch) for batch in made), start=empty(classes, torch.device("cpu"))))
        finally:
            module.DENSE = before
    dense, sparse = tables
    assert not dense.is_sparse
    assert sparse.is_sparse
    assert (sparse.to_dense() == dense).all()
    for one, other in zip(margins(dense), margins(sparse), strict=True):
        assert one.tolist() == other.tolist()
    assert (cells(dense).toarray() == cells(sparse).toarray()).all()


def test_a_run_of_many_classes_records_pairs_and_the_same_metrics(home, monkeypatch, drawn):
    short = EXPERIMENT.but({"epochs": 1, "limit": 300})
    few = train(short, QUIET)
    monkeypatch.setattr(module, "DENSE", 5)
    monkeypatch.setattr(results, "DENSE", 5)
    monkeypatch.setattr("core.common.plots.MOST_SQUARES", 5)
    monkeypatch.setattr("core.common.plots.MOST_LABELS", 4)
    monkeypatch.setattr("core.report.page.MOST_CLASSES", 3)
    monkeypatch.setattr("core.report.page.MOST_ROWS", 2)
    many = train(short, QUIET)
    assert many.status == "FINISHED"
    assert {name: value for name, value in many.metrics.items() if name.startswith(("val/", "test/"))} == {
        name: value for name, value in few.metrics.items() if name.startswith(("val/", "test/"))
    }
    kept = {path.name for path in (many.folder / "artifacts").iterdir()}
    assert "confusion_pairs.csv" in kept
    assert "confusion_matrix.png" in kept
    assert "confusion_matrix.csv" not in kept
    assert many.is_tested
    for one, other in zip(few.confusion, many.confusion, strict=True):
        assert np.array_equal(one.toarray(), other.toarray()) if hasattr(one, "toarray") else one == other
    page = (many.folder / "artifacts/report.html").read_text()
    assert page.count("3 of 10 classes") == 2
