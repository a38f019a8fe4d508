"""labbook's core. `from core import train, load` does in a notebook what the command line does."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Read when torch is imported. Its C++ warnings (a host name that cannot be looked up offline, for one) advise nothing.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

if TYPE_CHECKING:
    from core.compare.listing import runs_frame as runs_frame
    from core.experiment import Experiment as Experiment
    from core.launch import Launch as Launch
    from core.runs.seeds import train_seeds as train_seeds
    from core.runs.train import train as train
    from core.runs.trained import Run as Run
    from core.runs.trained import load as load

_HOME = {
    "Experiment": "core.experiment",
    "Launch": "core.launch",
    "Run": "core.runs.trained",
    "load": "core.runs.trained",
    "runs_frame": "core.compare.listing",
    "train": "core.runs.train",
    "train_seeds": "core.runs.seeds",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the mirror's process, which shares this package, must start without torch.
    if name not in _HOME:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
