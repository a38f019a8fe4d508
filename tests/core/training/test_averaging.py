"""Averages of weights: against the formula, judged in the weights' place, whole over a resume."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from core.common.errors import UserError
from core.loading.loader import Resident
from core.models import MLP, Model, SmallCNN
from core.optimizers.averaging import Swa
from core.training.loop import fit
from tests.support.loop import BASE, built, run, taken_up

CNN = SmallCNN(widths=(4, 6))
CHANGES = {"swa.start": 0.5, "epochs": 6, "model": CNN, "schedule": "Constant"}


def test_from_its_epoch_on_it_is_the_equal_average_of_the_epochs_weights():
    parts = built(CHANGES)
    seen, judged = [], []
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        if event.validation:
            seen.append([p.detach().clone() for p in parts.state.model.parameters()])
            judged.append(parts.state.evaluated is parts.state.swa.module)
    assert judged == [False] * 3 + [True] * 3
    expected = [torch.stack(weights).mean(dim=0) for weights in zip(*seen[3:], strict=True)]
    torch.testing.assert_close(list(parts.state.evaluated.parameters()), expected)


def test_batch_norm_is_computed_anew_over_the_training_batches_as_torch_does():
    parts = built(CHANGES | {"augment": ()})
    run(parts)
    by_hand = copy.deepcopy(parts.state.swa.module)
    for module in by_hand.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(7.0)
    update_bn([parts.setup.normalize(batch).images for batch in parts.train.epoch(5)], by_hand)
    torch.testing.assert_close(dict(by_hand.named_buffers()), dict(parts.state.swa.module.named_buffers()))
    first = next(module for module in by_hand.modules() if isinstance(module, nn.BatchNorm2d))
    raw = next(module for module in parts.state.model.modules() if isinstance(module, nn.BatchNorm2d))
    assert not torch.allclose(first.running_mean, raw.running_mean)
    assert first.momentum == 0.1


def test_what_is_reported_is_the_averages_validation():
    parts = built(CHANGES)
    last = run(parts)[-1]
    model = parts.state.swa.module.eval()
    batch = parts.setup.normalize(next(iter(parts.val.epoch(0))))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(batch.images), batch.targets).item()
    assert last.metrics["val/loss"] == pytest.approx(expected, rel=1e-5)


def test_training_itself_is_as_without():
    with_, without = built(CHANGES), built({k: v for k, v in CHANGES.items() if k != "swa.start"})
    run(with_), run(without)
    assert all(map(torch.equal, with_.state.model.parameters(), without.state.model.parameters()))


class Noisy(Model):
    """Dropout in front of BatchNorm: its statistics are of the noise too."""

    def network(self, context):
        return nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 4))


@pytest.mark.parametrize("leave", [3, 15, 17, 20, 26, 30])
def test_left_after_any_step_and_taken_up_elsewhere_it_ends_in_the_same_bits(leave):
    changes = CHANGES | {"model": Noisy()}
    whole, first, second = built(changes), built(changes), built(changes)
    run(whole)
    taken_up(first, second, leave)
    one, other = second.state.evaluated.state_dict(), whole.state.evaluated.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert second.state.history == whole.state.history


@pytest.mark.parametrize(("model", "batches"), [(MLP(hidden=(4,)), 20), (CNN, 30)], ids=["none", "batch_norm"])
def test_only_batch_norm_costs_a_pass(model, batches, monkeypatch):
    """Five batches an epoch, four epochs, and again in the two of the average."""
    parts = built({"swa.start": 0.5, "epochs": 4, "model": model})
    asked, original = [], Resident.epoch

    def watched(self, *where):
        for batch in original(self, *where):
            asked.append(self.plan.shuffled)
            yield batch

    monkeypatch.setattr(Resident, "epoch", watched)
    run(parts)
    assert asked.count(True) == batches


@pytest.mark.parametrize(("start", "epochs", "first"), [(0.75, 100, 75), (0.75, 1, 0), (0.0, 5, 0), (0.99, 3, 2)])
def test_the_average_begins_after_its_share_of_the_epochs_and_always_before_the_end(start, epochs, first):
    assert Swa(start=start).first_epoch(epochs) == first < epochs


def test_one_average_at_a_time():
    with pytest.raises(ValueError, match="ema and swa"):
        BASE.but({"ema.decay": 0.9, "swa.start": 0.5}).check()
    with pytest.raises(UserError):
        BASE.but({"swa.start": 1.0})
