"""TorchvisionDataset: the classification data sets of torchvision, by name."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from core.common.errors import DataError, UserError
from core.common.factory import called
from core.common.paths import store
from core.common.text import did_you_mean
from data.items import Items, Source, times
from data.reading import disk, layout

# split -> the name that torchvision gives it, where these are not train and test
SPLITS = {
    "Country211": {"train": "train", "val": "valid", "test": "test"},
    "DTD": {"train": "train", "val": "val", "test": "test"},
    "FGVCAircraft": {"train": "train", "val": "val", "test": "test"},
    "Flowers102": {"train": "train", "val": "val", "test": "test"},
    "ImageNet": {"train": "train", "test": "val"},
    "Imagenette": {"train": "train", "test": "val"},
    "OxfordIIITPet": {"train": "trainval", "test": "test"},
    "PCAM": {"train": "train", "val": "val", "test": "test"},
    "Places365": {"train": "train-standard", "test": "val"},
    "RenderedSST2": {"train": "train", "val": "val", "test": "test"},
}


class TorchvisionDataset(Items):
    """A classification data set of torchvision.datasets by its name, for instance TorchvisionDataset(name="SVHN").

    torchvision downloads it to data/store/torchvision/NAME and checks it, or reads what is at --root, as it is, without
    a download. Its own splits are used; of ImageNet, Imagenette, and Places365, test is their val. Missing splits are
    created.
    """

    name: str = Field(description="class name in torchvision.datasets, e.g. SVHN, EMNIST, Flowers102")
    arguments: dict[str, Any] = Field(
        {}, description='further arguments of its class, such as {"split": "letters"} of EMNIST'
    )

    def check(self) -> None:
        self._class()

    def sources(self, root: Path | None) -> list[Source]:
        takes = inspect.signature(self._class()).parameters
        given: dict[str, Any] = dict(self.arguments)
        if "root" in takes:
            given["root"] = str(self._place(root))
        if "download" in takes:
            given["download"] = root is None
        if "train" in takes:
            splits: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
        elif "split" in takes and "split" not in given:
            named = SPLITS.get(self.name, {"train": "train", "test": "test"})
            splits = {split: {"split": name} for split, name in named.items()}
        else:
            splits = {layout.WHOLE: {}}
        return [
            Source(split, f"torchvision.datasets:{self.name}", partial(self._made, given | own))
            for split, own in splits.items()
        ]

    def facts(self, root: Path | None) -> list[Any]:
        return [self.declared(), version("torchvision"), times(self._place(root))]

    def _place(self, root: Path | None) -> Path:
        return root or store() / "torchvision" / self.name

    def _made(self, arguments: dict[str, Any]) -> Any:
        place = arguments.get("root")
        waits: AbstractContextManager[None] = nullcontext()
        if arguments.get("download"):
            lock = Path(arguments["root"]).with_suffix(".lock")
            waits = disk.locked(lock, f"waiting: another process is downloading {self.name}")
        try:
            with waits:
                return called(f"torchvision.datasets:{self.name}", arguments)
        except UserError as error:
            advice = f"put its files, as torchvision names them, below {place}, or name their folder with --root PATH"
            raise DataError([*error.lines, *([advice] if place else [])]) from None

    def _class(self) -> Any:
        """The class of torchvision. Raises ValueError if there is none of this name."""
        from torchvision import datasets

        found = getattr(datasets, self.name, None)
        if not (isinstance(found, type) and issubclass(found, datasets.VisionDataset)):
            known = datasets.__all__
            raise ValueError(f"torchvision.datasets has no data set {self.name}{did_you_mean(self.name, known)}")
        return found
