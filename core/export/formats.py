"""The formats of an export: what each is made from, written as and run by."""

from __future__ import annotations

import copy
import json
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from core.common.errors import UserError
from core.common.text import did_you_mean
from core.export import onnx_engine, openvino_engine, torch_engine
from core.export.graph import Served, exported
from core.export.int8 import Int8
from core.export.predictions import Predict
from core.export.quiet import quiet
from core.models.quantize import plain
from core.record.run import RecordedRun

EXPORTS = "export"  # folder in that of a run, beside its artifacts, with a folder for each format
Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Source:
    """What all formats are made from. network: in float32, on the CPU.  int8: how to quantize it, if that is asked."""

    run: RecordedRun
    network: Served
    int8: Int8 | None = None

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The exported program. Raises UserError, as `exported`."""
        return exported(self.run, self.network)

    @cached_property
    def onnx(self) -> Any:
        """The ONNX model. Raises UserError."""
        return onnx_engine.convert(self.program)

    @cached_property
    def float_program(self) -> torch.export.ExportedProgram:
        """The program that an engine quantizes: of a run that was trained with `quantize`, without its own rounding.
        Raises UserError."""
        if not self.run.record["declaration"].get("quantize"):
            return self.program
        return exported(self.run, _without_rounding(self.network))

    def openvino(self, program: torch.export.ExportedProgram) -> Any:
        """A new OpenVINO model of one of the programs. Raises UserError."""
        return openvino_engine.convert(program, self.run.record["data"]["image_shape"])

    @property
    def quantization(self) -> Int8:
        """How to quantize. Raises UserError if there are no images for it."""
        if self.int8 is None:
            raise UserError(["int8 is calibrated on training images, which are needed here"])
        return self.int8


@dataclass(frozen=True)
class Format:
    """A way to export.

    make: the model, from a source.  write: (model, folder, facts as JSON), into files.  opened: (folder, threads,
    source) -> function that runs the files.  package: what its predict.py imports; none if it has no such script.
    """

    name: str
    precision: Precision
    make: Callable[[Source], Any]
    write: Callable[[Any, Path, str], None]
    opened: Callable[[Path, int, Source], Predict]
    package: str = ""


def _without_rounding(network: Served) -> Served:
    copied = copy.deepcopy(network)
    plain(copied)
    return copied


def _float_openvino(source: Source) -> Any:
    return source.openvino(source.program)


def _weights(folder: Path, threads: int, source: Source) -> Predict:
    from safetensors.torch import load_model

    network = copy.deepcopy(source.network)
    load_model(network, str(folder / torch_engine.WEIGHTS))
    return torch_engine.predictor(network)


def _onnx(folder: Path, threads: int, source: Source) -> Predict:
    return onnx_engine.opened(folder, threads)


def _openvino(folder: Path, threads: int, source: Source) -> Predict:
    return openvino_engine.opened(folder, threads)


FORMATS = {
    each.name: each
    for each in (
        Format("onnx", "fp32", lambda source: source.onnx, onnx_engine.write, _onnx, "onnxruntime"),
        Format(
            "onnx-int8",
            "int8",
            lambda source: onnx_engine.quantize(onnx_engine.convert(source.float_program), source.quantization),
            onnx_engine.write,
            _onnx,
            "onnxruntime",
        ),
        Format(
            "onnx-int8-dynamic",
            "int8",
            lambda source: onnx_engine.quantize_dynamic(onnx_engine.convert(source.float_program)),
            onnx_engine.write,
            _onnx,
            "onnxruntime",
        ),
        Format("openvino", "fp32", _float_openvino, openvino_engine.write, _openvino, "openvino"),
        Format(
            "openvino-bf16",
            "bf16",
            _float_openvino,
            openvino_engine.write,
            _openvino,
            "openvino",
        ),
        Format(
            "openvino-int8",
            "int8",
            lambda source: openvino_engine.quantize(source.openvino(source.float_program), source.quantization),
            openvino_engine.write,
            _openvino,
            "openvino",
        ),
        Format(
            "pt2",
            "fp32",
            lambda source: source.program,
            torch_engine.write_program,
            lambda folder, threads, source: torch_engine.opened_program(folder, threads),
            "torch",
        ),
        Format("safetensors", "fp32", lambda source: source.network, torch_engine.write_weights, _weights),
    )
}
ENGINES = tuple(name for name, each in FORMATS.items() if each.precision == "fp32")
LOWER = {  # what follows an engine's name, and is an option of the command line -> its meaning
    "int8": "also quantize to int8, for onnx and openvino; reads the images of the run",
    "int8-dynamic": "also to int8 without calibration, for onnx",
    "bf16": "also compute in bfloat16, for openvino",
}


def facts_of(folder: Path) -> dict[str, Any]:
    """The facts in the metadata of the export in a folder. Raises UserError if there is none."""
    engines = {
        onnx_engine.FILE: onnx_engine,
        openvino_engine.FILE: openvino_engine,
        torch_engine.PROGRAM: torch_engine,
        torch_engine.WEIGHTS: torch_engine,
    }
    engine = next((each for file, each in engines.items() if (folder / file).exists()), None)
    if engine is None:
        raise UserError([f"{folder} holds no export ({', '.join(engines)}); labbook export writes one"])
    try:
        with quiet("torch.export"):
            found = json.loads(engine.facts(folder))
        if str(found["format"]) not in FORMATS:
            raise ValueError(f"unknown format {found['format']}")
        return {"run": found["run"], **found}
    except UserError:
        raise
    except Exception as error:  # each engine raises its own exceptions for a damaged file
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # OpenVINO begins with the lines of its own code
        said = next((line for line in lines if not line.startswith(("Exception from", "Check '"))), lines[0])[:200]
        raise UserError([f"{folder}: no export of labbook, or a damaged one: {said}"]) from None


def add_lower(parser: ArgumentParser) -> None:
    """Add the options for lower precisions, which are collected in `lower`."""
    for precision, meaning in LOWER.items():
        parser.add_argument(
            f"--{precision}", dest="lower", action="append_const", const=precision, default=[], help=meaning
        )


def chosen(engines: Sequence[str], lower: Sequence[str]) -> list[Format]:
    """The formats of these engines, also in each of the lower precisions (of LOWER) that an engine has. Raises
    UserError."""
    if not engines:
        raise UserError([f"no format is given; choose {', '.join(ENGINES)}"])
    wrong = []
    for name in engines:
        if name == "tensorrt":
            wrong.append(
                "tensorrt: labbook builds no TensorRT engines; trtexec --onnx=model.onnx builds one on the GPU"
            )
        elif name not in ENGINES:
            wrong.append(f"{name}: unknown format{did_you_mean(name, ENGINES) or '; choose ' + ', '.join(ENGINES)}")
    if wrong:
        raise UserError(wrong)
    for precision in lower:
        able = [name for name in ENGINES if f"{name}-{precision}" in FORMATS]
        if not set(able) & set(engines):
            raise UserError([f"--{precision}: none of {', '.join(engines)} has it; add {', '.join(able)} to --to"])
    names = [name + suffix for name in dict.fromkeys(engines) for suffix in ("", *(f"-{one}" for one in lower))]
    return [FORMATS[name] for name in names if name in FORMATS]
