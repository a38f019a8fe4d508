"""Pruning: as much as the schedule says, for good, over every optimizer, average and interruption; and smaller networks
that are rebuilt from their record."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.common.errors import UserError
from core.experiment import Experiment
from core.export.graph import exported
from core.inference.answers import read as read_answers
from core.inference.network import network_of
from core.launch import Launch
from core.metrics.names import best_epoch
from core.models import CifarResNet, Model, SmallCNN, Torchvision, forward_flops
from core.models.prune import Prune, masks
from core.models.quantize import Quantize
from core.models.structured import prune_channels
from core.models.weights import holds_narrowed
from core.optimizers import SAM, SGD, AdamW, Muon
from core.optimizers.averaging import Ema, Swa
from core.record.run import WEIGHTS
from core.report.cost import cost
from core.runs.train import train
from core.runs.trained import load
from core.schedules.stopping import EarlyStopping
from core.training.assemble import assemble, check
from core.training.loop import fit
from data import Digits
from experiments.tiny import EXPERIMENT
from tests.support import kills
from tests.support.kills import Moment, Setup
from tests.support.loop import BASE, Tiny, digest, run, taken_up
from tests.support.networks import context
from tests.support.optional import library

CNN = BASE.but({"model": SmallCNN(widths=(4, 8)), "epochs": 4})
GRADUAL = Prune(amount=0.7, start_epoch=1, end_epoch=3)
QUIET = Launch(mlflow=False, threads=1)


def built(changes):
    return assemble(CNN.but(changes), Tiny().load(), Launch(device="cpu"))


def zeros(network, names):
    return {name: network.get_parameter(name).detach() == 0 for name in names}


@given(
    amount=st.floats(0.01, 0.99),
    start=st.integers(0, 20),
    length=st.integers(1, 30),
    scope=st.sampled_from(["global", "layer"]),
)
def test_the_share_of_zeros_follows_the_cubic_schedule(amount, start, length, scope):
    declared = Prune(amount=amount, start_epoch=start, end_epoch=start + length, scope=scope)
    generator = torch.Generator().manual_seed(start)
    weights = {"a": torch.randn(7, 9, generator=generator), "b": 3 * torch.randn(40, generator=generator)}
    kept = {}
    for epoch in range(start + length + 2):
        progress = min(max((epoch - start) / length, 0), 1)
        expected = amount * (1 - (1 - progress) ** 3)
        assert declared.sparsity(epoch) == pytest.approx(expected, abs=1e-12)
        before, kept = kept, masks(weights, declared.sparsity(epoch), scope, kept)
        for group in [["a", "b"]] if scope == "global" else [["a"], ["b"]]:
            count, size = (sum(int(f(kept[n])) for n in group) for f in (lambda m: (~m).sum(), torch.numel))
            assert count == int(declared.sparsity(epoch) * size)
            away = torch.cat([weights[n][~kept[n]].abs() for n in group])
            left = torch.cat([weights[n][kept[n]].abs() for n in group])
            assert not len(away) or not len(left) or away.max() <= left.min()
        assert not any((kept[name] & ~mask).any() for name, mask in before.items())
        again = masks({n: w * kept[n] for n, w in weights.items()}, declared.sparsity(epoch), scope, kept)
        assert all(torch.equal(again[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": AdamW(weight_decay=0.1)},
        {"optimizer": SAM(base=SGD(lr=0.1, momentum=0.9))},
        {"optimizer": Muon()},
        {"ema": Ema(decay=0.9)},
        {"swa": Swa(start=0.0)},
        {"grad_accum_steps": 2, "clip_grad_norm": 0.1, "precision": "bf16", "model.grad_checkpointing": True},
    ],
    ids=["sgd", "adamw", "sam", "muon", "ema", "swa", "all_else"],
)
def test_zeros_stay_zero_in_the_network_and_its_average(changes):
    parts = built({"prune": GRADUAL} | changes)
    names = parts.setup.pruning.names
    assert names == ("0.weight", "3.weight", "7.weight", "10.weight", "16.weight")
    size = sum(parts.state.model.get_parameter(name).numel() for name in names)
    before = {}
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        now = zeros(parts.state.model, names)
        for network in (now, zeros(parts.state.evaluated, names)):
            assert not any((gone & ~network[name]).any() for name, gone in before.items())
        assert sum(int(gone.sum()) for gone in now.values()) == int(GRADUAL.sparsity(event.epoch) * size)
        for name, mask in parts.state.masks.items():  # the norm that is clipped counts the kept weights alone
            assert not (parts.state.model.get_parameter(name).grad[~mask]).any()
        before = now
    assert [entry["sparsity"] for entry in parts.state.history] == [GRADUAL.sparsity(epoch) for epoch in range(4)]


@pytest.mark.parametrize("leave", [3, 7, 12, 15])
@pytest.mark.parametrize("changes", [{"ema": Ema(decay=0.5)}, {"optimizer": AdamW(), "prune.scope": "layer"}])
def test_left_and_taken_up_in_the_middle_of_pruning_it_ends_in_the_same_bits(changes, leave):
    declared = {"prune": GRADUAL} | changes
    whole, first, second = built(declared), built(declared), built(declared)
    run(whole)
    taken_up(first, second, leave)
    assert digest(second.state) == digest(whole.state)


def test_a_weight_that_happens_to_be_zero_is_not_taken_for_a_pruned_one():
    first, second = built({"prune": Prune()}), built({"prune": Prune()})
    first.setup.pruning.hold(first.state, 0)
    name, mask = next(iter(first.state.masks.items()))
    with torch.no_grad():
        first.state.model.get_parameter(name)[mask] = 0.0
    second.state.restore(first.state.snapshot())
    second.setup.pruning.hold(second.state, 0)
    assert all(torch.equal(second.state.masks[name], mask) for name, mask in first.state.masks.items())


@pytest.mark.slow
@pytest.mark.parametrize("step", [9, 30])
def test_a_kill_in_the_middle_of_pruning_changes_nothing(step, forge, tmp_path):
    words = "--epochs 3 --limit 200 --batch_size 16 --prune.amount 0.8 --prune.end_epoch 2 --ema.decay 0.9"
    expected = kills.undisturbed(forge.start, tuple(words.split()), tmp_path / "whole")
    setup = Setup(tuple(words.split()), ("--workers", "0", "--checkpoint_every", "4"))
    assert kills.finish_killed(forge.start, setup, tmp_path / "killed", iter([Moment(step=step)]), expected)


def test_the_best_epoch_has_the_whole_amount():
    history = [{"val/accuracy": a, "val/loss": 1 - a, "sparsity": s} for a, s in ((0.9, 0), (0.8, 0.7), (0.7, 0.7))]
    assert [best_epoch(history[:n], "val/accuracy") for n in (1, 2, 3)] == [0, 1, 1]


def test_early_stopping_waits_for_the_pruned_network():
    stopping = EarlyStopping(patience=1, min_delta=1.0)  # every epoch is one without improvement
    parts = built({"prune": GRADUAL, "stopping": stopping, "epochs": 9})
    run(parts)
    assert len(parts.state.history) == 3 + 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("LABBOOK_HOME", str(home))
        short = {"epochs": 1, "limit": 600, "model.widths": (16, 32), "stopping": None}
        yield home, train(EXPERIMENT.but(short), QUIET, "tiny")


def tune(base, changes):
    """Trains the base further with changes, and gives the run, read from its folder."""
    weights = {"model.weights": base.id, "optimizer.lr": 0.02, "epochs": 1}
    return load(train(base.experiment.but(weights | changes), QUIET, "tiny").id)


@pytest.fixture(scope="module")
def half(base):
    """The base without half of its channels."""
    library("torch_pruning", extra="compress")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(base[0]))
        yield tune(base[1], {"prune": Prune(amount=0.5, how="structured", scope="layer")})


@pytest.fixture
def at_home(base, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(base[0]))


def same_answers(found):
    """The network that is rebuilt from the record gives the answers on record."""
    images = Digits().load(None).limited(600).test
    logits = network_of(found, "cpu").logits(images.pixels[images.rows])
    recorded = read_answers(found, "test").logits
    np.testing.assert_allclose(logits - logits.amax(dim=1, keepdim=True), recorded, atol=0.02)  # float16
    accuracy = (logits.argmax(dim=1).numpy() == images.targets).mean()
    assert accuracy == pytest.approx(found.metrics["test/accuracy"])


def test_a_sparse_run_keeps_plain_weights_with_zeros_and_says_how_many(base, at_home):
    found = tune(base[1], {"prune": Prune(amount=0.8, end_epoch=1), "epochs": 2})
    network = found.model
    assert list(network.state_dict()) == list(base[1].model.state_dict())
    layers = [p for p in network.parameters() if p.ndim > 1]
    assert sum(int((p == 0).sum()) for p in layers) == int(0.8 * sum(p.numel() for p in layers))
    before, after = found.compression["before"], found.compression["after"]
    assert before["nonzero"] == before["parameters"] == after["parameters"]
    assert after["nonzero"] == sum(int(p.count_nonzero()) for p in network.parameters()) < 0.25 * before["nonzero"]
    assert before["latency_ms"] > 0
    assert f"{after['nonzero']:,} of them not zero" in cost(found)["after compression"]
    same_answers(found)


def test_a_smaller_network_is_rebuilt_from_its_record_alone(half):
    assert channels(half.model) == [8, 8, 16, 16]
    assert holds_narrowed(half.artifact(WEIGHTS))
    before, after = half.compression["before"], half.compression["after"]
    assert after["parameters"] < 0.3 * before["parameters"]
    assert after["flops"] < 0.3 * before["flops"]
    assert half.record["facts"]["flops"] == str(after["flops"]) == str(forward_flops(half.model, (8, 8, 1)))
    same_answers(half)
    images = torch.randint(256, (5, 8, 8, 1), dtype=torch.uint8)
    served = exported(half).module()(images)
    torch.testing.assert_close(served, torch.from_numpy(half.predict(images.numpy())), rtol=1e-4, atol=1e-5)


def test_a_run_starts_from_a_smaller_network(base, half, at_home):
    quantized = tune(base[1], {"model.weights": half.id, "quantize": Quantize()})
    assert channels(quantized.model) == [8, 8, 16, 16]
    same_answers(quantized)
    again = {"model.weights": half.id, "prune": half.experiment.prune}
    images = Digits().load(None).limited(100)
    smaller = assemble(base[1].experiment.but(again), images, QUIET).state.model
    assert channels(smaller) == [4, 4, 8, 8]


def channels(network):
    return [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (CifarResNet(depth=8), (16, 16, 3)),
        (SmallCNN(widths=(16, 32), norm="group"), (8, 8, 1)),
        (Torchvision(name="mobilenet_v3_small"), (32, 32, 3)),
    ],
    ids=["residual", "group norm", "depthwise"],
)
def test_channels_that_belong_together_are_removed_together(model, shape):
    library("torch_pruning", extra="compress")
    network = model.build(context(shape=shape))
    flops = forward_flops(network, shape)
    prune_channels(network, Prune(amount=0.5, how="structured"), shape)
    assert forward_flops(network, shape) < 0.5 * flops
    assert network.eval()(torch.zeros(2, *shape[::-1])).shape == (2, 4)


class Fixed(nn.Module):
    """Multiplies by a constant matrix, which pruning does not know of."""

    def forward(self, x):
        return x @ torch.eye(8)


class Odd(Model):
    """A network that does not fit together without some of its channels."""

    def network(self, context):
        width = context.image_shape[2]
        return nn.Sequential(nn.Conv2d(width, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Fixed(), nn.Linear(8, 4))


def test_a_network_that_cannot_be_pruned_is_refused_with_the_layer():
    library("torch_pruning", extra="compress")
    with pytest.raises(UserError, match=r"prune: Sequential .* at layer 3 \(Fixed\): .*--prune\.how unstructured"):
        built({"model": Odd(), "prune": Prune(how="structured")})
    network = Torchvision(name="convnext_tiny").build(context())
    with pytest.raises(ValueError, match=r"not features\.1\.0\.layer_scale \(CNBlock\)"):
        prune_channels(network, Prune(how="structured"), (32, 32, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune.amount": 1.0}, "prune.amount: should be less than 1"),
        ({"prune": Prune(start_epoch=3, end_epoch=2)}, "prune: end_epoch 2 must be larger than start_epoch 3"),
        ({"prune": Prune(end_epoch=4)}, "prune: it is complete after 4 epochs, and epochs is 4"),
        ({"prune": Prune(how="structured", end_epoch=2)}, "prune: structured prunes before the first epoch"),
        ({"prune": Prune(), "freeze": "Freeze"}, "prune and freeze: pruning changes the layers"),
    ],
)
def test_what_makes_no_sense_is_refused_before_data_are_read(changes, message):
    with pytest.raises(UserError) as caught:
        check(CNN.but(changes))
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(message)


def test_layers_that_do_not_exist_are_refused_and_skipped_ones_are_whole():
    with pytest.raises(UserError, match=r"prune\.skip: no module of the model matches layer1"):
        built({"prune": Prune(skip=("layer1",))})
    with pytest.raises(UserError, match=r"prune\.skip: no convolution or linear layer is left to prune"):
        built({"prune": Prune(skip=("*",))})
    parts = built({"prune": Prune(skip=("0", "16"), scope="layer"), "epochs": 1})
    run(parts)
    assert {name: float((p == 0).float().mean()) for name, p in parts.state.model.named_parameters() if p.ndim > 1} == {
        "0.weight": 0, "3.weight": 0.5, "7.weight": 0.5, "10.weight": 0.5, "16.weight": 0}  # fmt: skip


def test_without_the_library_the_record_is_read_and_training_names_it(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_pruning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    declared = CNN.but({"prune": Prune(how="structured")})
    assert Experiment.read(declared.record()) == declared  # to predict with such a run
    with pytest.raises(UserError, match=r'prune: structured requires .* pip install -e "\.\[compress\]"'):
        built({"prune": Prune(how="structured")})


def test_a_torch_pruning_that_cannot_be_imported_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "torch_pruning.py").write_text("raise ImportError('libfoo.so.1 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_pruning"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"structured requires .*libfoo\.so\.1.* pip install -e") as caught:
        built({"prune": Prune(how="structured")})
    assert len(caught.value.lines) == 1
