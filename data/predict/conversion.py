"""How image files become images of a run: decoding, cropping and resizing as its data set does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from core.runs.trained import Run
from data.folder import ImageFiles, frame_for
from data.reading.decode import AS_DECLARED, Conversion, decode, with_channels
from data.reading.frame import Frame


def conversion_of(run: Run) -> Conversion:
    """How the data set of a run converts pixels."""
    data = run.experiment.data
    return data.conversion if isinstance(data, ImageFiles) else AS_DECLARED


def frame_of(run: Run) -> Frame:
    """What is cut from an image file for a run, and how it is resized."""
    return frame_for(run.experiment.data, run.record["data"]["image_shape"])


def decoder(run: Run) -> Callable[[bytes, str], np.ndarray]:
    """A function from the content and the name of an image file to uint8 [H, W, C] of the run."""
    frame, how, channels = frame_of(run), conversion_of(run), run.record["data"]["image_shape"][2]
    return lambda content, name: with_channels(decode(content, name, frame, how), channels)


def facts(run: Run) -> dict[str, Any]:
    """What a program needs to convert images in the same way, for the metadata of an export."""
    how, channels = conversion_of(run), run.record["data"]["image_shape"][2]
    return {**asdict(frame_of(run)), "channels": channels, "background": how.background, "max_value": how.max_value}
