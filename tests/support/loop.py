"""A tiny declaration, assembled and trained by the bare loop."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import torch

from core.augment import CutMix, HorizontalFlip
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.methods import Method, Output
from core.models import MLP
from core.optimizers import SGD
from core.schedules import Cosine
from core.training.assemble import assemble
from core.training.loop import fit


class Tiny(Dataset):
    """Forty-eight images whose class shows in their brightness."""

    def load(self, root=None):
        targets = np.arange(48) % 4
        pixels = np.random.default_rng(0).integers(0, 60, (48, 6, 6, 3)) + 50 * targets[:, None, None, None]
        images = Images(pixels.astype(np.uint8), np.arange(48), targets, weights=np.arange(48.0))
        train, val = images.take(np.arange(40)), images.take(np.arange(40, 48))
        return Splits("tiny", tuple("abcd"), train, val, val, "digest", "made up")


class Rooted(Method):
    """Adds the root of zero: nothing to the loss, NaN to its gradient."""

    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        return Output(loss(logits, batch.targets) + (logits - logits).square().sum(dim=1).sqrt(), logits)


BASE = Experiment(
    data=Tiny(),
    model=MLP(hidden=(8,), dropout=0.2),
    augment=(HorizontalFlip(), CutMix()),
    optimizer=SGD(lr=0.1, nesterov=True, weight_decay=1e-3),
    schedule=Cosine(warmup_epochs=1),
    epochs=3,
    batch_size=8,
)


def built(changes=None, **launch):
    experiment = BASE.but(changes or {})
    return assemble(experiment, experiment.data.load(), Launch(**launch, device="cpu"))


def run(parts):
    return list(fit(parts.setup, parts.state, parts.train, parts.val))


def taken_up(first, second, leave):
    """`first` trains until after step `leave`; `second` goes on to the end with its state, as a file gave it back."""
    for event in fit(first.setup, first.state, first.train, first.val):
        if event.step == leave:
            break
    file = io.BytesIO()
    torch.save(first.state.snapshot(), file)
    file.seek(0)
    second.state.restore(torch.load(file, weights_only=True))
    torch.manual_seed(leave)  # whatever the generators hold in the new process
    run(second)


def digest(state) -> str:
    tensors = {**state.trained.state_dict(), **(state.ema.state_dict() if state.ema else {})}
    content = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(tensors.items()))
    return hashlib.sha256(content).hexdigest()
