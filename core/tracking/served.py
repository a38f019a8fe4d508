"""The served model: an MLflow pyfunc from code. Every registered model contains a copy; it does not import labbook."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext  # type: ignore[attr-defined]


class Classifier(PythonModel):
    """Maps images to the most probable class and the probabilities of all classes, by name."""

    def load_context(self, context: PythonModelContext) -> None:
        self.classes = json.loads(Path(context.artifacts["classes"]).read_text())
        self.network = torch.export.load(context.artifacts["network"]).module()

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """model_input: uint8 [N, H, W, C], N >= 1. One dict for each image."""
        with torch.inference_mode():
            probabilities = self.network(torch.tensor(model_input))
        best = probabilities.argmax(dim=1).tolist()
        return [
            {"class": self.classes[at], "probabilities": dict(zip(self.classes, row, strict=True))}
            for at, row in zip(best, probabilities.tolist(), strict=True)
        ]


set_model(Classifier())
