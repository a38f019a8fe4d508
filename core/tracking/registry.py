"""Add the model of a run to MLflow's model registry. If a step fails, the earlier ones are undone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Map
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)

from core.common.errors import UserError
from core.common.text import public
from core.tracking import client as store
from core.tracking import cursor
from core.tracking.address import public_uri, tracking_uri
from core.tracking.client import RUN_TAG
from core.tracking.tracker import Deleted, Missing

FORMAT_TAG = "labbook.format"  # of a version; those of earlier versions of labbook are pt2
_LONGEST = 300  # maximum length of a message of MLflow
ONNX = "model.onnx"  # in an export, see core/export/onnx_engine.py
CODE = Path(__file__).with_name("served.py")


@dataclass(frozen=True)
class Registry:
    """The model registry of the tracking store. mirrored: progress record of the run in that store."""

    client: MlflowClient
    mirrored: cursor.Record

    def version_of(self, run: str, name: str, made: str) -> int | None:
        """Returns the latest version of a registered model that was created from this run in this format, or None."""
        with mlflow_errors():
            found = self.client.search_model_versions(f"tags.`{RUN_TAG}` = '{run}'")
        same = [each for each in found if each.name == name and each.tags.get(FORMAT_TAG, "pt2") == made]
        return max((int(each.version) for each in same), default=None)

    def version_of_alias(self, name: str, alias: str) -> int | None:
        """Returns the version to which the alias points; None if the alias or the model does not exist."""
        with mlflow_errors():
            try:
                aliases = self.client.get_registered_model(name).aliases
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
        return int(aliases[alias]) if alias in aliases else None

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Set the alias to this version."""
        with mlflow_errors():
            self.client.set_registered_model_alias(name, alias, str(version))

    def add(self, folder: Path, name: str, alias: str, tags: Mapping[str, str], step: int) -> int:
        """Register the model saved in `folder` as a new version with this alias. Returns the version number.

        step: epoch of the weights. Raises UserError; entries created until then are deleted again.
        """
        with mlflow_errors(), contextlib.ExitStack() as undo:
            logged = self._log(folder, tags, undo)
            if self._create(name):
                undo.callback(_quietly, self.client.delete_registered_model, name)
            version = self.client.create_model_version(
                name, f"models:/{logged.model_id}", self.mirrored.run_id, dict(tags), model_id=logged.model_id
            )
            undo.callback(_quietly, self.client.delete_model_version, name, version.version)
            self.client.set_registered_model_alias(name, alias, version.version)
            # as mlflow.register_model does, for the pages of the UI
            noted = json.dumps([{"name": name, "version": version.version}])
            self.client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: noted})
            self.client.log_outputs(self.mirrored.run_id, [LoggedModelOutput(logged.model_id, step)])
            undo.pop_all()
            return int(version.version)

    def _log(self, folder: Path, tags: Mapping[str, str], undo: contextlib.ExitStack) -> LoggedModel:
        """Upload the model in `folder`."""
        run = self.client.get_run(self.mirrored.run_id)
        logged = self.client.create_logged_model(
            run.info.experiment_id, "classifier", run.info.run_id, dict(tags), run.data.params, "classifier"
        )
        undo.callback(_quietly, self.client.delete_logged_model, logged.model_id)
        saved = Model.load(str(folder))
        saved.run_id, saved.model_id, saved.artifact_path = run.info.run_id, logged.model_id, logged.artifact_location
        saved.save(str(folder / "MLmodel"))
        self.client.log_model_artifacts(logged.model_id, str(folder))
        return self.client.finalize_logged_model(logged.model_id, "READY")

    def _create(self, name: str) -> bool:
        """Create the registered model; returns whether it is new."""
        try:
            self.client.create_registered_model(name)
            return True
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False


def opened(folder: Path) -> Registry:
    """Returns the registry of the store with the run in `folder`. Raises UserError if it is not there."""
    mirrored, uri = cursor.load(folder), tracking_uri()
    again = f"to send it: labbook sync {folder.name}"
    if mirrored is None or not mirrored.run_id:
        raise UserError([f"{folder.name} is not in MLflow at {public_uri()}; {again}"])
    try:
        client = store.connect(uri)
    except Exception as error:  # a database raises what its driver does
        raise UserError([f"MLflow at {public_uri()} does not respond: {_first_line(error)}"]) from None
    with mlflow_errors():
        try:
            store.check_run(client, mirrored.run_id)
        except Deleted as reason:
            raise UserError([f"{folder.name}: {reason}"]) from None
        except Missing:
            raise UserError([f"{folder.name} is no longer in MLflow at {public_uri()}; {again}"]) from None
    return Registry(client, mirrored)


def check_names(name: str, alias: str) -> None:
    """Raises UserError for names that MLflow rejects, or could not resolve."""
    checks = (
        ("NAME", name, _validate_model_name),
        ("--alias", alias, _validate_model_alias_name),
        ("--alias", alias, _validate_model_alias_name_reserved),
    )
    for what, given, check in checks:
        try:
            check(given)
        except MlflowException as error:
            raise UserError([f"{what} {given!r}: {_first_line(error)}"]) from None
    if urlsplit(f"models:/{name}").path != f"/{name}":
        raise UserError([f"NAME {name!r}: MLflow cannot resolve models:/{name}; use letters, digits, -, _ and ."])


def save(folder: Path, network: Path, facts: Mapping[str, Any], package: str) -> None:
    """Save a model in MLflow's format in `folder`, which must not exist.

    network: folder with its files.  facts: classes, image_shape, multi_label, precision.  package: of the engine that
    runs it. What is saved are these files, the facts as JSON, served.py and text, and contains no pickle.
    """
    noted = folder.with_name("facts.json")
    noted.write_text(json.dumps(facts))
    shape = facts["image_shape"]
    named = ColSpec(Array(DataType.string), "labels") if facts["multi_label"] else ColSpec(DataType.string, "class")
    answers = Schema([named, ColSpec(Map(DataType.double), "probabilities")])
    packages = {name: metadata.version(name).partition("+")[0] for name in ("mlflow", "numpy", package)}
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(CODE),
        artifacts={"network": str(network), "facts": str(noted)},
        # no schema of inputs: MLflow would cut fractions and wrap large numbers to fit uint8, without a warning;
        # served.py checks them
        signature=ModelSignature(outputs=answers),
        input_example=np.zeros((1, *shape), np.uint8),
        pip_requirements=[f"{name}=={version}" for name, version in packages.items()],
    )
    if (network / ONNX).exists():
        _add_onnx_flavor(folder)


def _add_onnx_flavor(folder: Path) -> None:
    """Add MLflow's flavor onnx to a saved model, so that mlflow.onnx.load_model reads its file, too."""
    saved = Model.load(str(folder))
    settings = {"providers": ["CPUExecutionProvider"], "onnx_session_options": None}
    saved.add_flavor("onnx", onnx_version=metadata.version("onnx"), data=f"artifacts/network/{ONNX}", **settings)
    saved.save(str(folder / "MLmodel"))


@contextlib.contextmanager
def mlflow_errors() -> Iterator[None]:
    """Context manager that turns errors of MLflow into a UserError of one line."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError([f"MLflow at {public_uri()}: {_first_line(error)}"]) from None


def _first_line(error: Exception) -> str:
    """The first line of a message, without the password that the URI of the store may contain."""
    text = public(str(error).replace(tracking_uri(), public_uri()))
    return (text.splitlines() or [type(error).__name__])[0][:_LONGEST]


def _quietly(call: Callable[..., Any], *given: Any) -> None:
    """Call and ignore errors, so that the user sees the error that occurred first."""
    with contextlib.suppress(Exception):
        call(*given)
