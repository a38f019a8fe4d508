"""What tests ask of a run on disk, and how they interrupt one."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager

import numpy as np
import pytest

from core.record.journal import Journal
from core.record.run import RECORD, WEIGHTS, RecordedRun
from core.runs.trained import Run
from tests.support.kills import OF_TIME_OR_SIZE


def digest(run: Run) -> str:
    return hashlib.sha256((run.folder / "artifacts" / WEIGHTS).read_bytes()).hexdigest()


def points(run: Run):
    """Every metric point that does not tell a time or a size."""
    history = run.history
    return {name: history[name] for name in history.keys() - set(OF_TIME_OR_SIZE)}


def rewrite_record(run: RecordedRun, changes) -> None:
    """Change the record of a run, and its digest in the journal."""
    path = run.folder / "artifacts" / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    Journal(run.folder).log_artifact(RECORD)


def only_run(home) -> Run:
    (folder,) = (home / "mlruns" / "runs").iterdir()
    return Run(folder)


def images(run: Run, number: int = 3) -> np.ndarray:
    """Random pixels of the size of a run."""
    return np.random.default_rng(0).integers(0, 256, (number, *run.record["data"]["image_shape"]), dtype=np.uint8)


@contextmanager
def interrupted_after(step):
    """Context manager in which a training is interrupted as by Ctrl-C, once this step is recorded."""
    from core.runs import trainer

    record = trainer._record

    def crash(log, parts, event):
        record(log, parts, event)
        if event.step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_record", crash)
        with pytest.raises(KeyboardInterrupt):
            yield
