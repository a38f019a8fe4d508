"""TorchDataset: a Dataset or IterableDataset of torch, made by a function of yours."""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from core.common.errors import UserError
from core.common.factory import Factory, called, imported
from data.items import Items, Source, times
from data.reading import layout


class TorchDataset(Items):
    """A torch Dataset or IterableDataset that a function or class of yours returns, or a generator, of items (image,
    target).

    TorchDataset(factory="my_project.data:make", arguments={"year": 2024}). Images are of Pillow, arrays or tensors
    (uint8, or floats of 0 to 1); targets are integers, or one 0 or 1 for each label. With --root PATH, the factory also
    gets root=PATH. Without val and test, these are divided from it. A transform of the data set is part of it, and has
    to give the same image each time; random ones are declared as Transform in augment.
    """

    factory: Factory = Field(
        description="package.module:name of a function or class that returns the data set, of all images or of train"
    )
    arguments: dict[str, Any] = Field({}, description="keyword arguments of the factory")
    val_factory: Factory | None = Field(None, description="factory of the val split; none: factory")
    val_arguments: dict[str, Any] | None = Field(
        None, description="keyword arguments of the val split, which change those of `arguments`"
    )
    test_factory: Factory | None = Field(None, description="factory of the test split; none: factory")
    test_arguments: dict[str, Any] | None = Field(
        None, description="keyword arguments of the test split, which change those of `arguments`"
    )
    classes: tuple[str, ...] = Field(
        (), description="class names, in the order of the labels; none: those of the data set's `classes`, or 0, 1, ..."
    )

    def check(self) -> None:
        wrong = []
        for name in ("factory", "val_factory", "test_factory"):
            try:
                if getattr(self, name):
                    imported(getattr(self, name))
            except UserError as error:
                wrong += error.lines
        if wrong:
            raise UserError(wrong)

    def sources(self, root: Path | None) -> list[Source]:
        given = self.arguments | ({"root": str(root)} if root else {})
        found = []
        for split in ("train", "val", "test"):
            own = {} if split == "train" else getattr(self, f"{split}_arguments")
            factory = self.factory if split == "train" else getattr(self, f"{split}_factory")
            if split == "train" or factory or own is not None:
                found.append(self._source(split, factory or self.factory, given | (own or {})))
        if [source.split for source in found] == ["train"]:
            return [Source(layout.WHOLE, found[0].title, found[0].make)]
        return found

    def _source(self, split: str, factory: str, arguments: dict[str, Any]) -> Source:
        return Source(split, factory, partial(called, factory, arguments))

    def facts(self, root: Path | None) -> list[Any]:
        named = [name for name in (self.factory, self.val_factory, self.test_factory) if name]
        values = [
            value
            for arguments in (self.arguments, self.val_arguments or {}, self.test_arguments or {})
            for value in arguments.values()
            if isinstance(value, str)
        ]
        places = [Path(value) for value in values] + ([root] if root else [])
        return [self.declared(), [_code(name) for name in named], [times(place) for place in places]]

    def names_of(self, made: Any) -> tuple[str, ...]:
        return self.classes or super().names_of(made)


def _code(factory: str) -> str:
    """A digest of the file in which a function or class is written, whose change may change the data."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(imported(factory)))
    except TypeError:  # a class of C
        file = None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else factory
