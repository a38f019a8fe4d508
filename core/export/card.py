"""The model card of a run: README.md with the metadata that the Hugging Face hub reads, and a text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.common.html import render_text
from core.common.text import duration
from core.export import siblings
from core.export.public_record import shown
from core.inference.answers import missing, read
from core.metrics.intervals import over_images
from core.record.run import COMBINED, RecordedRun

MEASURED = ("accuracy", "balanced_accuracy", "f1", "nll", "ece")  # metrics with an interval over images
OF_LABELS = ("accuracy", "f1", "map")
MAIN = "test/accuracy"  # the metric of which a mean over seeds is reported
DECLARED = ("augment", "loss", "method", "optimizer", "optimizer.lr", "schedule", "epochs", "batch_size", "seed")
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")  # an id of the hub


@dataclass(frozen=True)
class Result:
    """A metric of the test split. interval: its ends as text, or why there is none."""

    name: str
    value: float
    interval: str


def card(
    run: RecordedRun,
    parameters: int,
    conversion: Mapping[str, Any],
    reason: str,
    files: Mapping[str, str],
    command: str,
) -> str:
    """The text of README.md. parameters: number of those of the published network, in which the matrices of LoRA are
    merged.  reason: why timm does not load the folder, or an empty text.  files: {name: what it is}.
    command: how the run was started, or why that is not told. Raises UserError."""
    record, data = run.record, run.record["data"]
    results, declared = _results(run), record["declaration"]
    name = declared["model"].get("name")
    network = declared["model"]["class"].rpartition(".")[2] + (f" {name}" if name else "")
    title = f"{network} on {data['name']}"
    return render_text(
        "export/card.md.jinja",
        front=_front(run, results, bool(reason)),
        title=title,
        description=shown(run.opening.get("description", "").partition("\n\n")[0].strip()),
        classes=data["classes"],
        multi_label=run.multi_label,
        network=network,
        parameters=f"{parameters:,}",
        run=run.id,
        images=data["test"],
        epoch=run.tags.get("best_epoch", "unknown"),
        tta=declared.get("tta", "none"),
        results=results,
        seeds=_seeds(run),
        reason=reason,
        mode="L" if data["image_shape"][2] == 1 else "RGB",
        shape=data["image_shape"],
        cut=_cut(conversion),
        interpolation=conversion["interpolation"],
        normalization=_normalization(data),
        training=[(what, _cell(text)) for what, text in _training(run, command) if text],
        files=files,
    )


def _front(run: RecordedRun, results: list[Result], own: bool) -> str:
    """The metadata as YAML. own: timm does not load the folder."""
    import yaml

    data = run.record["data"]
    declared = run.record["declaration"]["data"]
    name = str(declared.get("name") or data["name"])
    measured = [{"type": one.name, "name": one.name, "value": one.value} for one in results]
    task = {"type": "image-classification", "name": "Image Classification"}
    fields: dict[str, Any] = {
        "library_name": "pytorch" if own else "timm",
        "pipeline_tag": "image-classification",
        **({"datasets": [name]} if _HUB.fullmatch(name) else {}),
        "tags": ["image-classification", "pytorch" if own else "timm", "labbook"],
    }
    if measured:
        dataset = {"type": name, "name": data["name"], "split": "test"}
        fields["model-index"] = [{"name": run.id, "results": [{"task": task, "dataset": dataset, "metrics": measured}]}]
    return str(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))


def _results(run: RecordedRun) -> list[Result]:
    values = {name[5:]: value for name, value in run.metrics.items() if name.startswith("test/")}
    lacking = missing(run, "test")
    answers = None if lacking else read(run, "test")
    found = []
    for name, value in values.items():
        if not math.isfinite(value):
            continue
        interval = ""
        if answers and name in (OF_LABELS if run.multi_label else MEASURED):
            low, high = over_images(answers, name)
            interval = f"{low:.4f} to {high:.4f}"
        found.append(Result(name, value, interval))
    return found


def _seeds(run: RecordedRun) -> str:
    if MAIN not in run.metrics:
        return ""
    if run.record.get(COMBINED):
        members = ", ".join(f"`{member['run']}`" for member in run.record[COMBINED])
        return f"It was made of the runs {members}, and not trained; there is no mean over seeds."
    mean, half, n = siblings.over_seeds(run, MAIN)
    if n == 1:
        return "One seed of this setting is on record (n = 1), so nothing is known of the spread over seeds."
    return (
        f"Accuracy over the n = {n} seeds of this setting on record: {mean:.2%} +- {half:.2%} (mean and 95 % interval "
        "by Student's t). The files here are those of one of them."
    )


def _cut(conversion: Mapping[str, Any]) -> str:
    if short := conversion["resize_size"]:
        return f"the shorter side is resized to {short} and the center is kept"
    return "the largest centered area of this shape is resized"


def _normalization(data: Mapping[str, Any]) -> str:
    if not data["mean"]:
        what = "channel of an image" if data["std"] else "image"
        return f"Each {what} is normalized by its own mean and standard deviation."
    mean, std = (", ".join(f"{value:.4f}" for value in data[name]) for name in ("mean", "std"))
    return f"Pixels of 0 to 1 are normalized by the mean {mean} and the standard deviation {std}."


def _training(run: RecordedRun, command: str) -> list[tuple[str, str]]:
    record, params = run.record, run.params
    facts, data = record["facts"], record["data"]
    machine = facts.get("hardware.gpu") or facts.get("hardware.cpu", "")
    cores = f"{facts['hardware.cores']} cores" if "hardware.cores" in facts else ""
    versions = [f"{name[8:]} {text}" for name, text in facts.items() if name in ("version.torch", "version.python")]
    changed = " with uncommitted changes" if facts.get("git.dirty") == "true" else ""
    return [
        ("command", f"`{command}`" if command else ""),
        (
            "data",
            f"{data['name']}: {data['train']:,} training, {data['val']:,} validation and {data['test']:,} test images",
        ),
        ("declaration", ", ".join(f"{name} {params[name]}" for name in DECLARED if name in params)),
        ("hardware", ", ".join(filter(None, [machine, cores, facts.get("precision", "")]))),
        ("time", duration(run.seconds) if run.seconds else ""),
        ("software", ", ".join(versions)),
        ("code", f"commit {facts['git.commit']}{changed}" if "git.commit" in facts else ""),
    ]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", r"\|").split())
