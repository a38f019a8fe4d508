"""The served model: an MLflow pyfunc from code. Every registered model contains a copy; it does not import labbook."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext  # type: ignore[attr-defined]

CHUNK = 64  # images in one call of the engine, which bounds the memory of a large request
log = logging.getLogger("labbook.served")


class Classifier(PythonModel):
    """Maps images to the most probable class, or to their labels, and the probabilities of all classes, by name."""

    def load_context(self, context: PythonModelContext) -> None:
        facts = json.loads(Path(context.artifacts["facts"]).read_text())
        self.classes, self.multi_label, self.shape = facts["classes"], facts["multi_label"], facts["image_shape"]
        self.network = _engine(Path(context.artifacts["network"]), facts["precision"])

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """model_input: pixels [N, H, W, C], integers from 0 to 255, N >= 1. One dict for each image. Raises
        MlflowException, which the server answers as a bad request."""
        if isinstance(model_input, dict) or hasattr(model_input, "columns"):
            raise _refused('images must be one list, {"inputs": [[[[0, ...]]]]}, and neither a table nor named tensors')
        images = self._images(np.asarray(model_input))
        found = np.concatenate([self.network(images[at : at + CHUNK]) for at in range(0, len(images), CHUNK)])
        return [self._named(row) for row in found]

    def _images(self, given: np.ndarray) -> np.ndarray:
        if given.ndim != 4 or list(given.shape[1:]) != self.shape or not len(given):
            raise _refused(
                f"images must have the shape [N, {', '.join(map(str, self.shape))}], not {list(given.shape)}"
            )
        if given.dtype != np.uint8:
            if not np.issubdtype(given.dtype, np.number) or not ((given >= 0) & (given <= 255)).all():
                raise _refused("pixels must be integers from 0 to 255")
            if (given != np.floor(given)).any():
                raise _refused("pixels must be integers from 0 to 255, not fractions such as 0..1")
        return np.ascontiguousarray(given.astype(np.uint8))

    def _named(self, row: np.ndarray) -> dict[str, Any]:
        values = row.tolist()
        probabilities = dict(zip(self.classes, values, strict=True))
        if self.multi_label:
            return {"labels": [name for name, value in probabilities.items() if value >= 0.5]} | {
                "probabilities": probabilities
            }
        return {"class": self.classes[int(row.argmax())], "probabilities": probabilities}


def _refused(why: str) -> MlflowException:
    log.warning("request refused: %s", why)
    return MlflowException(why, error_code=INVALID_PARAMETER_VALUE)


def _engine(folder: Path, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function from images uint8 [N, H, W, C] to probabilities float32 [N, classes] of the model in a folder."""
    if (folder / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    if (folder / "model.xml").exists():
        import openvino

        hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
        # a request for each call, so that several threads of the server can ask at once
        compiled = openvino.compile_model(folder / "model.xml", "CPU", hint)
        return lambda images: compiled.create_infer_request().infer(images)[0].copy()
    import torch

    network = torch.export.load(folder / "model.pt2").module()

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.tensor(images)).numpy()  # type: ignore[no-any-return]

    return predict


set_model(Classifier())
