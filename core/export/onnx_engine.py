"""ONNX files, and ONNX Runtime, which runs them."""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.common import extras
from core.common.errors import UserError
from core.export.int8 import Int8, quantized
from core.export.predictions import Predict
from core.export.quiet import quiet

FILE = "model.onnx"
INPUT, OUTPUT = "images", "probabilities"
_WHY = "exporting to ONNX"


def convert(program: torch.export.ExportedProgram) -> Any:
    """The ONNX model (onnx.ModelProto) of an exported program. Raises UserError that names the operator, and the layer
    that uses it, if ONNX lacks one."""
    for library in ("onnx", "onnxscript"):
        extras.library(library, "export", _WHY)
    try:
        with quiet("torch.onnx", "onnxscript"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT], optimize=True
            )
            assert made is not None
            return made.model_proto
    except Exception as error:  # several exception types of torch.onnx and onnxscript
        raise UserError([f"ONNX cannot express this network: {_reason(error, program)}"]) from None


def quantize(model: Any, plan: Int8) -> Any:
    """The model with int8 weights and activations, see core/export/int8.py."""

    def predict(candidate: Any) -> Predict:
        return _session(candidate.SerializeToString(), 0)

    return quantized(model, plan, predict, lambda images: {INPUT: images})


def quantize_dynamic(model: Any) -> Any:
    """The model with int8 weights, one scale for each channel, whose activations are rounded with the range of each
    batch. ONNX Runtime quantizes convolutions and linear layers; nothing is calibrated, and no layer stays in float.
    Raises UserError if it cannot, as versions before 1.32 with weights that several views of --tta share."""
    runtime = extras.library("onnxruntime", "export", "quantizing to int8")
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantized_by_runtime

    with tempfile.TemporaryDirectory() as folder, quiet("root"):
        made, given = Path(folder) / FILE, Path(folder) / "float.onnx"
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        # older versions transpose weights and then refuse the shapes noted before; they infer new ones for files only
        copied.graph.ClearField("value_info")
        onnx.save(copied, given)
        try:
            # unsigned, because ONNX Runtime multiplies signed weights of convolutions several times more slowly
            quantized_by_runtime(given, made, per_channel=True, weight_type=QuantType.QUInt8)
            _session(str(made), 1)
        except Exception as error:  # its own exceptions and those of onnx
            said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            advice = "leave --int8-dynamic out, or use a newer one"
            raise UserError(
                [f"ONNX Runtime {runtime.__version__} cannot quantize this network: {said}; {advice}"]
            ) from None
        return onnx.load(made)


def write(model: Any, folder: Path, facts: str) -> None:
    """Write the model with facts in its metadata. Raises OSError."""
    import onnx

    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    for node in kept.graph.node:
        del node.metadata_props[:]  # traces of Python's stack, with the paths of this machine
    for value in (*kept.graph.input, *kept.graph.output, *kept.graph.value_info, *kept.graph.initializer):
        del value.metadata_props[:]
    del kept.metadata_props[:]
    onnx.helper.set_model_props(kept, {"labbook": facts})
    onnx.save(kept, folder / FILE)


def facts(folder: Path) -> str:
    """The facts in the metadata of the model in a folder. Raises OSError, KeyError and onnxruntime's exceptions."""
    runtime = extras.library("onnxruntime", "export", "reading ONNX")
    session = runtime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    return str(session.get_modelmeta().custom_metadata_map["labbook"])


def opened(folder: Path, threads: int) -> Predict:
    """The model in a folder, run by ONNX Runtime on the CPU."""
    return _session(str(folder / FILE), threads)


def _session(model: str | bytes, threads: int) -> Predict:
    runtime = extras.library("onnxruntime", "export", "running ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def predict(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run(None, {INPUT: images})[0]
        return found

    return predict


def _reason(error: Exception, program: torch.export.ExportedProgram) -> str:
    """The operator that is missing and the layer with it, or the first line of the message."""
    said = str(error)
    cause = error.__cause__ or error.__context__
    operator = re.search(r"No (?:ONNX function|decompositions).*?<OpOverload\(op='([\w.:]+)'", f"{said} {cause}")
    if operator is None:
        logging.getLogger(__name__).debug("torch.onnx", exc_info=error)
        return next((line.strip() for line in (str(cause) if cause else said).splitlines() if line.strip()), "")[:300]
    name = operator[1].replace("::", ".").removesuffix(".default")
    base = name.rpartition(".")[2]  # the program may have it in a form that torch.onnx has taken apart
    for node in program.graph.nodes:
        if node.op == "call_function" and base in str(node.target):
            layers = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
            return f"it lacks the operator {name}, which the layer {layers[-1] if layers else 'of the network'} uses"
    return f"it lacks the operator {name}"
