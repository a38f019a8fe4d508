"""What `Run.predict` takes besides arrays of the run's size: any arrays, images of Pillow, paths and data sets, which
are converted as the images of the run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from core.loading.images import Dataset, Images
from core.runs.trained import Run
from data.predict.conversion import conversion_of, frame_of
from data.predict.inputs import whole
from data.reading.decode import Conversion, Unreadable, decode, decode_opened, fitted, with_channels
from data.reading.frame import Frame
from data.reading.ingest import in_threads
from data.reading.progress import printable

AT_ONCE = 64  # images read from a data set
TAKES = "uint8 arrays [N, H, W, C], paths, images of Pillow, lists of these, a torch Dataset, or images of a split"


def batches(run: Run, given: Any, size: int) -> Iterator[np.ndarray]:
    """Yield all images as uint8 [n, height, width, channels] of the run, at most `size` at once, in their order.

    Raises ValueError for what is no image, with its number, and Unreadable for files, with their names.
    """
    shape, frame, how = tuple(run.record["data"]["image_shape"]), frame_of(run), conversion_of(run)

    def job(some: Sequence[tuple[int, Any]]) -> np.ndarray:
        found, unreadable = [], []
        for number, item in some:
            try:
                found.append(_converted(item, number, shape, frame, how))
            except Unreadable as error:
                unreadable += error.lines
        if unreadable:
            raise Unreadable(unreadable)
        return np.stack(found)

    numbered = enumerate(_items(given))
    yield from in_threads(job, iter(lambda: list(islice(numbered, size)), []))


def _items(given: Any) -> Iterator[Any]:
    """Yield what may be an image, one after the other. Raises ValueError for what holds none."""
    if isinstance(given, str | os.PathLike | Image.Image):
        yield given
    elif isinstance(given, np.ndarray | torch.Tensor):
        if given.ndim != 4:
            order = "[N, C, H, W]" if isinstance(given, torch.Tensor) else "[N, H, W, C]"
            raise ValueError(f"predict: images must be uint8 {order}, not {_described(given)}; put one into a list")
        yield from given
    elif isinstance(given, Dataset):
        yield from _items(given.load(None).test)
    elif isinstance(given, Images):
        for start in range(0, len(given), AT_ONCE):
            yield from given.pixels[given.rows[start : start + AT_ONCE]]
    elif isinstance(given, TorchDataset):
        samples = iter(given) if isinstance(given, IterableDataset) else (given[at] for at in range(len(given)))  # type: ignore[arg-type]
        yield from (sample[0] if isinstance(sample, tuple | list) else sample for sample in samples)
    elif isinstance(given, Iterable) and not isinstance(given, dict | bytes):
        yield from given
    else:
        raise ValueError(f"predict takes {TAKES}; not {type(given).__name__}")


def _converted(item: Any, number: int, shape: tuple[int, ...], frame: Frame, how: Conversion) -> np.ndarray:
    """An image as uint8 [height, width, channels] of the run."""
    channels = shape[2]
    if isinstance(item, torch.Tensor):
        item = item.movedim(0, -1).numpy(force=True) if item.ndim == 3 else item.numpy(force=True)
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.shape == shape:
        return item
    if channels not in (1, 3):
        expected = "x".join(map(str, shape))
        raise ValueError(f"image {number}: the run takes arrays uint8 [N, {expected}] alone, because of its channels")
    if isinstance(item, str | os.PathLike):
        return with_channels(_of_file(Path(item), frame, how), channels)
    if isinstance(item, Image.Image):
        return with_channels(decode_opened(item, f"image {number}", frame, how), channels)
    if not isinstance(item, np.ndarray):
        raise ValueError(f"image {number} is of type {type(item).__name__}; predict takes {TAKES}")
    if item.dtype != np.uint8 or item.ndim not in (2, 3) or item.shape[2:] not in ((), (1,), (3,)) or not item.size:
        advice = "; the values are 0 to 255, and are normalized here" if item.dtype != np.uint8 else ""
        raise ValueError(
            f"image {number}: images must be uint8 [H, W] or [H, W, 1 or 3], not {_described(item)}{advice}"
        )
    return with_channels(fitted(item, frame)[0], channels)


def _of_file(path: Path, frame: Frame, how: Conversion) -> np.ndarray:
    try:
        return decode(whole(path), str(path), frame, how)
    except Unreadable:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        advice = "; name its files, or use labbook predict" if path.is_dir() else ""
        raise Unreadable([f"{printable(str(path))}: {reason}{advice}"]) from None


def _described(values: np.ndarray | torch.Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"
