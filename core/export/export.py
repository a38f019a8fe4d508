"""Export a run: write each format, measure it, and keep what is as right and as fast as the run itself."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.common.errors import UserError
from core.common.failpoints import failpoint
from core.common.files import make_folder
from core.common.text import few
from core.export import goldens, kept, latency, predictions, script
from core.export.formats import Format, Source
from core.export.graph import served
from core.export.int8 import Int8
from core.export.latency import Latency
from core.export.measured import Measured, lost, reasons
from core.export.predictions import Predict, is_right
from core.export.torch_engine import predictor
from core.loading.images import Images, Splits
from core.record.ledger import note_reading
from core.record.lock import is_free, locked
from core.record.run import RecordedRun, holds_others

Decode = Callable[[bytes, str], np.ndarray]  # (content, name) -> uint8 [H, W, C], as images of the run are decoded
Say = Callable[[str], None]
EAGER = "eager"  # PyTorch, as the run itself
SCRATCH = ".export-"  # begins the name of a folder with what is not finished
BEFORE = ".before"  # ends the name of an export that is being replaced, in such a folder


@dataclass(frozen=True)
class Plan:
    """How to export. folder: gets a folder for each format.  at_most: share of the answers that may be lost.  anyway:
    keep what is refused.  threads: of each engine.  seconds: for the latency of one format at one batch size."""

    formats: Sequence[Format]
    folder: Path
    at_most: float = 0.002
    anyway: bool = False
    threads: int = 1
    seconds: float = 5.0


@dataclass(frozen=True)
class Exported:
    """What was measured. eager: the latency of the run in PyTorch, by batch size.  formats: of each format."""

    eager: Mapping[int, Latency]
    formats: Sequence[Measured]

    @property
    def latencies(self) -> dict[str, Mapping[int, Latency]]:
        """{name of the engine: latency by batch size}, eager PyTorch first."""
        return {EAGER: self.eager} | {one.name: one.latency for one in self.formats if one.latency}


@dataclass(frozen=True)
class _Made:
    """A format as it was written for the measurements. model: what `Format.write` takes."""

    kind: Format
    model: Any
    folder: Path
    predict: Predict


def export(
    run: RecordedRun, splits: Splits, decode: Decode, conversion: Mapping[str, Any], plan: Plan, say: Say
) -> Exported:
    """Export a run, and record the measurements as an artifact of it. The test split is read for accepted exports only,
    once.

    conversion: how images are converted; see data/predict/conversion.py.  say: called with what is being done. Raises
    UserError if a format cannot be made, or if something else is where it belongs, and OSError; exports that exist are
    replaced by complete ones only.
    """
    _refuse_others(plan)
    source = source_of(run, splits, plan.formats, plan.at_most)
    eager = predictor(source.network)
    facts = {"run": run.id, "classes": list(splits.classes), "multi_label": run.multi_label, **conversion}
    make_folder(plan.folder)
    with threads(plan.threads), _scratch(plan.folder) as scratch:
        golden = _golden(scratch, splits.val, decode, eager)
        all_made = []
        for kind in plan.formats:
            say(f"writing {kind.name}")
            all_made.append(_made(kind, source, scratch / kind.name, golden, facts, plan))
        say("measuring latency, in turns with eager PyTorch")
        engines = {EAGER: eager} | {made.kind.name: made.predict for made in all_made if made.kind.package}
        some = splits.val.pixels[splits.val.rows[: max(latency.BATCHES)]]
        times = latency.measure(engines, some, plan.seconds)
        expected = predictions.of_split(eager, splits.val)
        found, own = [], None  # accuracy of the run on test, which is not read if all exports are refused
        for made in all_made:
            say(f"comparing the answers of {made.kind.name}")
            one = _measured(made, golden, splits.val, expected, times.get(made.kind.name, {}), plan.at_most)
            if not one.refused:
                if own is None:
                    note_reading(splits.digest, splits.name, "export", run.id)
                    own = _accuracy(eager, splits.test)
                one = replace(one, test=_accuracy(made.predict, splits.test), eager_test=own)
            if plan.anyway or not one.refused:
                _write(made.kind, made.model, made.folder, {**facts, "measured": one.record()})
                one = replace(one, folder=str(plan.folder.resolve()), digest=kept.digest_of(made.folder))
                _move(made.folder, plan.folder / made.kind.name)
            found.append(one)
    result = Exported(times[EAGER], found)
    facts = {"at_most": plan.at_most, "threads": plan.threads, "torch": torch.__version__}
    kept.record(run, result.eager, found, facts, EAGER)
    return result


def source_of(run: RecordedRun, splits: Splits | None, formats: Sequence[Format], at_most: float) -> Source:
    """What the formats are made from. splits: with the images that int8 needs. Raises UserError."""
    wants_int8 = splits is not None and any(each.precision == "int8" for each in formats)
    return Source(run, served(run), Int8.of(splits.train, splits.val, at_most) if splits and wants_int8 else None)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Context manager: torch computes with this number of threads, as the engines do."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Context manager: a folder for what is not finished yet. Those of exports that were killed are removed, after an
    earlier export in them went back to its place."""
    for left in folder.glob(f"{SCRATCH}*"):
        if left.is_dir() and is_free(left):
            for earlier in left.glob(f"*{BEFORE}"):
                if not (place := folder / earlier.name.removesuffix(BEFORE)).exists():  # see _move
                    earlier.rename(place)
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as made, locked(Path(made)):
        yield Path(made)


def _golden(scratch: Path, images: Images, decode: Decode, eager: Predict) -> Path:
    """A folder with the golden images and the answers that are expected, of the run in eager PyTorch."""
    folder = scratch / "golden"
    folder.mkdir()
    answers = {}
    for name, content in goldens.goldens(images.pixels[images.rows[:9]]).items():
        (folder / name).write_bytes(content)
        answers[name] = eager(np.array(decode(content, name)[None]))[0].tolist()
    (folder / goldens.EXPECTED).write_text(json.dumps(answers, indent=1))
    return folder


def _made(kind: Format, source: Source, folder: Path, golden: Path, facts: Mapping[str, Any], plan: Plan) -> _Made:
    folder.mkdir()
    model = kind.make(source)
    _write(kind, model, folder, facts)
    if kind.package:
        script.write(folder, kind, facts["multi_label"])
        (folder / "golden").mkdir()
        for file in golden.iterdir():  # the error of copytree is a list of errors
            shutil.copy(file, folder / "golden")
    return _Made(kind, model, folder, kind.opened(folder, plan.threads, source))


def _write(kind: Format, model: Any, folder: Path, facts: Mapping[str, Any]) -> None:
    kind.write(model, folder, json.dumps({**facts, "format": kind.name, "precision": kind.precision}))


def _measured(
    made: _Made, golden: Path, val: Images, expected: np.ndarray, times: Mapping[int, Latency], at_most: float
) -> Measured:
    answers = predictions.of_split(made.predict, val)
    changed = lost(is_right(expected, val.targets), is_right(answers, val.targets))
    several = val.targets.ndim == 2
    same = bool((predictions.decided(answers, several) == predictions.decided(expected, several)).all())
    apart = _apart(made, golden)
    size = sum(file.stat().st_size for file in made.folder.glob("model.*"))
    refused = reasons(made.kind.precision, apart, changed, same, times, at_most)
    return Measured(made.kind.name, size, apart, changed, same, times, refused)


def _apart(made: _Made, golden: Path) -> float:
    """The largest difference of a probability between the script beside a model and what is expected. Weights alone
    have no script. Raises UserError if the script fails."""
    if not made.kind.package:
        return 0.0
    expected = json.loads((golden / goldens.EXPECTED).read_text())
    answers = script.answers(made.folder, [golden / name for name in expected])
    return float(np.abs(answers - np.array(list(expected.values()))).max())


def _accuracy(predict: Predict, images: Images) -> float:
    return float(is_right(predictions.of_split(predict, images), images.targets).mean())


def _refuse_others(plan: Plan) -> None:
    """Raises UserError if the place of a format has anything but an export, which would be deleted."""
    for place in (plan.folder / kind.name for kind in plan.formats):
        if place.is_dir() and (others := sorted(file.name for file in place.iterdir() if not _is_ours(file.name))):
            raise UserError([f"{place} holds other files ({few(others)}), which an export would replace; choose --dir"])
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise UserError([f"{place} is no folder, and an export would replace it; choose another --dir"])


def _is_ours(name: str) -> bool:
    return name in (script.NAME, "golden", "__pycache__") or name.startswith("model.")


def _move(folder: Path, place: Path) -> None:
    """Move a complete export to its place; an earlier one goes where it is deleted with the rest. If the process dies
    in between, the next export puts the earlier one back."""
    if place.exists():
        place.rename(folder.with_name(f"{folder.name}{BEFORE}"))
        failpoint("export moved away")
    folder.rename(place)


def refuse(run: RecordedRun) -> None:
    """Raises UserError for a run that cannot be exported."""
    if holds_others(run.record):
        finished = [one.id for one in run.children() if one.status == "FINISHED"]
        advice = f"name one of its runs: {few(finished)}" if finished else "none of its runs has finished"
        raise UserError([f"{run.id} is the parent of other runs and has no network; {advice}"])
    if run.status != "FINISHED":
        raise UserError([f"{run.id} is {run.status}; an export requires a finished run"])
    run.refuse_tasks("exports do")
