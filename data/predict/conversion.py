"""How image files become images of a run: decoding, cropping and resizing as its data set does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from core.common.errors import UserError
from core.runs.trained import Run
from data.folder import ImageFiles
from data.reading.decode import AS_DECLARED, Conversion, decode, with_channels


def conversion_of(run: Run) -> Conversion:
    """How the data set of a run converts pixels."""
    data = run.experiment.data
    return data.conversion if isinstance(data, ImageFiles) else AS_DECLARED


def size_of(run: Run) -> int:
    """Height and width of the images of a run. Raises UserError if they differ."""
    height, width, _ = run.record["data"]["image_shape"]
    if height != width:
        raise UserError([f"{run.id} expects images of {width} x {height}; only square images are supported"])
    return int(height)


def decoder(run: Run) -> Callable[[bytes, str], np.ndarray]:
    """A function from the content and the name of an image file to uint8 [H, W, C] of the run. Raises UserError."""
    size, how, channels = size_of(run), conversion_of(run), run.record["data"]["image_shape"][2]
    return lambda content, name: with_channels(decode(content, name, size, how), channels)


def facts(run: Run) -> dict[str, Any]:
    """What a program needs to convert images in the same way, for the metadata of an export."""
    how = conversion_of(run)
    channels = run.record["data"]["image_shape"][2]
    return {"size": size_of(run), "channels": channels, "background": how.background, "max_value": how.max_value}
