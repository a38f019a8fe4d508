"""HuggingFace: a dataset of Hugging Face datasets, saved to disk, in Parquet files, or in its cache."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import Field

from core.common import extras
from core.common.errors import DataError
from core.common.paths import store
from core.loading.images import Splits
from data.folder import OwnImages
from data.reading import archive, cache, ingest, layout, packed
from data.reading.listing import Listing
from data.reading.progress import printable
from data.reading.splits import split_of

EXPECTED = (
    "expected: a folder that save_to_disk wrote, or of Parquet files, of a Dataset or DatasetDict with an Image and a "
    "ClassLabel feature"
)
_AT_ONCE = 64  # images


class HuggingFace(OwnImages):
    """A dataset of Hugging Face datasets; requires `pip install -e ".[huggingface]"`.

    With --root, what `save_to_disk` wrote, or a folder of Parquet files, such as a clone of a dataset's repository.
    With `name`, a dataset of the hub that `datasets.load_dataset` has loaded before on this machine. A Dataset, or a
    DatasetDict with train and optionally validation and test; missing splits are created. Nothing is downloaded, unless
    `streaming` reads a dataset of the hub for the first time, and no code of the dataset is executed.
    """

    name: str | None = Field(None, description="name on the hub, such as ylecun/mnist; none: the dataset at --root")
    streaming: bool = Field(
        False,
        description="read the images as they come, from the hub or from Parquet files, and decode them into the cache, "
        "without the copy of all files that the library makes otherwise; later runs need no network",
    )
    config: str | None = Field(None, description="configuration of the dataset, if it has several")
    images: str = Field("image", min_length=1, description="name of the feature with the images, of type Image")
    labels: str = Field("label", min_length=1, description="name of the feature with the labels, of type ClassLabel")

    def load(self, root: Path | None) -> Splits:
        if root is None and self.name is None:
            what = "the path of your saved dataset, or --data.name NAME of the hub"
            raise DataError([f"HuggingFace needs {what}: add --root PATH", EXPECTED])
        if root is not None and self.name is not None:
            raise DataError(["HuggingFace reads either --root PATH or its name on the hub, --data.name; leave one out"])
        streamed = root is None and self.streaming
        datasets = _library(root or self.name, offline=not streamed)
        recipe = self.recipe(skip_unreadable=self.skip_unreadable)
        place = root or Path(str(self.name))
        stored = None if root or streamed else _of_hub(datasets, str(self.name), self.config)

        def build(folder: Path) -> cache.Index:
            with archive.reading(place):
                saved = _of_hub(datasets, str(self.name), self.config, stream=True) if streamed else stored
                saved = _opened(datasets, place, self.config, self.streaming) if saved is None else saved
                classes, tables = self._tables(datasets, place, saved)
                if isinstance(next(iter(tables.values())), datasets.IterableDataset):
                    return packed.build_stream(place, classes, self._items(place, tables), recipe, folder)
                groups = self._groups(place, tables)
            return packed.build(place, classes, groups, recipe, folder)

        fields = f"{self.images} {self.labels} {recipe.skip_unreadable}"
        found = archive.fingerprint(root) if root else f"stream of {self.name}" if streamed else _files_of(stored)
        fields += f" {self.config}" if self.config else ""
        key = f"huggingface {found} {recipe.policy} {fields}"
        return self.splits(cache.fetch(key, build), place)

    def listed(self, root: Path, refuse: archive.Refuse) -> Listing:
        with archive.reading(root):
            datasets = _library(root)
            classes, tables = self._tables(datasets, root, _opened(datasets, root, self.config))
            groups = self._groups(root, tables)
        return packed.listed(type(self).__name__, root, classes, groups, lambda: packed.contents_of(root, groups))

    def _tables(self, datasets: Any, root: Path, saved: Any) -> tuple[list[str], dict[str, Any]]:
        """(the classes, the images and labels of each split), not decoded. Raises DataError.

        Images are decoded with the same policy as others, and not by the library; paths are not followed.
        """
        if isinstance(saved, dict):
            packed.refuse_groups(root, list(saved))
            tables = {split_of(name) or "": table for name, table in saved.items()}
        else:
            tables = {layout.WHOLE: saved}
        if wrong := [line for split in tables for line in self._wrong(datasets, root, split, tables[split])]:
            raise DataError([*wrong, EXPECTED])
        classes = next(iter(tables.values())).features[self.labels].names
        if any(table.features[self.labels].names != classes for table in tables.values()):
            raise DataError([f"{root}: the splits have different ClassLabel features; cast them to the same one"])
        undecoded = datasets.Image(decode=False)
        return list(classes), {
            split: table.with_format(None)
            .select_columns([self.images, self.labels])
            .cast_column(self.images, undecoded)
            for split, table in tables.items()
        }

    def _wrong(self, datasets: Any, root: Path, split: str, table: Any) -> Iterator[str]:
        has = ", ".join(f"{printable(name)}: {type(kind).__name__}" for name, kind in (table.features or {}).items())
        for role, name, kind, cast in (
            ("images", self.images, datasets.Image, f"cast_column('{self.images}', Image())"),
            ("labels", self.labels, datasets.ClassLabel, f"class_encode_column('{self.labels}')"),
        ):
            features = table.features or {}
            if not isinstance(features.get(name), kind):
                fitting = [printable(other) for other, found in features.items() if isinstance(found, kind)]
                advice = f"use --data.{role} {' or '.join(fitting)}" if fitting else f"use {cast} and save it again"
                yield f"{root}: {split} has no feature {name} of type {kind.__name__} (it has {has}); {advice}"

    def _groups(self, root: Path, tables: dict[str, Any]) -> list[packed.Group]:
        return [
            packed.Group(
                split, [_number(label) for label in table[self.labels]], partial(_read, root, table, self.images)
            )
            for split, table in tables.items()
        ]

    def _items(self, root: Path, tables: dict[str, Any]) -> Iterator[tuple[str, int, bytes]]:
        """(split, label, content) of the images of all streams. Raises DataError where one ends early."""
        for split, table in tables.items():
            rest = iter(table)
            for number in count():
                try:
                    one = next(rest, None)
                except Exception as error:  # of a file system, of the network, or of Parquet
                    said = f"reading {split} stopped after {number:,} images"
                    raise DataError([f"{root}: {said} ({_first_line(error)})"]) from None
                if one is None:
                    break
                yield split, _number(one[self.labels]), _content(root, one[self.images])
            if not number:
                raise DataError([f"{root}: {split} contains no images"])


def _number(label: int | None) -> int:
    return -1 if label is None else label


def _library(source: Path | str | None, offline: bool = True) -> Any:
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # the library reads it once, when it is imported
    return extras.library("datasets", "huggingface", f"reading {source} as a Hugging Face dataset")


def _opened(datasets: Any, root: Path, config: str | None, streaming: bool = False) -> Any:
    try:
        if any((root / name).exists() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
            return datasets.load_from_disk(str(root.resolve()))
        files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
        if not files or any(file.suffix != ".parquet" for file in files):
            return datasets.load_from_disk(str(root.resolve()))  # which says what is missing
        how = {"cache_dir": str(store() / "huggingface"), "streaming": streaming}
        if root.is_file():
            return datasets.load_dataset("parquet", data_files=str(root.resolve()), **how)["train"]
        return _alone(datasets.load_dataset(str(root.resolve()), config, **how))
    except Exception as error:  # a damaged folder can raise nearly any error of files, JSON or Arrow
        raise DataError(
            [f"{root} cannot be read as a saved Hugging Face dataset ({_first_line(error)})", EXPECTED]
        ) from None


def _of_hub(datasets: Any, name: str, config: str | None, stream: bool = False) -> Any:
    """A dataset of the hub from the cache of the library, or as a stream. Raises DataError."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return _alone(datasets.load_dataset(name, config, streaming=stream))
    except Exception as error:  # as of folders
        if stream:
            advice = "start it once where there is a network, or name a saved copy with --root"
            raise DataError([f"{name} cannot be read from the hub ({_first_line(error)}); {advice}"]) from None
        code = f"datasets.load_dataset({', '.join(map(repr, filter(None, (name, config))))})"
        raise DataError(
            [
                f"{name} is not in the cache of Hugging Face datasets ({_first_line(error)})",
                f'load it once where there is a network: python -c "import datasets; {code}"; or save it with '
                "save_to_disk, and name the folder with --root",
            ]
        ) from None


def _alone(found: Any) -> Any:
    """Of a dataset with one split, which holds all images, this one."""
    return next(iter(found.values())) if isinstance(found, dict) and len(found) == 1 else found


def _files_of(stored: Any) -> str:
    """Names, sizes and times of the files of a dataset in the cache."""
    tables = stored.values() if isinstance(stored, dict) else [stored]
    files = sorted(file["filename"] for table in tables for file in table.cache_files)
    return str([(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files])


def _first_line(error: Exception) -> str:
    return printable(str(error).splitlines()[0][:300]) if str(error) else type(error).__name__


def _read(root: Path, table: Any, images: str) -> Iterator[ingest.Stored]:
    for batch in table.iter(batch_size=_AT_ONCE):
        for one in batch[images]:
            yield _content(root, one)


def _content(root: Path, image: Any) -> bytes:
    if image is None or image["bytes"] is None:
        advice = "embed the contents of the image files and save the dataset again"
        raise DataError([f"{root} has images that are missing or stored as paths; {advice}"])
    return bytes(image["bytes"])
