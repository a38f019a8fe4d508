"""A run on record: what was declared, where it ran, what came of it. Read back from its folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import journal, paths
from core.part import Mistakes
from core.spelling import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from core.experiment import Experiment

VERSION = 1
RECORD = "record.json"
WEIGHTS = "weights/best.safetensors"
SUMMARY = "summary.json"
CONFUSION = "confusion_matrix.csv"
REPORT = "report.html"
PRUNED = "pruned"  # a tag, of a trial that was not trained to its end
IMPORTED = "imported"  # in a record: where an old run was taken from that labbook did not train
REPLACED = "imported.replaced_by"  # a tag, of an imported run whose source was imported again
BEST = "best.json"  # of a study: the declaration of its best trial


@dataclass(frozen=True)
class Run:
    """One run's folder. Everything is read when asked for."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def status(self) -> str:
        """RUNNING (or interrupted), FINISHED, FAILED or KILLED."""
        return journal.status(self.folder)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record as written. Raises Mistakes where it is missing or of a version this code cannot read."""
        return read_record(self.folder / "artifacts" / RECORD)

    @property
    def history(self) -> dict[str, dict[int, float]]:
        """Metric name -> {step: value}."""
        return journal.history(self.folder)

    @property
    def metrics(self) -> dict[str, float]:
        """Metric name -> last value."""
        return last(self.history)

    @property
    def tags(self) -> dict[str, str]:
        """The last text of each."""
        events = (event for _, event in journal.read(self.folder) if event["event"] == "tags")
        return {name: text for event in events for name, text in event["values"].items()}

    @property
    def params(self) -> dict[str, str]:
        """Dotted name -> declared value, as it was recorded."""
        return next(event["values"] for _, event in journal.read(self.folder) if event["event"] == "params")

    @property
    def opening(self) -> dict[str, Any]:
        """The journal's first event "run": experiment, name, description, parent."""
        return next(event for _, event in journal.read(self.folder) if event["event"] == "run")

    @property
    def confusion(self) -> tuple[list[str], np.ndarray] | None:
        """(classes, int64 [C, C]: rows true classes) of the test split; None for a run that was not tested."""
        import csv

        import numpy as np

        path = self.folder / "artifacts" / CONFUSION
        if not path.exists():
            return None
        with path.open(newline="") as stream:
            (_, *classes), *rows = csv.reader(stream)
        return classes, np.array([row[1:] for row in rows], dtype=np.int64)

    @property
    def several(self) -> bool:
        """Whether the images that it was trained on have several labels at a time."""
        return bool(self.record["data"].get("several"))  # records were written before there was such a thing

    @property
    def seconds(self) -> float:
        """Time in training, from its rates: what lay between two sittings does not count."""
        rates = self.history.get("images_per_second", {}).values()
        return sum(self.record["data"]["train"] / rate for rate in rates if rate)  # 0: resumed at an epoch's end

    @property
    def experiment(self) -> Experiment:
        """The declaration. The experiment's own module is imported first, so that its parts are known. Raises Mistakes
        for an imported run, which has none."""
        return declared(self.record)

    @cached_property
    def model(self) -> nn.Module:
        """The network with the best epoch's weights, on the CPU, in evaluation mode.

        It takes normalised images (see `predict`). Raises Mistakes for a run that has kept no weights, or
        weights that are damaged or of another architecture.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from core.context import Context
        from core.models import load_weights

        experiment = self.experiment
        weights = self.folder / "artifacts" / WEIGHTS
        if not weights.exists():
            raise Mistakes([f"{self.id} has kept no weights ({weights} is missing)"])
        shape, classes = self.record["data"]["image_shape"], self.record["data"]["classes"]
        context = Context(
            classes=tuple(classes),
            class_counts=tuple(self.record["data"]["class_counts"]),
            image_shape=(shape[0], shape[1], shape[2]),
            train_size=self.record["data"]["train"],
            steps_per_epoch=1,
            epochs=1,
            batch_size=1,
            device=torch.device("cpu"),
            mean=tuple(self.record["data"]["mean"]),
            std=tuple(self.record["data"]["std"]),
        )
        # where its first weights came from does not matter any more
        model = experiment.loss.network(experiment.model.model_copy(update={"weights": None}), context)
        try:
            kept = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise Mistakes([f"{weights}: damaged: {error}"]) from None
        load_weights(model, kept, str(weights))
        return model.eval()

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities float [N, C] of images uint8 [N, H, W, channels]; classes stand in record["data"]. Of several
        labels at a time, each label's own."""
        import numpy as np
        import torch

        from core.augment import normaliser
        from core.batches import Batch

        data = self.record["data"]
        if images.dtype != np.uint8 or list(images.shape[1:]) != data["image_shape"]:
            expected = "x".join(map(str, data["image_shape"]))
            raise ValueError(f"images must be uint8 [N, {expected}], not {images.dtype} {list(images.shape)}")
        nothing = torch.empty(0)
        writable = np.require(images, requirements=["C", "W"])
        batch = Batch(torch.from_numpy(writable), nothing, nothing, nothing)
        with torch.inference_mode():
            normalised = normaliser(data["mean"], data["std"], torch.device("cpu"))(batch).images
            logits = self.model(normalised)
        return (logits.sigmoid() if self.several else logits.softmax(dim=1)).numpy()


def last(history: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Metric name -> last value."""
    return {name: points[max(points)] for name, points in history.items()}


def load(run: str | Path) -> Run:
    """The run of this id, of a unique beginning of an id, or in this folder. Raises Mistakes where there is none."""
    folder = Path(run)
    if (folder / journal.FILE).exists():
        return Run(folder)
    known = {path.name: path for path in sorted(paths.runs().glob("*")) if (path / journal.FILE).exists()}
    begun = [name for name in known if str(run) and name.startswith(str(run))]
    # the whole name of an experiment does not stand for the run of another one: digits_cnn, digits_cnn-wide
    found = [name for name in begun if not named_in(name).startswith(f"{run}-")]
    if str(run) in known:
        return Run(known[str(run)])
    if len(found) == 1:
        return Run(known[found[0]])
    if found:
        raise Mistakes([f"{run}: {len(found)} runs begin so; name one: {', '.join(found[:5])}"])
    raise Mistakes([f"{run}: no such run in {paths.runs()}{did_you_mean(str(run), known)}"])


def runs_of(experiment: str) -> Iterator[Run]:
    """Runs on record of this experiment, the latest first. Records are read, but no journal.

    The record decides, because the ids of another experiment may begin with this one's name. The id decides for a
    run whose record cannot be read: such a run is yielded, and its `record` raises Mistakes.
    """
    folders = [folder for folder in paths.runs().glob("*") if folder.name.startswith(f"{experiment}-")]
    for run in map(Run, sorted(folders, reverse=True)):
        if (run.folder / "artifacts" / RECORD).exists() and _experiment_of(run) == experiment:
            yield run


def _experiment_of(run: Run) -> str:
    try:
        return str(run.record["experiment"])
    except (Mistakes, KeyError):
        return named_in(run.id)


def named_in(run_id: str) -> str:
    """The experiment in the id of a run, <experiment>-<date>-<time>-<random>."""
    return run_id.rsplit("-", 3)[0]


def read_declaration(place: str) -> Experiment:
    """That of a run (of a study's run: the best), of a record, or of a study's best.json. Raises Mistakes."""
    path = Path(place)
    if not path.is_file():
        artifacts = load(place).folder / "artifacts"
        path = artifacts / BEST if (artifacts / BEST).exists() else artifacts / RECORD
    return declared(read_record(path))


def declared(record: Mapping[str, Any]) -> Experiment:
    """The declaration in a record. Raises Mistakes where there is none that reads."""
    from core.experiment import Experiment

    if IMPORTED in record:
        raise Mistakes([f"{record['run']} was imported: it has no declaration, only what its old log says"])
    import_experiment(record["experiment"])
    return Experiment.read(record["declaration"])


def declares(record: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether this is the declaration in a record. False for a record of which none reads.

    Both are compared as this code writes them: a record keeps the modules in which its classes once stood, and lacks
    the fields that are younger than it.
    """
    try:
        return declared(record).record() == experiment.record()
    except Mistakes:
        return False


def read_record(path: Path) -> dict[str, Any]:
    """A record.json. Raises Mistakes, saying why, for one that is missing, broken or of another version."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        raise Mistakes([f"{path}: no record there"]) from None
    except (OSError, ValueError) as error:
        raise Mistakes([f"{path}: not a record: {error}"]) from None
    version = record.get("labbook") if isinstance(record, dict) else None
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        advice = "use the labbook that wrote it" if newer else "this labbook reads none so old"
        raise Mistakes([f"{path}: record of version {version}, this labbook writes version {VERSION}: {advice}"])
    return record


def holds_others(record: Mapping[str, Any]) -> bool:
    """Whether it is of a parent (of several seeds, of a study's trials), which is no run of its own."""
    return "seeds" in record or "study" in record


def import_experiment(name: str) -> None:
    """Make the parts of the data sets and of experiments.<name> known. A name from elsewhere imports nothing."""
    importlib.import_module("data")
    if name.isidentifier() and (paths.ROOT / "experiments" / name / "__init__.py").is_file():
        importlib.import_module(f"experiments.{name}")
