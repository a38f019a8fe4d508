"""labbook register RUN NAME: add the best epoch's model of a run to MLflow's model registry, ready to be served.

The registered model maps pixels to probabilities by class name. Serving it requires mlflow, numpy and the engine
(torch, onnxruntime or openvino), but not labbook. It contains no pickle.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.common.errors import UserError
from core.record.lock import is_free
from core.record.run import WEIGHTS, RecordedRun, holds_others
from core.tracking.api import mirror_status, public_uri, tracking_uri

if TYPE_CHECKING:
    from core.export.formats import Format

MOST_NAMED = 5
NO_PICKLE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true"}
# an MLflow server that is down is reported at once, not after seven attempts
BRIEF = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}


@dataclass(frozen=True)
class Registered:
    """A registered version. new: whether this call created it.  before: version to which the alias pointed, or None."""

    name: str
    alias: str
    version: int
    new: bool
    before: int | None

    @property
    def uri(self) -> str:
        """The model URI in MLflow."""
        return f"models:/{self.name}@{self.alias}"

    @property
    def command(self) -> str:
        """The command that serves the model on this machine."""
        uri = tracking_uri()
        # a URI with a password is already in the environment, and must not be printed
        where = {"MLFLOW_TRACKING_URI": uri} if public_uri() == uri else {}
        settings = [f"{name}={shlex.quote(value)}" for name, value in (where | NO_PICKLE | NO_TELEMETRY).items()]
        serve = ["mlflow", "models", "serve", "-m", shlex.quote(self.uri), "--env-manager", "local", "--port", "5001"]
        return " ".join(settings + serve)


def register(run: RecordedRun, name: str, alias: str = "champion", export: Path | None = None) -> Registered:
    """Register the model of a finished run, once under each name and format, and set the alias to its version.

    export: folder of an export of the run, see core/export/export.py; none: the run is exported as pt2. Raises
    UserError if the run has no model or is not in MLflow, if MLflow rejects a name or does not respond, if torch.export
    does not support the network, and if the folder holds no export of the run. In these cases, nothing is registered.
    """
    _refuse(run)
    from core.export.formats import FORMATS
    from core.export.graph import exported
    from core.export.kept import model_files
    from core.export.torch_engine import write_program

    os.environ.update(NO_TELEMETRY)  # permanently, and before the import: a background thread would send it later
    from core.tracking import registry

    with _settings():
        registry.check_names(name, alias)
        found = registry.opened(run.folder)
        before = found.version_of_alias(name, alias)
        kind = FORMATS["pt2"] if export is None else _format(run, export)
        version = found.version_of(run.id, name, kind.name)
        if version is not None:
            found.set_alias(name, alias, version)
            return Registered(name, alias, version, False, before)
        facts = {name: run.record["data"][name] for name in ("classes", "image_shape")}
        facts |= {"multi_label": run.multi_label, "precision": kind.precision}
        with tempfile.TemporaryDirectory() as place:
            files = Path(place) / "network"
            files.mkdir()
            if export is None:
                write_program(exported(run), files, json.dumps({"run": run.id} | facts))
            else:
                for file in model_files(export):
                    shutil.copy(file, files)
            folder = Path(place) / "model"
            registry.save(folder, files, facts, kind.package)
            version = found.add(folder, name, alias, _tags(run) | {registry.FORMAT_TAG: kind.name}, _epoch(run))
        return Registered(name, alias, version, True, before)


def _refuse(run: RecordedRun) -> None:
    """Raises UserError for a run that has no model, or that is incomplete in MLflow."""
    if holds_others(run.record):
        raise UserError([f"{run.id} is the parent of other runs and has no model; {_below(run)}"])
    resume = f"`python -m experiments.{run.record['experiment']} resume {run.id}` continues it"
    if run.status == "RUNNING" and not is_free(run.folder):
        raise UserError([f"{run.id} is still running; register it when it has finished"])
    if run.status != "FINISHED":
        raise UserError([f"{run.id} is {'interrupted' if run.status == 'RUNNING' else run.status}; {resume}"])
    run.refuse_tasks("the registry does")
    if not (run.folder / "artifacts" / WEIGHTS).exists():
        advice = f"`python -m experiments.{run.record['experiment']} --from {run.id}` trains the same declaration"
        raise UserError([f"{run.id} has no weights (most trials of a search keep none); {advice}"])
    state = mirror_status(run.folder)
    if not state.complete:
        where = f"MLflow at {public_uri()}"
        raise UserError([f"{run.id} is incomplete in {where} ({state.why}); to send the rest: labbook sync {run.id}"])


def _format(run: RecordedRun, export: Path) -> Format:
    """The format of an export of a run. Raises UserError."""
    from core.export.formats import FORMATS, facts_of
    from core.export.kept import digest_of, on_record

    digest = digest_of(export)
    name = next((one.name for one in on_record(run) if one.digest == digest), None)
    if name is None:
        if (of := facts_of(export)["run"]) != run.id:
            raise UserError([f"{export} is an export of {of}, not of {run.id}"])
        again = f"labbook export {run.id} writes it again"
        raise UserError([f"{export} is not what labbook export recorded: its files have changed since; {again}"])
    kind = FORMATS[name]
    if not kind.package:
        raise UserError([f"{export} has weights only, which no engine runs; register onnx, openvino or pt2"])
    return kind


def _below(parent: RecordedRun) -> str:
    """Advice for a parent, which cannot be registered."""
    experiment = parent.record["experiment"]
    runs = [run for run in parent.children() if run.status == "FINISHED"]
    found = sorted(run.id for run in runs if (run.folder / "artifacts" / WEIGHTS).exists())
    if not found:
        return f"none of its runs has weights; `python -m experiments.{experiment} --from {parent.id}` trains one"
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return f"choose one of its runs: {', '.join(found[:MOST_NAMED])}{more}"


def _tags(run: RecordedRun) -> dict[str, str]:
    """Tags that identify the run of a version."""
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
    """Context manager: MLflow without pickle, progress bars, log messages and retries."""
    before = {name: os.environ.get(name) for name in (*BRIEF, *NO_PICKLE, "MLFLOW_TRACKING_URI")}
    logger = logging.getLogger("mlflow")
    level = logger.level
    try:
        os.environ.update({name: before[name] or value for name, value in BRIEF.items()} | NO_PICKLE)
        os.environ["MLFLOW_TRACKING_URI"] = (
            tracking_uri()
        )  # a database store resolves models:/<id> in the default of the process
        logger.setLevel(logging.WARNING)
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
