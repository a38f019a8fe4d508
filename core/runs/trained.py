"""Run: a recorded run with its declaration, network and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.catalogue import import_experiment
from core.common.errors import UserError
from core.experiment import Experiment
from core.record.run import BEST, IMPORTED, RECORD, RecordedRun, read_record

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


@dataclass(frozen=True)
class Run(RecordedRun):
    """A recorded run, as returned by `train` and `load`."""

    @property
    def experiment(self) -> Experiment:
        """The declaration. The module of the experiment is imported for its classes. Raises UserError for an imported
        run, which has none."""
        return declared(self.record)

    @cached_property
    def model(self) -> nn.Module:
        """The network with the weights of the best epoch, on the CPU, in evaluation mode. It takes normalized images.

        Raises UserError if the run has no weights, or if they are damaged or belong to another architecture.
        """
        from core.inference.network import model_of

        _ = self.experiment  # an imported run has neither this nor weights: the first is the reason
        return model_of(self)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Predict probabilities float [N, C] of images uint8 [N, H, W, channels]; record["data"]["classes"] names the
        classes. Multi-label: independent probabilities of each label."""
        import numpy as np
        import torch

        from core.loading.batches import Batch
        from core.loading.normalize import normalizer
        from core.metrics.task import task_of

        data = self.record["data"]
        if images.dtype != np.uint8 or list(images.shape[1:]) != data["image_shape"]:
            expected = "x".join(map(str, data["image_shape"]))
            raise ValueError(f"images must be uint8 [N, {expected}], not {images.dtype} {list(images.shape)}")
        nothing = torch.empty(0)
        writable = np.require(images, requirements=["C", "W"])
        batch = Batch(torch.from_numpy(writable), nothing, nothing, nothing)
        with torch.inference_mode():
            normalized = normalizer(data["mean"], data["std"], torch.device("cpu"))(batch).images
            logits = self.model(normalized)
        return task_of(self.multi_label).probabilities(logits).numpy()


load = Run.load


def read_declaration(place: str) -> Experiment:
    """Read the declaration of a run (for a study: of its best trial), of a record.json or of a best.json. Raises
    UserError."""
    path = Path(place)
    if not path.is_file():
        run = RecordedRun.load(place)
        path = run.artifact(BEST if (run.folder / "artifacts" / BEST).exists() else RECORD)
    return declared(read_record(path))


def declared(record: Mapping[str, Any]) -> Experiment:
    """Returns the declaration in a record. Raises UserError if the record has none or it cannot be read."""
    if IMPORTED in record:
        raise UserError([f"{record['run']} was imported: it has no declaration, only the contents of the old log"])
    import_experiment(record["experiment"])
    return Experiment.read(record["declaration"])


def declares(record: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether a record holds this declaration. False if the record has none or it cannot be read.

    Both are compared in the present format: an old record names the modules that its classes were in at the time, and
    lacks fields that were added since.
    """
    try:
        return declared(record).record() == experiment.record()
    except UserError:
        return False
