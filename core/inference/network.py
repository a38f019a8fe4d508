"""Network: a trained network ready for inference, and how to rebuild one from the record of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from core.catalogue import import_parts
from core.common.device import device_of
from core.common.errors import UserError
from core.common.half import in_half
from core.common.memory import in_parts
from core.common.precision import autocast_of
from core.context import Context
from core.inference import combined  # noqa: F401 its models become known
from core.loading.batches import Batch
from core.loading.normalize import normalizer
from core.losses import Loss
from core.metrics.task import SINGLE_LABEL, Task, task_of
from core.models import Model, load_weights
from core.models.narrow import narrow
from core.models.quantize import Quantize
from core.models.tta import Views, averaged
from core.models.weights import half_of, holds_narrowed
from core.record.run import IMPORTED, WEIGHTS, RecordedRun

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHUNK = {"cpu": 64, "cuda": 512, "mps": 256}  # images in a forward pass, which bounds the memory


@dataclass(frozen=True)
class Network:
    """A trained network with everything that inference needs.

    model: normalized images -> logits, in evaluation mode.  normalize: see core/loading/normalize.py.  autocast: dtype
    of forward passes, None for full precision.  views: test-time augmentation.  task: single-label or multi-label.
    batch_size: images in a forward pass; None: as many as suit the device.  dtype: of the weights and activations of
    the model.
    """

    model: nn.Module
    normalize: Callable[[Batch], Batch]
    device: torch.device
    autocast: torch.dtype | None = None
    views: Views = "none"
    task: Task = SINGLE_LABEL
    batch_size: int | None = None
    dtype: torch.dtype = torch.float32

    def images(self, pixels: np.ndarray) -> torch.Tensor:
        """Move images uint8 [N, H, W, C] to the device and normalize them to [N, C, H, W] of the model's dtype."""
        host, nothing = torch.from_numpy(np.require(pixels, requirements=["C", "W"])), torch.empty(0)
        pinned = self.device.type == "cuda"  # the copy does not hold up this thread, which prepares the next images
        there = (host.pin_memory() if pinned else host).to(self.device, non_blocking=pinned)
        return self.normalize(Batch(there, nothing, nothing, nothing)).images.to(self.dtype)

    @property
    def chunk(self) -> int:
        """Number of images in one forward pass."""
        return self.batch_size or CHUNK.get(self.device.type, 64)

    def logits(self, pixels: np.ndarray) -> torch.Tensor:
        """Logits float32 [N, C] on the host, of images uint8 [N, H, W, C], computed in chunks; with test-time
        augmentation, logits of the mean probabilities. If memory runs out, chunks are divided."""
        network = in_parts(averaged(self.model, self.views, self.task))
        found: list[torch.Tensor] = []
        with torch.inference_mode(), self.precision():
            for start in range(0, len(pixels), self.chunk):
                found.append(network(self.images(pixels[start : start + self.chunk])).float())
                if len(found) > 1:  # waits for the device, which has the next chunk to do meanwhile
                    found[-2] = found[-2].cpu()
            return torch.cat([*found[:-1], found[-1].cpu()])

    def precision(self) -> AbstractContextManager[object]:
        """Autocast context of forward passes."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


def network_of(run: RecordedRun, device: str = "auto", precision: str | None = None) -> Network:
    """Rebuild the network of a run on a device, with the declared precision and test-time augmentation.

    precision: fp32, bf16 or fp16, which all weights and activations are converted to; None: those of training, in which
    forward passes use autocast, or weights have the dtype in which they are on record. Raises UserError.
    """
    where = device_of(device)
    data, declared = run.record["data"], run.record["declaration"]
    if precision is None:
        autocast, _ = autocast_of(run.precision, where)
        dtype, half = torch.float32, half_of(run.artifact(WEIGHTS), where)
    else:
        _refuse_precision(run, precision)
        autocast, dtype, half = None, DTYPES[precision], None
    model = model_of(run)
    model = in_half(model, half).to(where) if half else model.to(where, dtype)
    model = model.to(memory_format=torch.channels_last)
    normalize, views = normalizer(data["mean"], data["std"], where), declared.get("tta", "none")
    return Network(model, normalize, where, autocast, views, task_of(run.multi_label, run.tasks), dtype=dtype)


def _refuse_precision(run: RecordedRun, precision: str) -> None:
    """Raise UserError for parts of the declaration that compute in fp32 only."""
    declared = run.record["declaration"]
    given = {"quantize": declared.get("quantize"), "model.fp32": declared["model"].get("fp32")}
    for field, value in given.items():
        if value and precision != "fp32":
            raise UserError([f"--precision {precision}: {run.id} declares {field}, which needs fp32; leave it out"])


def context_of(run: RecordedRun) -> Context:
    """The context in which the network and the loss of a run are rebuilt."""
    data = run.record["data"]
    height, width, channels = data["image_shape"]
    return Context(
        classes=tuple(data["classes"]),
        class_counts=tuple(data["class_counts"]),
        image_shape=(height, width, channels),
        train_size=data["train"],
        steps_per_epoch=1,
        epochs=1,
        batch_size=1,
        device=torch.device("cpu"),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        tasks=run.tasks,
    )


@torch.inference_mode(False)  # its weights can be trained, wherever it is rebuilt
def model_of(run: RecordedRun) -> nn.Module:
    """Rebuild the network of a run with the weights of the best epoch, on the CPU, in evaluation mode: normalized
    images -> logits.

    Raises UserError if the run has no weights, or if they are damaged or belong to another architecture.
    """
    if IMPORTED in run.record:
        raise UserError([f"{run.id} was imported: it has no declaration, and so no network"])
    weights = run.folder / "artifacts" / WEIGHTS
    if not weights.exists():
        raise UserError([f"{run.id} has no weights ({weights} is missing)"])
    import_parts(run.record)
    declared, context = run.record["declaration"], context_of(run)
    # pretrained weights are not needed: the weights of the run replace them
    declared_model = Model.read(declared["model"]).model_copy(update={"weights": None})
    model = Loss.read(declared["loss"]).network(declared_model, context)
    try:
        kept = load_file(run.artifact(WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise UserError([f"{weights}: damaged: {error}"]) from None
    if holds_narrowed(weights):
        narrow(model, kept)
    if declared.get("quantize"):
        Quantize.read(declared["quantize"]).prepare(model)
    load_weights(model, kept, str(weights))
    return model.eval()
