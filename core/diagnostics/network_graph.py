"""The graph of a network, as TensorBoard draws it."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings

import torch
from torch import nn

from core.common.extras import library


def network_graph(network: nn.Module, image_shape: tuple[int, int, int]) -> bytes:
    """A serialized GraphDef, whose nodes are named by the layers: what SummaryWriter.add_graph writes.

    network: from images float [N, C, H, W].  image_shape: (height, width, channels). Raises UserError if tensorboard is
    not installed, and RuntimeError or whatever else torch.jit.trace raises for a network that cannot be traced.
    """
    writers = library("torch.utils.tensorboard", "tensorboard", "the graph of a network")
    reading = library("tensorboard.backend.event_processing.event_accumulator", "tensorboard", "the graph of a network")
    height, width, channels = image_shape
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    image = torch.zeros(1, channels, height, width, device=device)
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # of the deprecated tracer that add_graph uses
            with writers.SummaryWriter(folder) as writer:
                writer.add_graph(network, image)
        written = reading.EventAccumulator(folder)
        written.Reload()
        return bytes(written.Graph().SerializeToString())
