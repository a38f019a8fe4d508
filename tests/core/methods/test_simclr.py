"""SimCLR: its loss against the formula, the two views, what labels may not reach, and its features used afterwards."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.augment import ColorJitter, CutMix, HorizontalFlip, RandomResizedCrop, per_image
from core.common.errors import UserError
from core.context import Clock
from core.diagnostics.probe import probe
from core.launch import Launch
from core.loading.batches import Plan
from core.loading.loader import feed
from core.loading.sampling import LabelNoise
from core.methods import SimCLR, Supervised, WeightPenalty
from core.methods.simclr import nt_xent
from core.models import Model, SmallCNN
from core.record.run import WEIGHTS
from core.runs.train import train
from core.training.assemble import assemble, load_splits
from core.training.step import gradients
from experiments.tiny import EXPERIMENT as TINY
from tests.support.loop import BASE, built, digest, run, taken_up

OFFLINE = Launch(mlflow=False, threads=1, device="cpu")
# no BatchNorm, whose statistics depend on what is in a batch
ALONE = {"method": SimCLR(projection=6), "model": SmallCNN(widths=(8,), norm="group"), "augment": (HorizontalFlip(),)}
VIEWS = (RandomResizedCrop(), ColorJitter(hue=0.1), HorizontalFlip())
START = Clock(0, 5, 3)


def step(parts, batch):
    return parts.setup.method.step(parts.state.model, parts.setup.loss, batch, START)


def first_batch(parts):
    return parts.setup.augment(parts.setup.normalize(next(iter(parts.train.epoch(0)))), START)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_is_the_papers_formula(temperature):
    z = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = z.tolist()

    def similarity(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))

    losses, nearest = [], []
    for i, row in enumerate(rows):
        partner = i + 1 if i % 2 == 0 else i - 1
        each = {k: math.exp(similarity(row, other) / temperature) for k, other in enumerate(rows) if k != i}
        losses.append(-math.log(each[partner] / sum(each.values())))
        nearest.append(float(max(each, key=each.get) == partner))
    got, found = nt_xent(z, temperature)
    torch.testing.assert_close(got, torch.tensor(losses, dtype=torch.float64))
    assert found.tolist() == nearest
    assert 0 < sum(nearest) < 12


def test_the_loss_stays_in_full_precision_under_autocast():
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = nt_xent(z, 0.01)
    torch.testing.assert_close(losses, nt_xent(z.float(), 0.01)[0])
    losses.sum().backward()
    assert torch.isfinite(z.grad).all()


def read(workers, plan, images):
    return list(feed(plan, images, torch.device("cpu"), per_image(VIEWS), workers).epoch(1))


def test_views_are_rows_that_follow_one_another_drawn_by_their_keys_in_any_process():
    images = BASE.data.load().train
    here = read(0, Plan(40, 8, views=2), images)
    assert [tuple(batch.images.shape) for batch in here] == [(16, 6, 6, 3)] * 5
    once = read(0, Plan(40, 8), images)
    for batch, single in zip(here, once, strict=True):
        assert torch.equal(batch.index[::2], batch.index[1::2])
        assert torch.equal(batch.images[::2], single.images)  # the first view is the one that there is without a second
        assert torch.equal(batch.keys[::2], single.keys)
    keys = torch.cat([batch.keys for batch in here])
    assert len(keys.unique()) == 80
    differ = [(batch.images[::2] != batch.images[1::2]).flatten(1).any(dim=1) for batch in here]
    assert torch.cat(differ).float().mean() > 0.9
    for batch, other in zip(here, read(1, Plan(40, 8, views=2), images), strict=True):
        assert all(map(torch.equal, batch, other))


@pytest.mark.parametrize("drawn", [None, lambda seed, epoch: np.arange(40) % 7])
def test_processes_share_the_images_of_a_batch_with_both_views_of_each(drawn):
    plans = [Plan(40, 8, 3, True, rank, 2, drawn, 1, 2) for rank in range(2)]
    order = plans[0].order(0)
    assert len(set(plans[0].keys(0, order).tolist())) == 80
    shares = [[order[a:b] for a, b in plan.spans(2)] for plan in plans]
    assert [[len(share) for share in one] for one in shares] == [[8] * 3] * 2
    assert np.array_equal(np.concatenate([np.concatenate(both) for both in zip(*shares, strict=True)]), order[32:])


def test_a_step_is_the_contrast_and_the_loss_of_the_head_which_does_not_train_the_features():
    parts = built(ALONE)
    output = step(parts, first_batch(parts))
    assert output.logits.shape == (16, 4)
    torch.testing.assert_close(output.losses, output.extras["contrastive_loss"] + output.extras["label_loss"])
    network, head = parts.state.model, parts.state.model[-1]
    body = [p for p in network.parameters() if p is not head.weight and p is not head.bias]

    def reached(name):
        wanted = [*body, head.weight]
        return torch.autograd.grad(output.extras[name].sum(), wanted, retain_graph=True, allow_unused=True)

    *features, last = reached("label_loss")
    assert last.abs().sum() > 0
    assert all(gradient is None for gradient in features)
    *features, last = reached("contrastive_loss")
    assert last is None
    assert all(gradient.abs().sum() > 0 for gradient in features)


def test_features_are_the_same_whatever_the_labels():
    right, wrong = built(ALONE), built(ALONE | {"label_noise": LabelNoise(fraction=0.8)})
    for parts in (right, wrong):
        run(parts)
    first, second = (parts.state.trained.state_dict() for parts in (right, wrong))
    assert {name for name in first if not torch.equal(first[name], second[name])} == {"model.9.weight", "model.9.bias"}


def test_a_network_in_half_precision_is_contrasted_in_full():
    parts = built(ALONE | {"precision": "bf16-true"})
    with torch.no_grad():
        out = step(parts, first_batch(parts))
    assert out.extras["contrastive_loss"].dtype == torch.float32
    assert out.losses.isfinite().all()


def test_micro_batches_contrast_within_themselves_and_keep_both_views_of_an_image():
    whole, divided = built(ALONE), built(ALONE | {"grad_accum_steps": 2})
    batch = first_batch(whole)
    halves = [type(batch)(*(tensor[part] for tensor in batch)) for part in (slice(0, 8), slice(8, 16))]
    expected = torch.cat([step(whole, half).losses for half in halves]).mean()
    loss, right, *extras = gradients(divided.setup, divided.state, divided.state.forward, batch, START)
    torch.testing.assert_close(loss, expected.detach())
    assert len(extras) == 3
    assert right <= 16


def test_the_accuracy_in_training_is_that_of_the_head_over_all_views():
    parts = built(ALONE | {"optimizer.lr": 1e-12, "optimizer.weight_decay": 0, "epochs": 1, "augment": ()})
    ready = [parts.setup.normalize(batch) for batch in parts.train.epoch(0)]
    right = [(step(parts, batch).logits.argmax(dim=1) == batch.targets).float() for batch in ready]
    run(parts)
    assert parts.state.history[0]["train/accuracy"] == pytest.approx(torch.cat(right).mean().item())


def test_memory_that_runs_out_does_not_part_the_views_of_an_image():
    parts = built(ALONE | {"batch_size": 10, "method": WeightPenalty(method=SimCLR(), l2=1e-4)})
    parts.state.split = 4  # ten images in four parts
    seen = []

    def forward(batch, clock):
        seen.append(batch.index.tolist())
        return step(parts, batch)

    gradients(parts.setup, parts.state, forward, first_batch(parts), START)
    assert [len(index) for index in seen] == [6, 6, 4, 4]
    assert all(index[::2] == index[1::2] for index in seen)


def test_a_run_left_and_taken_up_ends_in_the_same_bits():
    changes = ALONE | {"augment": VIEWS, "ema": {"class": "Ema"}, "model.dropout": 0.3, "method.hidden": 5}
    whole, first, second = built(changes), built(changes), built(changes)
    run(whole)
    taken_up(first, second, leave=7)
    assert digest(second.state) == digest(whole.state)
    assert whole.state.trained["method"].projection[0].weight.shape == (5, 8)
    names = ("contrastive_loss", "label_loss", "partner_accuracy", "accuracy")
    last = [parts.state.history[-1] for parts in (whole, second)]
    assert all(last[0][f"train/{name}"] == last[1][f"train/{name}"] for name in names)
    assert all(0 <= last[0][f"train/{name}"] <= 1 for name in names[2:])


class Headless(Model):
    def network(self, context):
        return nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": (CutMix(),)}, "^method: SimCLR contrasts single images; leave Mixup and CutMix out of augment$"),
        ({"batch_size": 4, "grad_accum_steps": 4}, "^method: SimCLR has nothing to contrast in a micro-batch of one"),
        ({"model": Headless()}, "^method: SimCLR needs a network whose head is a linear layer or a convolution$"),
    ],
)
def test_what_cannot_be_contrasted_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        built(ALONE | changes)


def test_its_features_are_probed_and_fine_tuned_afterwards(home):
    pretrain = TINY.but({"method": SimCLR(), "model": SmallCNN(widths=(8,)), "epochs": 1, "limit": 300})
    done = train(pretrain, OFFLINE)
    kept = load_file(done.folder / "artifacts" / WEIGHTS)
    assert not any("projection" in name for name in kept)
    again = pretrain.but({"model.weights": done.id})
    assert probe(again, OFFLINE).size == (8, 8)
    tuned = assemble(again.but({"method": Supervised()}), load_splits(again, OFFLINE), OFFLINE)
    start = tuned.state.model.state_dict()
    assert all(torch.equal(start[name], kept[name]) for name in kept)
    assert len(first_batch(tuned).images) == 64
