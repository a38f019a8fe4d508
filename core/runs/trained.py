"""Run: a recorded run with its declaration, network and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.catalogue import import_data, import_parts
from core.common.errors import UserError
from core.experiment import Experiment
from core.record.run import BEST, IMPORTED, RECORD, RecordedRun, read_record

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from core.inference.network import Network
    from core.launch import Launch
    from core.loading.images import Splits


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

    def predict(self, images: Any, batch_size: int | None = None, device: str = "cpu") -> np.ndarray:
        """Predict probabilities float32 [N, C] of images, as in the test of the run: with its normalization, precision
        and test-time augmentation.

        images: uint8 arrays [N, H, W, C] (or a list of [H, W] or [H, W, C], each of any size), images of Pillow, paths
        of image files, lists of these, a torch Dataset of images or (image, target), the images of a split, or a data
        set of labbook, of which the test images are taken. Tensors are uint8 [C, H, W], as in torchvision. What does
        not have the run's size is cropped, resized and converted as the images of the run were.
        batch_size: images in a forward pass; None: as many as suit the device.  device: cpu, cuda, cuda:1, mps, or auto
        for the fastest one available.

        The classes are named in `record["data"]["classes"]`. For multi-label images, each label has its own,
        independent probability. Raises ValueError for images of another type or shape, and UserError for files that
        cannot be read, and as `model` does.
        """
        import numpy as np

        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        network = replace(self._network(device), batch_size=batch_size)
        fits = isinstance(images, np.ndarray) and images.dtype == np.uint8 and len(images) > 0
        if fits and list(images.shape[1:]) == self.record["data"]["image_shape"]:
            parts = [images]
        else:
            parts = import_data("data.predict.given").batches(self, images, network.chunk)
        found = [network.task.probabilities(network.logits(part)).numpy() for part in parts]
        if not found:
            raise ValueError("predict: there are no images")
        return np.concatenate(found)

    def splits(self, launch: Launch) -> Splits:
        """The images that the run was trained on, with classes in its order. Raises UserError if they have changed."""
        from core.training.assemble import load_splits

        found = load_splits(self.experiment, launch, self.record["data"]["classes"])
        if not found.same_as(self.record["data"]):
            raise UserError([f"{self.id}: the data have changed since the run was trained ({found.source})"])
        return found

    def own_splits(self, root: Path | None = None) -> Splits:
        """As `splits`, with the launch options of the run. root: folder of the data, if it has moved since training."""
        from core.launch import Launch

        launch = Launch.read(self.record["launch"])
        return self.splits(launch.but({"root": root or launch.root}))

    @cached_property
    def _networks(self) -> dict[str, Network]:
        return {}

    def _network(self, device: str) -> Network:
        """The network on a device, rebuilt once for each."""
        from core.inference.network import network_of

        if device not in self._networks:
            _ = self.experiment
            self._networks[device] = network_of(self, device)
        return self._networks[device]


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
    import_parts(record)
    return Experiment.read(record["declaration"])


def own_launch(record: Mapping[str, Any]) -> Launch:
    """The launch options in the record of a run, without --compile if its steps were not compiled."""
    from core.launch import Launch

    launch = Launch.read(record["launch"])
    return launch if record["facts"].get("compiled", "no") != "no" else launch.but({"compile": "off"})


def declares(record: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether a record holds this declaration. False if the record has none or it cannot be read.

    Both are compared in the present format: an old record names the modules that its classes were in at the time, and
    lacks fields that were added since.
    """
    try:
        return declared(record).record() == experiment.record()
    except UserError:
        return False
