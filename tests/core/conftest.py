"""Records as training leaves them, without the training."""

import json

import pytest

from core.record.journal import Journal


@pytest.fixture
def lab(home):
    """Writes runs on record as training leaves them. lacking: fields that were not there yet."""

    def write(
        experiment,
        accuracy,
        variant=None,
        status="FINISHED",
        data="d1",
        name="tiny",
        error="",
        lacking=(),
        **more,
    ):
        folder = home / "mlruns" / "runs" / f"{name}-20260101-{write.count:06d}-abcd"
        write.count += 1
        journal = Journal(folder)
        journal.write(
            "params", values={key: str(value) for key, value in experiment.flat().items() if key not in lacking}
        )
        if error:
            journal.write("tags", values={"error": error})
        journal.close(status)
        record = {"labbook": 2, "run": folder.name, "experiment": name, "variant": variant, "parent": None,
                  "declaration": experiment.record(), "data": {"digest": data}, "facts": {"parameters": "1000"},
                  **more}  # fmt: skip
        journal.artifact("record.json").write_text(json.dumps(record))
        if status != "RUNNING":
            metrics = {
                "test/accuracy": accuracy,
                "val/accuracy": accuracy,
                "test/loss": 1 - accuracy,
                "images_per_second": 100.0,
                "seconds": 60.0,
            }
            summary = {"status": status, "metrics": metrics, "whole": experiment.limit is None}
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder.name

    write.count = 0
    return write
