"""labbook register RUN NAME: the best epoch's model of a run into MLflow's registry, ready to be served.

It is exported whole, from uint8 images to probabilities by class name: whoever serves it needs torch, numpy and mlflow,
and nothing of labbook. Nothing in it is a pickle.
"""

from __future__ import annotations

import logging
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.common.errors import UserError
from core.common.text import public
from core.record.lock import is_free
from core.record.run import WEIGHTS, RecordedRun, holds_others
from core.tracking.api import standing, tracking_uri

MOST_NAMED = 5
NO_PICKLE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true"}
# an MLflow that is down is told of at once, and not after seven attempts
BRIEF = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}


@dataclass(frozen=True)
class Registered:
    """new: whether this call made the version.  before: the version that the alias stood for; None for none."""

    name: str
    alias: str
    version: int
    new: bool
    before: int | None

    @property
    def uri(self) -> str:
        """What MLflow calls it."""
        return f"models:/{self.name}@{self.alias}"

    @property
    def command(self) -> str:
        """Serves it on this machine."""
        uri = tracking_uri()
        # one with a password stands in the environment already, and is not to be seen on a screen
        where = {"MLFLOW_TRACKING_URI": uri} if public(uri) == uri else {}
        settings = [f"{name}={shlex.quote(value)}" for name, value in (where | NO_PICKLE | NO_TELEMETRY).items()]
        serve = ["mlflow", "models", "serve", "-m", shlex.quote(self.uri), "--env-manager", "local", "--port", "5001"]
        return " ".join(settings + serve)


def register(run: RecordedRun, name: str, alias: str = "champion") -> Registered:
    """Register a finished run's model, once under each name, and let the alias stand for it.

    Raises UserError for a run that has none to offer or that MLflow lacks, for names that MLflow refuses, where MLflow
    does not answer, and for a network that torch.export cannot take. Nothing is registered then.
    """
    _refuse(run)
    os.environ.update(NO_TELEMETRY)  # for good, and before the import: a thread that outlasts us would send it
    from core.tracking import registry

    with _settings():
        registry.check_names(name, alias)
        found = registry.opened(run.folder)
        before = found.pointed(name, alias)
        version = found.version_of(run.id, name)
        if version is not None:
            found.point(name, alias, version)
            return Registered(name, alias, version, False, before)
        from core.serving.export import exported

        data = run.record["data"]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            registry.save(folder, exported(run), data["classes"], data["image_shape"])
            version = found.add(folder, name, alias, _tags(run), _epoch(run))
        return Registered(name, alias, version, True, before)


def _refuse(run: RecordedRun) -> None:
    """Raises UserError for a run that has no model to offer, or that MLflow does not have whole."""
    if holds_others(run.record):
        raise UserError([f"{run.id} holds other runs and has no model of its own; {_below(run)}"])
    if run.multi_label:
        advice = "a served model answers with one class; run.predict gives each label's probability"
        raise UserError([f"{run.id}: its images have several labels at a time, and {advice}"])
    resume = f"`python -m experiments.{run.record['experiment']} resume {run.id}` goes on with it"
    if run.status == "RUNNING" and not is_free(run.folder):
        raise UserError([f"{run.id} is still going on: register it once it has finished"])
    if run.status != "FINISHED":
        raise UserError([f"{run.id} is {'interrupted' if run.status == 'RUNNING' else run.status}; {resume}"])
    if not (run.folder / "artifacts" / WEIGHTS).exists():
        advice = f"`python -m experiments.{run.record['experiment']} --from {run.id}` trains its declaration anew"
        raise UserError([f"{run.id} has kept no weights (most trials of a search keep none); {advice}"])
    stands = standing(run.folder)
    if not stands.complete:
        where = f"MLflow at {public(tracking_uri())}"
        raise UserError([f"{run.id} is not whole in {where} ({stands.why}); `labbook sync {run.id}` sends it"])


def _below(parent: RecordedRun) -> str:
    """What to do instead of naming a parent."""
    experiment = parent.record["experiment"]
    runs = [run for run in parent.children() if run.status == "FINISHED"]
    found = sorted(run.id for run in runs if (run.folder / "artifacts" / WEIGHTS).exists())
    if not found:
        return f"none below it has kept weights: `python -m experiments.{experiment} --from {parent.id}` trains one"
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return f"name one below it: {', '.join(found[:MOST_NAMED])}{more}"


def _tags(run: RecordedRun) -> dict[str, str]:
    """What leads from a version back to its run."""
    commit, accuracy = run.record["facts"].get("git.commit"), run.metrics.get("test/accuracy")
    return {
        "labbook.run": run.id,
        "data": run.record["data"]["name"],
        "data.digest": run.record["data"]["digest"],
        **({"test/accuracy": f"{accuracy:.6g}"} if accuracy is not None else {}),
        **({"git.commit": commit} if commit else {}),
    }


def _epoch(run: RecordedRun) -> int:
    return int(run.tags["best_epoch"])


@contextmanager
def _settings() -> Iterator[None]:
    """MLflow without pickle, progress bars, chatter and patience, while the body lasts."""
    before = {name: os.environ.get(name) for name in (*BRIEF, *NO_PICKLE, "MLFLOW_TRACKING_URI")}
    logger = logging.getLogger("mlflow")
    level = logger.level
    try:
        os.environ.update({name: before[name] or value for name, value in BRIEF.items()} | NO_PICKLE)
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri()  # a database looks models:/<id> up in the process's default
        logger.setLevel(logging.WARNING)
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
