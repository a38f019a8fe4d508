"""A run on record with what needs torch: its declaration, its network, its predictions."""

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
    """What `train` and `load` give: a run on record, its declaration and its network."""

    @property
    def experiment(self) -> Experiment:
        """The declaration. The experiment's own module is imported first, so that its parts are known. Raises UserError
        for an imported run, which has none."""
        return declared(self.record)

    @cached_property
    def model(self) -> nn.Module:
        """The network with the best epoch's weights, on the CPU, in evaluation mode. It takes normalized images.

        Raises UserError for a run that has kept no weights, or weights that are damaged or of another architecture.
        """
        from core.inference.network import model_of

        _ = self.experiment  # an imported run has neither this nor weights: the first is the reason
        return model_of(self)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities float [N, C] of images uint8 [N, H, W, channels]; classes stand in record["data"]. Of several
        labels at a time, each label's own."""
        import numpy as np
        import torch

        from core.loading.batches import Batch
        from core.loading.normalize import normalizer

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
        return (logits.sigmoid() if self.multi_label else logits.softmax(dim=1)).numpy()


load = Run.load


def read_declaration(place: str) -> Experiment:
    """That of a run (of a study's run: the best), of a record, or of a study's best.json. Raises UserError."""
    path = Path(place)
    if not path.is_file():
        artifacts = RecordedRun.load(place).folder / "artifacts"
        path = artifacts / BEST if (artifacts / BEST).exists() else artifacts / RECORD
    return declared(read_record(path))


def declared(record: Mapping[str, Any]) -> Experiment:
    """The declaration in a record. Raises UserError where there is none that reads."""
    if IMPORTED in record:
        raise UserError([f"{record['run']} was imported: it has no declaration, only what its old log says"])
    import_experiment(record["experiment"])
    return Experiment.read(record["declaration"])


def declares(record: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether this is the declaration in a record. False for a record of which none reads.

    Both are compared as this code writes them: a record keeps the modules in which its classes once stood, and lacks
    the fields that are younger than it.
    """
    try:
        return declared(record).record() == experiment.record()
    except UserError:
        return False
