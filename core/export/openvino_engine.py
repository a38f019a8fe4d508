"""OpenVINO files (.xml and .bin), and OpenVINO's CPU plugin, which runs them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.common import extras
from core.common.errors import UserError
from core.export.int8 import Int8, quantized
from core.export.predictions import Predict
from core.export.quiet import quiet

FILE = "model.xml"
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # precision -> what the plugin computes float layers in


def convert(program: torch.export.ExportedProgram, shape: Sequence[int]) -> Any:
    """A new OpenVINO model of an exported program, which quantization and metadata change in place. shape: of an image.
    Raises UserError that names the operators, if OpenVINO lacks some."""
    openvino = _library()
    try:
        with quiet("openvino"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = openvino.convert_model(program)
    except Exception as error:  # several exception types of OpenVINO
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = next((line for line in lines if "No conversion rule" in line or "not support" in line), lines[-1])
        raise UserError([f"OpenVINO cannot express this network: {said[:300]}"]) from None
    model.reshape([-1, *shape])
    return model


def quantize(model: Any, plan: Int8) -> Any:
    """The model with int8 weights and activations, see core/export/int8.py."""
    # NNCF gives compiled models to the validation function
    return quantized(model, plan, lambda candidate: lambda images: candidate(images)[0])


def write(model: Any, folder: Path, facts: str) -> None:
    """Write the model with facts in its rt_info. Raises OSError."""
    model.set_rt_info(facts, ["labbook"])
    # weights stay as they are: by default they would be stored in half precision
    openvino = _library()
    try:
        openvino.save_model(model, folder / FILE, compress_to_fp16=False)
        openvino.Core().read_model(folder / FILE)  # OpenVINO 2026.0 does not say that a disk is full
    except RuntimeError as error:
        raise OSError(f"{folder / FILE}: cannot be written by OpenVINO: {str(error).strip()}") from None


def facts(folder: Path) -> str:
    """The facts in the metadata of the model in a folder. Raises OpenVINO's exceptions."""
    return str(_library().Core().read_model(folder / FILE).get_rt_info(["labbook"]).astype(str))


def opened(folder: Path, threads: int) -> Predict:
    """The model in a folder, run by the CPU plugin in the precision that its metadata names."""
    openvino = _library()
    core = openvino.Core()
    model = core.read_model(folder / FILE)
    precision = json.loads(model.get_rt_info(["labbook"]).astype(str))["precision"]
    settings = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(model, "CPU", settings)

    def predict(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = compiled(images)[0]
        return found.copy()

    return predict


def _library() -> Any:
    return extras.library("openvino", "export", "exporting to OpenVINO")
