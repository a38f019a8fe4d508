"""Seeds trained together compute what each computes alone."""

import copy

import pytest
import torch
from torch import nn

from core.augment import CutMix, HorizontalFlip, Mixup, RandomCrop, Resize
from core.common.errors import NonFinite, UserError
from core.launch import Launch
from core.losses import (
    CrossEntropy,
    FocalLoss,
    GeneralizedCrossEntropy,
    PolyLoss,
    Sum,
    SymmetricCrossEntropy,
)
from core.methods import Method, Output
from core.models import MLP, SmallCNN
from core.models.base import Model
from core.optimizers import SAM, SGD, AdamW, Muon, RMSprop
from core.schedules import Constant, Cosine, Plateau
from core.schedules.stopping import EarlyStopping
from core.training.assemble import assemble
from core.training.fleet import advice, fit_together, refuse_together, structure
from core.training.loop import fit
from data import Digits
from tests.support.doubled import EXPERIMENT as DOUBLED
from tests.support.doubled import DoubleCNN, Doubled, PoisonedAt


class DoubleMLP(MLP):
    """MLP in float64."""

    def network(self, context):
        return nn.Sequential(Doubled(), super().network(context)).double()


class Deep(Model):
    """A network with randomness of its own: images of a batch lose their features."""

    def network(self, context):
        return nn.Sequential(Dropping(), nn.Flatten(), nn.Linear(64, len(context.classes)))


class Dropping(nn.Module):
    def forward(self, images):
        return images * torch.rand(len(images), 1, 1, 1)


class Counting(Model):
    """A network whose layer reads a number from the device."""

    def network(self, context):
        return nn.Sequential(Reading(), nn.Flatten(), nn.Linear(64, len(context.classes)))


class Reading(nn.Module):
    def forward(self, images):
        return images / max(1.0, images.abs().max().item())


class Rounding(CrossEntropy):
    """A loss that reads a number from the device."""

    def __call__(self, logits, targets):
        return super().__call__(logits, targets) * float(logits.detach().max() > -1e9)


class Weighing(Method):
    """A method that reads a number from the device."""

    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        return Output(loss(logits, batch.targets) * (1 + logits.detach().max().item()), logits)


CNN = DOUBLED.but(
    {
        "model": DoubleCNN(widths=(3, 6), norm="batch", dropout=0.2),
        "augment": (RandomCrop(padding=1), HorizontalFlip(), Mixup()),
        "schedule": Cosine(warmup_epochs=1),
        "ema": "Ema",
        "limit": 320,
        "batch_size": 16,
        "grad_accum_steps": 2,
        "epochs": 10,
    }
)
PERCEPTRON = CNN.but(
    {
        "model": DoubleMLP(hidden=(16, 8), dropout=0.3),
        "augment": (CutMix(),),
        "optimizer": AdamW(lr=0.003),
        "clip_grad_value": 0.1,
    }
)


@pytest.fixture(scope="module")
def splits():
    return Digits().load(None)


@pytest.fixture
def built(splits):
    def assembled(experiment, seed=0, **launch):
        images = splits.limited(experiment.limit) if experiment.limit else splits
        return assemble(experiment.but({"seed": seed}), images, Launch(device="cpu", **launch))

    return assembled


def alone(parts):
    return list(fit(parts.setup, parts.state, parts.train, parts.val))


def together(members):
    events = {number: [] for number in members}
    for each in fit_together(members):
        for number, event in each.items():
            events[number].append(event)
    return events


def assert_same(events, expected):
    assert [event[:2] for event in events] == [event[:2] for event in expected]
    for ours, theirs in zip(events, expected, strict=True):
        metrics = {name: value for name, value in theirs.metrics.items() if name != "images_per_second"}
        assert {name: ours.metrics[name] for name in metrics} == pytest.approx(metrics, abs=1e-10)


def assert_equal_states(one, other):
    def compare(a, b):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
            return
        assert type(a) is type(b)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            [compare(a[name], b[name]) for name in a if name != "images_per_second"]
        elif isinstance(a, list | tuple):
            [compare(*pair) for pair in zip(a, b, strict=True)]
        else:
            assert a == pytest.approx(b, abs=1e-10)

    compare(one.snapshot(), other.snapshot())


@pytest.mark.parametrize("experiment", [PERCEPTRON, CNN], ids=["mlp", "cnn"])
def test_every_loss_of_200_steps_is_that_of_the_seed_alone(experiment, built):
    """In float64, with dropout, running statistics, mixing, micro-batches, clipping, and a moving average."""
    members = {seed: built(experiment, seed, log_every=1) for seed in (5, 6)}
    events = together(members)
    for seed, parts in members.items():
        solo = built(experiment, seed, log_every=1)
        assert_same(events[seed], alone(solo))
        assert solo.state.step == 200
        assert_equal_states(parts.state, solo.state)
        assert all(map(_same_memory_format, parts.state.trained.parameters(), solo.state.trained.parameters()))
    first, second = (parts.state.snapshot()["trained"] for parts in members.values())
    assert not all(torch.equal(first[name], second[name]) for name in first)


NUMBERS = [
    {"optimizer": SGD(lr=0.05, momentum=0.9, nesterov=True), "loss.label_smoothing": 0.0},
    {"optimizer": SGD(lr=0.01, weight_decay=0.1), "loss.label_smoothing": 0.2, "augment.mixup.alpha": 1.5},
    {"optimizer": AdamW(lr=0.003, betas=(0.8, 0.9)), "schedule": Constant(), "ema.decay": 0.5, "seed": 3},
    {"optimizer": RMSprop(lr=0.002), "schedule.warmup_epochs": 2, "stopping": EarlyStopping(patience=1)},
]


@pytest.mark.parametrize("changes", [{}, {"freeze": "Freeze", "augment": ()}], ids=["mixed", "frozen"])
def test_trials_that_differ_in_numbers_alone_compute_what_each_computes_alone(changes, built):
    """In float64: optimizers, their rates and momenta, schedules, smoothing, mixing, early stopping."""
    mixed = "augment" not in changes
    numbers = [{name: one for name, one in each.items() if mixed or "mixup" not in name} for each in NUMBERS]
    trials = [CNN.but({"epochs": 3} | changes | each) for each in numbers]
    assert len(set(map(structure, trials))) == 1
    members = {number: built(trial, trial.seed, log_every=1) for number, trial in enumerate(trials)}
    refuse_together([built(trial, trial.seed) for trial in trials])
    events = together(members)
    for number, trial in enumerate(trials):
        solo = built(trial, trial.seed, log_every=1)
        assert_same(events[number], alone(solo))
        assert_equal_states(members[number].state, solo.state)


def test_a_trial_that_diverges_ends_alone(built):
    rates = [0.01, 1e200, 0.02]
    trials = [PERCEPTRON.but({"optimizer": SGD(lr=lr, momentum=0.9), "epochs": 2, "ema": None}) for lr in rates]
    members = {number: built(trial) for number, trial in enumerate(trials)}
    events = together(members)
    assert isinstance(events[1][-1], NonFinite)
    for number in (0, 2):
        solo = built(trials[number])
        alone(solo)
        assert_equal_states(members[number].state, solo.state)


def test_a_trial_that_is_ended_by_the_caller_is_not_trained_further(built):
    members = {number: built(PERCEPTRON.but({"optimizer.lr": lr, "epochs": 3})) for number, lr in ((0, 0.1), (1, 0.01))}
    ended = set()
    for events in fit_together(members, ended):
        if 0 in events and events[0].validation:
            ended.add(0)
    assert [len(parts.state.history) for parts in members.values()] == [1, 3]


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"optimizer": AdamW(), "schedule": Constant(), "seed": 7, "stopping": None, "ema": None}, True),
        ({"loss.label_smoothing": 0.3, "augment.mixup.alpha": 0.7}, True),
        ({"model.dropout": 0.1}, False),
        ({"batch_size": 32}, False),
        ({"epochs": 3}, False),
        ({"loss": FocalLoss()}, False),
        ({"augment": (RandomCrop(padding=1), HorizontalFlip(), CutMix())}, False),
        ({"augment.random_crop.padding": 2}, False),
        ({"augment": (RandomCrop(padding=1), HorizontalFlip(), Mixup(), Resize())}, False),
    ],
    ids=str,
)
def test_trials_share_a_structure_if_they_differ_in_numbers_alone(changes, shared):
    assert (structure(CNN.but(changes)) == structure(CNN)) is shared


def test_an_image_size_is_part_of_the_structure():
    small, large = (CNN.but({"augment": (Resize(initial_scale=scale),)}) for scale in (0.5, 0.75))
    assert structure(small) != structure(large)


def test_numbers_of_a_loss_inside_another_one_are_part_of_the_structure():
    one, other = (CNN.but({"loss": Sum(losses=(FocalLoss(gamma=gamma), CrossEntropy()))}) for gamma in (1.0, 2.0))
    assert structure(one) != structure(other)


@pytest.mark.parametrize(
    "losses",
    [
        (FocalLoss(gamma=1.0), FocalLoss(gamma=3.0)),
        (PolyLoss(epsilon=-1.0), PolyLoss(epsilon=2.0)),
        (SymmetricCrossEntropy(beta=0.5), SymmetricCrossEntropy(beta=2.0)),
    ],
    ids=lambda losses: type(losses[0]).__name__,
)
def test_losses_with_different_numbers_are_computed_together(losses, built):
    trials = [PERCEPTRON.but({"loss": loss, "epochs": 1}) for loss in losses]
    refuse_together(list(map(built, trials)))
    members = {number: built(trial) for number, trial in enumerate(trials)}
    together(members)
    for number, trial in enumerate(trials):
        solo = built(trial)
        alone(solo)
        assert_equal_states(members[number].state, solo.state)


@pytest.mark.parametrize(
    "losses",
    [
        [GeneralizedCrossEntropy(q=q) for q in (0.3, 0.9)],
        [CrossEntropy(weights="balanced", label_smoothing=smoothing) for smoothing in (0.0, 0.1)],
    ],
    ids=["custom function", "built for its classes"],
)
def test_losses_whose_numbers_cannot_be_stacked_are_refused(losses, built):
    with pytest.raises(UserError, match=r"^(loss|model, loss or method): .*; leave out --at_once$"):
        refuse_together([built(PERCEPTRON.but({"loss": loss, "augment": ()})) for loss in losses], "--at_once")


def _same_memory_format(one, other):
    return one.stride() == other.stride()


def test_a_seed_that_stops_early_is_left_as_it_is(built):
    experiment = PERCEPTRON.but({"stopping": EarlyStopping(patience=1), "epochs": 12, "optimizer.lr": 0.03})
    members = {seed: built(experiment, seed) for seed in range(3)}
    together(members)
    for seed, parts in members.items():
        solo = built(experiment, seed)
        alone(solo)
        assert_equal_states(parts.state, solo.state)
    assert len({parts.state.step for parts in members.values()}) > 1


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, momentum=0.9), AdamW(lr=0.05)], ids=["sgd", "adamw"])
def test_a_schedule_that_follows_the_validation_of_each_seed(optimizer, built):
    plateau = Plateau(monitor="val/accuracy", patience=0, factor=0.5)
    experiment = PERCEPTRON.but({"schedule": plateau, "optimizer": optimizer, "epochs": 6})
    members = {seed: built(experiment, seed) for seed in range(3)}
    refuse_together([built(experiment, seed) for seed in (0, 1)])
    together(members)
    rates = set()
    for seed, parts in members.items():
        solo = built(experiment, seed)
        alone(solo)
        assert_equal_states(parts.state, solo.state)
        rates.add(tuple(entry["lr"] for entry in solo.state.history))
    assert len(rates) > 1


def test_seeds_go_on_together_from_different_steps_and_alone_from_any(built):
    experiment = CNN.but({"epochs": 2})
    whole = {seed: built(experiment, seed) for seed in range(3)}
    together(whole)
    members = {seed: built(experiment, seed) for seed in range(3)}
    for seed, steps in ((0, 14), (1, 20), (2, 23)):  # the epoch has 20 steps: one has yet to be validated
        for event in fit(*(getattr(members[seed], name) for name in ("setup", "state", "train", "val"))):
            if event.step == steps:
                break
    snapshots = {}
    for _, _ in zip(range(18), fit_together(members), strict=False):
        snapshots = {seed: parts.state.snapshot() for seed, parts in members.items()}
    assert len({snapshot["step"] for snapshot in snapshots.values()}) == 1
    for seed in (0, 1):
        solo = built(experiment, seed)
        solo.state.restore(copy.deepcopy(snapshots[seed]))
        alone(solo)
        assert_equal_states(solo.state, whole[seed].state)
    together(members)
    for seed, parts in members.items():
        assert_equal_states(parts.state, whole[seed].state)


def test_a_seed_whose_loss_is_not_finite_ends_with_its_error_and_the_others_go_on(built):
    experiment = PERCEPTRON.but({"method": PoisonedAt(sample=7), "augment": (), "epochs": 6, "ema": None})
    members = {seed: built(experiment, seed) for seed in range(3)}
    events = together(members)
    steps = set()
    for seed, parts in members.items():
        solo = built(experiment, seed, log_every=1)
        with pytest.raises(NonFinite) as error:
            alone(solo)
        assert isinstance(events[seed][-1], NonFinite)
        assert str(events[seed][-1]) == str(error.value)
        steps.add(error.value.step)
        ours, theirs = (one.state.snapshot()["trained"] for one in (parts, solo))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert len(steps) > 1


class Drifting(SmallCNN):
    """A network with a buffer that it replaces in each step instead of updating it."""

    def network(self, context):
        return nn.Sequential(Drift(), super().network(context))


class Drift(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, images):
        self.steps = self.steps + 1
        return images


REFUSED = [
    ({"optimizer": SAM()}, "optimizer: SAM"),
    ({"optimizer": Muon()}, "optimizer: Muon"),
    ({"prune": "Prune"}, "prune: "),
    ({"quantize": "Quantize"}, "quantize: "),
    ({"max_minutes": 5.0}, "max_minutes: "),
    ({"model": Deep()}, "model: torch.vmap"),
    ({"model": Counting()}, "model: torch.vmap"),
    ({"loss": Rounding()}, "loss: torch.vmap"),
    ({"model": Drifting()}, "model, loss or method: together, runs do not compute"),
    ({"method": Weighing()}, "loss or method: torch.vmap"),
]


@pytest.mark.parametrize(("changes", "part"), REFUSED, ids=[next(iter(c)) + str(i) for i, (c, _) in enumerate(REFUSED)])
def test_what_cannot_be_trained_together_is_refused_by_name(changes, part, built):
    experiment = PERCEPTRON.but({"model": MLP(hidden=(8, 8)), "optimizer": SGD()} | changes)
    with pytest.raises(UserError) as error:
        refuse_together([built(experiment, seed) for seed in (0, 1)])
    (line,) = error.value.lines
    assert line.startswith(part), line
    assert line.endswith("leave out --together")


def test_options_that_look_at_one_network_are_refused(built):
    with pytest.raises(UserError, match="diagnose: it looks at the layers of one network"):
        refuse_together([built(PERCEPTRON, diagnose=True)])


def test_loader_processes_of_each_seed_are_refused(built):
    with pytest.raises(UserError, match=r"workers: .* unless --workers 0 is given"):
        refuse_together([built(PERCEPTRON, seed, workers=1) for seed in (0, 1)])


def test_a_frozen_network_trains_its_head_together_and_epochs_are_averaged(built):
    changes = {"freeze": "Freeze", "freeze.unfreeze_epoch": 1, "ema": None, "swa": "Swa", "swa.start": 0.5}
    experiment = CNN.but(changes | {"epochs": 2, "augment": ()})
    members = {seed: built(experiment, seed) for seed in (0, 1)}
    refuse_together([built(experiment, seed) for seed in (0, 1)])
    together(members)
    solo = built(experiment, 1)
    alone(solo)
    assert_equal_states(members[1].state, solo.state)


def test_bfloat16_differs_by_rounding(built):
    experiment = PERCEPTRON.but({"model": SmallCNN(widths=(4,)), "precision": "bf16", "epochs": 1})
    members = {seed: built(experiment, seed) for seed in (0, 1)}
    refuse_together(list(members.values()))
    events = together(members)
    expected = alone(built(experiment, 1))[-1].metrics["train/loss"]
    assert events[1][-1].metrics["train/loss"] == pytest.approx(expected, rel=0.01)


def test_large_networks_are_advised_against_on_a_cpu(built):
    assert not list(advice(built(PERCEPTRON)))
    (line,) = advice(built(CNN.but({"model": SmallCNN(widths=(64, 128))})))
    assert "FLOPs per image" in line
