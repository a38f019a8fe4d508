"""The answers of a run on record, in answers/val.parquet and answers/test.parquet among its artifacts.

A file has a row for each image, in the order of the split:

    id        content of the decoded image, 16 hexadecimal digits: the same image has the same id in every data set
    target    index of its class; for multi-label images and several tasks, the indices of its labels
    group     only of data that declare groups: the name of its group, such as a patient
    logits    float16, one for each class, minus the largest of the image unless it is multi-label; with more than
              MOST_CLASSES classes, the KEPT largest
    classes   only with more than MOST_CLASSES: the classes of these logits
    log_sum   only then: logarithm of the sum of the exponentials of all logits
    own       only then: logit of the target
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.common.blocks import Blocks
from core.common.errors import UserError
from core.common.files import replacing
from core.metrics.answers import Answers, bounded, identity, joined
from core.record.journal import Journal
from core.record.run import RecordedRun

if TYPE_CHECKING:
    import pyarrow as pa

    from core.inference.network import Network
    from core.loading.images import Images

Convert = Callable[[np.ndarray], np.ndarray]
FOLDER, OUT_OF_FOLD = "answers", "oof"  # the latter: of the parent of folds, answers/oof.parquet
KEPT_AS: type[np.floating[Any]] = np.float16  # of logits; a test keeps them in float32, to measure what that costs
_LARGEST = float(np.finfo(np.float16).max)


def name_of(split: str) -> str:
    """The artifact with the answers for a split."""
    return f"{FOLDER}/{split}.parquet"


def write(path: Path, answers: Answers, run: str) -> None:
    """Write answers as a Parquet file. Raises OSError."""
    from pyarrow import parquet

    with replacing(path) as stream:
        parquet.write_table(_table(answers, run), stream, compression="zstd")


def log_answers(journal: Journal, name: str, answers: Answers) -> None:
    """Write answers as an artifact of a run and record it."""
    write(journal.artifact(name), answers, journal.run_id)
    journal.log_artifact(name)


def _table(answers: Answers, run: str) -> pa.Table:
    import pyarrow as pa

    def rows(values: np.ndarray, kind: Any) -> pa.Array:
        flat = pa.array(values.reshape(-1), kind)
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    labels = [np.flatnonzero(row).tolist() for row in answers.targets] if answers.multi_label else None
    columns = {
        "id": pa.array(answers.ids),
        "target": pa.array(labels, pa.list_(pa.int32()))
        if labels is not None
        else pa.array(answers.targets, pa.int32()),
        "logits": rows(np.clip(answers.logits, -_LARGEST, _LARGEST).astype(KEPT_AS), pa.from_numpy_dtype(KEPT_AS)),
    }
    if answers.places is not None:
        columns["classes"] = rows(answers.places, pa.int32())
        columns |= {"log_sum": pa.array(answers.log_sum), "own": pa.array(answers.own)}
    if answers.groups is not None:
        columns["group"] = pa.array(answers.groups)
    facts = {"run": run, "split": answers.split, "classes": list(answers.classes), "multi_label": answers.multi_label}
    facts |= {"tasks": answers.tasks} if answers.tasks else {}
    return pa.table(columns, metadata={"labbook": json.dumps(facts)})


def ask(
    network: Network,
    images: Images,
    split: str,
    classes: tuple[str, ...],
    convert: Convert | None = None,
    tasks: Blocks = (),
) -> Answers:
    """The answers of a network for a split. convert: of pixels uint8 [n, H, W, C] to those that the network takes."""
    parts = []
    for start in range(0, len(images), network.chunk):
        rows = images.rows[start : start + network.chunk]
        pixels = np.ascontiguousarray(convert(images.pixels[rows]) if convert else images.pixels[rows])
        ids = np.array([identity(image) for image in pixels])
        targets = images.targets[start : start + network.chunk]
        parts.append(bounded(split, classes, ids, targets, network.logits(pixels).numpy(), tasks))
    return replace(joined(parts), groups=images.groups)


def missing(run: RecordedRun, split: str) -> str:
    """The message that a run has no answers for a split; empty if it has."""
    if (run.folder / "artifacts" / name_of(split)).exists():
        return ""
    advice = f"labbook answers {run.id} computes them"
    if split == OUT_OF_FOLD:
        advice = "the parent of folds has them, once all folds have finished"
    return f"{run.id} has no answers for {split}; {advice}"


def read(run: RecordedRun, split: str) -> Answers:
    """The answers of a run for a split. Raises UserError if it has none, or if the file is damaged."""
    if lacking := missing(run, split):
        raise UserError([lacking])
    return read_file(run.artifact(name_of(split)))


def read_file(path: Path) -> Answers:
    """The answers in a file. Raises UserError if it holds none."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # without threads, such as read_table starts: those of pyarrow abort a process that ends soon after
        file = parquet.ParquetFile(pa.BufferReader(path.read_bytes()), pre_buffer=False)
        table = file.read(use_threads=False)
        facts = json.loads(table.schema.metadata[b"labbook"])
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        classes = tuple(facts["classes"])
        width = columns["logits"].type.list_size
        arrays = {name: columns[name].flatten().to_numpy(False) for name in ("logits", "classes") if name in columns}
        places = arrays["classes"].reshape(-1, width).astype(np.int64) if "classes" in arrays else None
        found = _checked(
            facts["split"],
            classes,
            columns["id"].to_numpy(False).astype(str),
            _targets(columns["target"], len(classes), facts["multi_label"]),
            arrays["logits"].astype(np.float32).reshape(-1, width),
            places,
            *(columns[name].to_numpy() if name in columns else None for name in ("log_sum", "own")),
            columns["group"].to_numpy(False).astype(str) if "group" in columns else None,
        )
        return replace(found, tasks=tuple((name, count) for name, count in facts.get("tasks", ())))
    except (pa.ArrowException, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError([f"{path}: no answers of a run: {type(error).__name__}: {error}"]) from None


def _checked(split: str, classes: tuple[str, ...], ids: Any, targets: Any, logits: Any, *few: Any) -> Answers:
    """Answers of these columns. Raises ValueError if they do not fit together."""
    found = Answers(split, classes, ids, targets, logits, *few)
    columns = [part for part in (ids, targets, logits, *few) if part is not None]
    if not len(ids) or len({len(part) for part in columns}) != 1:
        raise ValueError("it has no rows, or columns of different lengths")
    if found.places is None and logits.shape[1] != len(classes):
        raise ValueError(f"it has {logits.shape[1]} logits for {len(classes)} classes")
    labels = [part for part in (None if targets.ndim == 2 else targets, found.places) if part is not None]
    if any(part.min() < 0 or part.max() >= len(classes) for part in labels) or np.isnan(logits).all():
        raise ValueError("it has targets or classes that are out of range, or no finite logits")
    return found


def _targets(column: pa.Array, classes: int, multi_label: bool) -> np.ndarray:
    if not multi_label:
        targets: np.ndarray = column.to_numpy(False).astype(np.int64)
        return targets
    found = np.zeros((len(column), classes), np.float32)
    for row, labels in enumerate(column.to_pylist()):
        found[row, labels] = 1
    return found
