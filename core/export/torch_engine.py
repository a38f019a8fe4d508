"""Files of torch itself: exported programs (.pt2), which run without labbook, and plain weights (.safetensors)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from core.export.predictions import Predict

PROGRAM, WEIGHTS, FACTS = "model.pt2", "model.safetensors", "labbook.json"


def write_program(program: torch.export.ExportedProgram, folder: Path, facts: str) -> None:
    """Write an exported program with facts beside it in its archive. Raises OSError."""
    content = io.BytesIO()  # on a full disk, torch's own writer of files aborts the process
    torch.export.save(program, content, extra_files={FACTS: facts})
    (folder / PROGRAM).write_bytes(content.getbuffer())


def facts(folder: Path) -> str:
    """The facts in the metadata of the program or the weights in a folder. Raises OSError, KeyError and others."""
    if (folder / WEIGHTS).exists():
        from safetensors import safe_open

        with safe_open(folder / WEIGHTS, "pt") as file:
            return str(file.metadata()["labbook"])
    found = {FACTS: ""}
    torch.export.load(folder / PROGRAM, extra_files=found)
    return found[FACTS]


def opened_program(folder: Path, threads: int) -> Predict:
    """The program in a folder, run by torch, whose number of threads belongs to the process."""
    return predictor(torch.export.load(folder / PROGRAM).module())


def write_weights(network: torch.nn.Module, folder: Path, facts: str) -> None:
    """Write the weights of a network with facts in the header. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    try:
        save_model(network, str(folder / WEIGHTS), {"labbook": facts})
    except SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS}: {error}") from None


def predictor(network: torch.nn.Module) -> Predict:
    """A function from images uint8 [N, H, W, C] to probabilities float32 [N, classes]."""

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()  # type: ignore[no-any-return]

    return predict
