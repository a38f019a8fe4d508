"""Records as training leaves them, without the training."""

import json

import pytest

from core.journal import Journal


@pytest.fixture
def lab(home):
    """Writes runs on record as training leaves them."""

    def write(experiment, accuracy, variant=None, status="FINISHED", data="d1", name="digits_cnn", error="", **more):
        folder = home / "mlruns" / "runs" / f"{name}-20260101-{write.count:06d}-abcd"
        write.count += 1
        journal = Journal(folder)
        journal.write("params", values={key: str(value) for key, value in experiment.flat().items()})
        if error:
            journal.write("tags", values={"error": error})
        journal.close(status)
        record = {"labbook": 1, "run": folder.name, "experiment": name, "variant": variant, "parent": None,
                  "declaration": experiment.record(), "data": {"digest": data}, "facts": {"parameters": "1000"},
                  **more}  # fmt: skip
        journal.artifact("record.json").write_text(json.dumps(record))
        if status != "RUNNING":
            metrics = {
                "test/accuracy": accuracy,
                "test/loss": 1 - accuracy,
                "images_per_second": 100.0,
                "seconds": 60.0,
            }
            summary = {"status": status, "metrics": metrics, "whole": experiment.limit is None}
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder.name

    write.count = 0
    return write


def seeds(lab, experiment, accuracies, **more):
    return [lab(experiment.but({"seed": seed}), value, **more) for seed, value in enumerate(accuracies)]
