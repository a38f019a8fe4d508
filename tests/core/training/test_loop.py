"""The loop: what a step does to the weights, what is reported, and that it can be left and taken up anywhere."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from core.common.errors import NonFinite
from core.methods import Method, Output
from core.models import MLP, SmallCNN
from core.optimizers import SGD, AdamW, Descent
from core.schedules.stopping import EarlyStopping
from core.training.loop import fit
from tests.support.loop import Rooted, built, digest, run


class SlowSGD(Descent):
    """torch's unfused SGD: one whose step cannot be called off on the device."""

    def over(self, groups):
        return torch.optim.SGD(groups, lr=self.lr, momentum=0.9)


class Poisoned(Method):
    """The loss of one image is not a number."""

    sample: int = 13

    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        losses = loss(logits, batch.targets)
        return Output(torch.where(batch.index == self.sample, torch.nan, losses), logits)


def test_a_state_with_a_step_called_off_is_not_sound():
    parts = built({"method": Poisoned(), "augment": ()}, log_every=100)
    events = fit(parts.setup, parts.state, parts.train, parts.val)
    sound = [parts.state.sound for _, _ in zip(range(4), events, strict=False)]
    assert sound == sorted(sound, reverse=True)
    assert not sound[-1]


def test_events_after_every_step_and_epoch():
    events = run(built(log_every=2))
    steps = [event for event in events if event.validation is None]
    epochs = [event for event in events if event.validation is not None]
    assert [event.step for event in steps] == list(range(1, 16))
    assert [event.step for event in steps if event.metrics] == [2, 4, 5, 7, 9, 10, 12, 14, 15]
    assert [event.epoch for event in epochs] == [0, 1, 2]
    assert set(epochs[0].metrics) == {
        "train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/balanced_accuracy", "val/precision",
        "val/recall", "val/f1", "val/nll", "val/ece", "lr", "images_per_second",
    }  # fmt: skip
    assert set(steps[1].metrics) == {"step/loss", "step/lr", "step/grad_norm"}


def test_interval_losses_average_to_the_epochs():
    events = run(built({"epochs": 1}, log_every=2))
    interval = [
        (event.metrics["step/loss"], n)
        for event, n in zip([e for e in events if "step/loss" in e.metrics], (2, 2, 1), strict=True)
    ]
    expected = sum(loss * n for loss, n in interval) / 5
    assert events[-1].metrics["train/loss"] == pytest.approx(expected)


def test_validation_counts_every_sample_once_and_equals_a_loop_by_hand():
    parts = built({"epochs": 1})
    last = run(parts)[-1]
    model, val = parts.state.model.eval(), parts.val
    batch = parts.setup.normalize(next(iter(val.epoch(0))))
    with torch.no_grad():
        logits = model(batch.images)
    expected = nn.functional.cross_entropy(logits, batch.targets).item()
    assert last.metrics["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert last.metrics["val/accuracy"] == (logits.argmax(1) == batch.targets).float().mean().item()
    assert last.validation.table.sum() == 8


def test_a_step_equals_plain_torch():
    """No dropout, no augmentation, no schedule: five steps are five steps of a loop by hand, to the bit."""
    changes = {"augment": (), "model.dropout": 0.0, "schedule": "Constant", "epochs": 1}
    parts = built(changes)
    by_hand = copy.deepcopy(parts.state.model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)
    optimizer.param_groups[0]["weight_decay"] = 0
    weights = [p for p in by_hand.parameters() if p.ndim > 1]
    biases = [p for p in by_hand.parameters() if p.ndim < 2]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 1e-3}, {"params": biases}], lr=0.1, momentum=0.9, nesterov=True, fused=True
    )
    for batch in parts.train.epoch(0):
        images, targets, *_ = parts.setup.normalize(batch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(images), targets).backward()
        optimizer.step()
    run(parts)
    assert all(map(torch.equal, by_hand.parameters(), parts.state.model.parameters()))


EVERYTHING = {"ema.decay": 0.9, "grad_accum_steps": 2, "clip_grad_norm": 0.5, "stopping.patience": 2, "epochs": 4}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "model", [MLP(hidden=(8,), dropout=0.3), SmallCNN(widths=(4, 6), dropout=0.3)], ids=["mlp", "cnn"]
)
def test_training_left_after_any_step_and_taken_up_elsewhere_ends_in_the_same_bits(model, precision):
    changes = EVERYTHING | {"model": model, "precision": precision}
    whole = built(changes, log_every=2)
    events = run(whole)
    for leave in (1, 5, 8, 12):
        first, second = built(changes, log_every=2), built(changes, log_every=2)
        before = []
        for event in fit(first.setup, first.state, first.train, first.val):
            before.append(event)
            if event.step == leave:
                break
        torch.manual_seed(leave)  # whatever the generators hold in the new process
        second.state.restore(first.state.snapshot())
        after = run(second)
        assert digest(second.state) == digest(whole.state)
        comparable = [(e.step, _without_time(e.metrics)) for e in events]
        assert [(e.step, _without_time(e.metrics)) for e in before + after] == comparable


def _without_time(metrics):
    return {name: value for name, value in metrics.items() if name != "images_per_second"}


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    first, again, other = built(), built(), built({"seed": 1})
    for parts in (first, again, other):
        run(parts)
    assert digest(first.state) == digest(again.state) != digest(other.state)


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    changes = {"model.dropout": 0.0, "epochs": 1}
    whole, parts = built(changes), built(changes | {"grad_accum_steps": 4})
    run(whole)
    run(parts)
    torch.testing.assert_close(dict(whole.state.model.state_dict()), dict(parts.state.model.state_dict()))


def test_clipping_bounds_the_update():
    changes = {"optimizer": SGD(lr=1.0, momentum=0.0), "schedule": "Constant", "epochs": 1, "clip_grad_norm": 1e-3}
    parts = built(changes)
    before = [p.detach().clone() for p in parts.state.model.parameters()]
    next(iter(fit(parts.setup, parts.state, parts.train, parts.val)))
    moved = torch.sqrt(sum((a - b).square().sum() for a, b in zip(before, parts.state.model.parameters(), strict=True)))
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("field", "clip"),
    [("clip_grad_norm", nn.utils.clip_grad_norm_), ("clip_grad_value", nn.utils.clip_grad_value_)],
    ids=["norm", "value"],
)
def test_clipping_is_torchs_and_the_norm_before_it_is_reported(field, clip):
    changes = {"augment": (), "model.dropout": 0.0, "schedule": "Constant", "epochs": 1, "optimizer.weight_decay": 0.0}
    parts = built(changes | {field: 0.02}, log_every=1)
    by_hand = copy.deepcopy(parts.state.model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    norms, cut = [], 0
    for batch in parts.train.epoch(0):
        images, targets, *_ = parts.setup.normalize(batch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(images), targets).backward()
        gradients = [p.grad.clone() for p in by_hand.parameters()]
        norms.append(nn.utils.get_total_norm(gradients).item())
        clip(by_hand.parameters(), 0.02)
        cut += not torch.equal(gradients[0], next(by_hand.parameters()).grad)
        optimizer.step()
    reported = [event.metrics["step/grad_norm"] for event in run(parts) if "step/grad_norm" in event.metrics]
    assert cut > 0
    assert reported == pytest.approx(norms, rel=1e-4)
    torch.testing.assert_close(list(by_hand.parameters()), list(parts.state.model.parameters()))


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_follows_its_formula_and_is_what_is_evaluated(warmup):
    parts = built({"ema.decay": 0.3, "ema.warmup": warmup, "epochs": 1})
    expected, decays = None, []
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        if event.validation is None:
            now = [p.detach().clone() for p in parts.state.model.parameters()]
            decays.append(min(0.3, (1 + len(decays)) / (10 + len(decays))) if warmup else 0.3)
            decay = decays[-1] if expected else 0
            expected = [decay * e + (1 - decay) * n for e, n in zip(expected or now, now, strict=True)]
    assert decays[-1] == 0.3
    assert (decays[1] < 0.3) == warmup
    torch.testing.assert_close(list(parts.state.evaluated.parameters()), expected)
    assert parts.state.evaluated is parts.state.ema.module


def test_early_stopping_ends_the_loop():
    parts = built({"epochs": 50, "optimizer.lr": 1e-9, "schedule": "Constant"})
    parts = replace(parts, setup=replace(parts.setup, stopping=EarlyStopping(patience=3)))
    assert run(parts)[-1].epoch == 3


OPTIMIZERS = [SGD(lr=0.1), AdamW(lr=0.1), SlowSGD(lr=0.1)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "adamw", "unfused"])
def test_a_loss_that_is_not_a_number_never_reaches_the_weights_and_names_step_and_sample(optimizer):
    changes = {"optimizer": optimizer, "epochs": 1, "ema.decay": 0.9, "augment": ()}
    good = built(changes, log_every=5)
    step = next(i for i, batch in enumerate(good.train.epoch(0)) if 13 in batch.index)
    assert 0 < step < 4, "the test needs good steps before and after the bad one"
    for event in fit(good.setup, good.state, good.train, good.val):
        if event.step == step:
            break
    bad = built(changes | {"method": Poisoned()}, log_every=5)
    with pytest.raises(
        NonFinite, match=rf"at step {step + 1} \(epoch 1\): 1 of 8 training images \(13\).* optimizer.lr"
    ):
        run(bad)
    assert all(map(torch.equal, bad.state.model.parameters(), good.state.model.parameters()))


def test_the_first_layer_whose_output_is_not_finite_is_named():
    parts = built({"model.dropout": 0.0, "augment": ()}, log_every=1)
    with torch.no_grad():
        parts.state.model[3].weight.fill_(3e38)
    before = digest(parts.state)
    with pytest.raises(NonFinite, match=r"step 1 .* layer 3 \(Linear\) is the first") as caught:
        run(parts)
    assert "optimizer.lr" not in str(caught.value), "no rate has moved anything before step 1"
    assert digest(parts.state) == before


def test_a_gradient_whose_norm_overflows_is_named():
    parts = built({"model.dropout": 0.0, "augment": ()}, log_every=1)
    with torch.no_grad():
        parts.state.model[3].weight.mul_(1e25)
    with pytest.raises(NonFinite, match=r"the norm of the gradient overflows; the largest gradient is that of 1\."):
        run(parts)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gradient_that_is_not_a_number_under_a_finite_loss_is_named(precision):
    parts = built({"method": Rooted(), "precision": precision, "epochs": 20, "augment": ()})
    with pytest.raises(NonFinite, match=r"the loss is finite, but the gradient of"):
        run(parts)


def test_fp16_trains_with_a_scaler_whose_skips_are_no_error():
    parts = built({"precision": "fp16"})
    parts.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)  # the first steps overflow and are skipped
    before = [p.detach().clone() for p in parts.state.model.parameters()]
    stream = fit(parts.setup, parts.state, parts.train, parts.val)
    next(stream)
    assert all(map(torch.equal, before, parts.state.model.parameters()))
    list(stream)
    assert parts.state.scaler.get_scale() < 2.0**22
    assert not all(map(torch.equal, before, parts.state.model.parameters()))
    assert all(torch.isfinite(p).all() for p in parts.state.model.parameters())


def test_the_scale_of_fp16_is_as_declared():
    as_before, other = built({"precision": "fp16"}), built({"precision": "fp16", "loss_scale.init_scale": 1024})
    torchs = torch.amp.GradScaler("cpu").state_dict()
    assert as_before.state.scaler.state_dict() == torchs
    assert other.state.scaler.get_scale() == 1024
    grown = built({"precision": "fp16", "loss_scale.init_scale": 16, "loss_scale.growth_interval": 3})
    run(grown)
    assert grown.state.scaler.get_scale() == 16 * 2 ** (15 // 3)
    assert built({"loss_scale.init_scale": 1024}).state.scaler is None


def test_a_fixed_scale_stays_and_gives_the_same_updates_as_one_that_adapts():
    scale = {"precision": "fp16", "loss_scale.init_scale": 4096}
    adapted = built(scale)
    fixed = built(scale | {"loss_scale.fixed": True, "loss_scale.growth_interval": 2})
    for parts in (fixed, adapted):
        run(parts)
    assert fixed.state.scaler.get_scale() == 4096
    assert digest(fixed.state) == digest(adapted.state)


def test_a_fixed_scale_that_overflows_at_every_step_is_an_error():
    parts = built({"precision": "fp16", "loss_scale.init_scale": 2.0**30, "loss_scale.fixed": True})
    with pytest.raises(NonFinite, match="the loss is finite, but the gradient of"):
        run(parts)


def test_it_learns():
    parts = built({"epochs": 60, "augment": (), "model": MLP(hidden=(64,))})
    epochs = [event.metrics["train/accuracy"] for event in run(parts) if event.validation]
    assert epochs[0] < 0.6
    assert epochs[-1] == 1.0
