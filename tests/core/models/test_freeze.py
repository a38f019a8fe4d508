"""Layers that stand still: to the bit, for as long as is declared, whatever else is, and over a kill."""

import itertools

import pytest
import torch
from torch import nn

from core.common.errors import UserError
from core.launch import Launch
from core.models import SmallCNN, Torchvision
from core.models.freeze import Freeze
from core.models.transfer import head_of
from core.optimizers import SAM, SGD, AdamW, Muon
from core.optimizers.averaging import Ema, Swa
from core.runs.train import train
from core.training.assemble import assemble, prepare
from core.training.feature_cache import only_the_head
from core.training.loop import fit
from core.training.smoke import smoked
from tests.support import kills
from tests.support.kills import Moment, Setup
from tests.support.loop import BASE, Tiny, taken_up
from tests.support.networks import context

CNN = BASE.but({"model": SmallCNN(widths=(4, 8), dropout=0.2), "epochs": 3})
STILL = tuple(f"{i}." for i in range(4))  # the first convolution and its norm, with `up_to` 3


def built(changes):
    return assemble(CNN.but(changes), Tiny().load(), Launch(device="cpu"))


def state_at_epochs(parts):
    """The network's state, and the judged one's, before training and after each epoch."""

    def copied(network):
        return {name: tensor.clone() for name, tensor in network.state_dict().items()}

    yield copied(parts.state.model), copied(parts.state.evaluated)
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        if event.validation is not None:
            yield copied(parts.state.model), copied(parts.state.evaluated)


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": AdamW(weight_decay=0.1)},
        {"optimizer": SAM(base=SGD(lr=0.1, weight_decay=0.1))},
        {"optimizer": Muon(weight_decay=0.1)},
        {"ema": Ema(decay=0.5)},
        {"swa": Swa(start=0.0)},
        {"model.grad_checkpointing": True, "grad_accum_steps": 2, "clip_grad_norm": 0.1, "precision": "bf16"},
    ],
    ids=["sgd", "adamw", "sam", "muon", "ema", "swa", "all_else"],
)
def test_what_stands_still_stays_to_the_bit_statistics_too_until_it_is_let_go(changes):
    parts = built({"freeze": Freeze(up_to="3", unfreeze_epoch=2)} | changes)
    states = list(state_at_epochs(parts))
    for which in (0, 1):
        assert not any(name.startswith(STILL) for name in changed(states[0][which], states[2][which]))
        moved = changed(states[0][which], states[2][which])
        assert {"4.running_mean", "4.weight", "7.weight", "16.weight"} <= moved
    moved = changed(states[2][0], states[3][0])
    assert {"0.weight", "1.weight", "1.running_mean", "3.weight"} <= moved


def test_the_head_alone_moves_where_no_layer_is_named():
    parts = built({"freeze": Freeze()})
    first, *_, last = [state for state, _ in state_at_epochs(parts)]
    head = head_of(parts.state.model)
    assert changed(first, last) == {f"{head}.weight", f"{head}.bias"}
    assert any(isinstance(m, nn.Dropout) and m.training for m in parts.state.model.modules())


@pytest.mark.parametrize("changes", [{}, {"optimizer": AdamW(weight_decay=0.1)}, {"grad_accum_steps": 2}])
def test_layers_move_until_from_epoch_and_then_stand_still_to_the_bit(changes):
    parts = built({"freeze": Freeze(up_to="3", from_epoch=1, unfreeze_epoch=2)} | changes)
    states = [state for state, _ in state_at_epochs(parts)]
    moved = [{name for name in changed(a, b) if name.startswith(STILL)} for a, b in itertools.pairwise(states)]
    assert {"0.weight", "1.weight", "1.running_mean"} <= moved[0]
    assert not moved[1]
    assert {"0.weight", "1.weight", "1.running_mean"} <= moved[2]


def test_a_head_that_is_trained_alone_later_sees_layers_that_move_before():
    """Its inputs are computed once only if no layer before it ever moves."""
    assert only_the_head(CNN.but({"freeze": Freeze(), "augment": ()}))
    assert not only_the_head(CNN.but({"freeze": Freeze(from_epoch=1), "augment": ()}))


def test_an_unfreeze_epoch_that_is_not_later_is_refused():
    with pytest.raises(ValueError, match="unfreeze_epoch 2 must be greater than from_epoch 2"):
        Freeze(from_epoch=2, unfreeze_epoch=2).check()


def test_let_go_it_trains_as_one_that_never_stood_still_with_an_optimizer_of_its_age():
    """Adam's first step after the thaw is corrected as a first step: each weight moves by the rate."""
    parts = built({"freeze": Freeze(up_to="3", unfreeze_epoch=1), "optimizer": AdamW(lr=1e-3), "schedule": "Constant"})
    before = parts.state.model[0].weight.detach().clone()
    steps = len(parts.train.plan)
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        if event.step == steps + 1:
            break
    moved = (parts.state.model[0].weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=0.05, atol=0)


@pytest.mark.parametrize("leave", [3, 5, 7])
@pytest.mark.parametrize(
    "changes",
    [{"optimizer": AdamW()}, {"ema": Ema(decay=0.5)}, {"swa": Swa(start=0.0)}, {"freeze.from_epoch": 1}],
)
def test_left_and_taken_up_around_the_thaw_it_ends_in_the_same_bits(changes, leave):
    thaw = 2 if "freeze.from_epoch" in changes else 1
    declared = {"freeze": Freeze(up_to="3", unfreeze_epoch=thaw)} | changes
    whole, first, second = built(declared), built(declared), built(declared)
    *_, (expected, judged) = state_at_epochs(whole)
    taken_up(first, second, leave)
    assert not changed(expected, second.state.model.state_dict())
    assert not changed(judged, second.state.evaluated.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("step", [9, 20])
def test_a_kill_before_and_after_the_thaw_changes_nothing(step, forge, tmp_path):
    declared = (
        "--epochs",
        "3",
        "--limit",
        "200",
        "--freeze.up_to",
        "7",
        "--freeze.unfreeze_epoch",
        "2",
        "--ema.decay",
        "0.9",
    )
    declared += ("--batch_size", "16", "--optimizer", "AdamW", "--optimizer.lr", "0.002")
    expected = kills.undisturbed(forge.start, declared, tmp_path / "whole")
    setup = Setup(declared, ("--workers", "0", "--checkpoint_every", "4"))
    assert kills.finish_killed(forge.start, setup, tmp_path / "killed", iter([Moment(step=step)]), expected)


@pytest.mark.parametrize(
    ("up_to", "message"),
    [
        ("layr3", "no module of the model is named layr3; did you mean layer3"),
        ("blocks.*", r"no module of the model is named blocks\.\*; module names: conv1, bn1"),
        ("fc", "fc freezes all parameters of the model"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(up_to, message):
    with pytest.raises(ValueError, match=f"freeze.up_to: .*{message}"):
        Freeze(up_to=up_to).of(Torchvision(name="resnet18").build(context()))
    if up_to == "layr3":
        with pytest.raises(UserError, match=r"freeze\.up_to: no module of the model is named 99"):
            built({"freeze": Freeze(up_to="99")})


def test_up_to_a_layer_means_all_that_is_defined_before_it():
    found = Freeze(up_to="layer2").of(Torchvision(name="resnet18").build(context()))
    assert {name.partition(".")[0] for name in found.parameters} == {"conv1", "bn1", "layer1", "layer2"}
    assert {"bn1", "layer2", "layer2.1.bn2"} <= set(found.modules)
    assert not any(name.startswith("layer3") for name in found.modules)


@pytest.mark.slow
def test_positions_and_class_token_of_a_transformer_stand_still_with_its_first_blocks():
    network = Torchvision(name="vit_b_32").build(context(shape=(32, 32, 3)))
    found = Freeze(up_to="encoder.layers.encoder_layer_3").of(network)
    assert {"class_token", "conv_proj.weight", "encoder.pos_embedding"} <= set(found.parameters)
    assert not any("encoder_layer_4" in name for name in found.parameters)


def test_among_several_processes_gradients_are_dropped_instead(monkeypatch):
    """DistributedDataParallel waits for a gradient of every parameter that it has seen."""
    alone, among = (built({"freeze": Freeze(up_to="3", unfreeze_epoch=1)}) for _ in range(2))
    *_, (expected, _) = state_at_epochs(alone)
    monkeypatch.setattr("core.models.freeze._single_process", lambda: False)
    first, *_, (last, _) = state_at_epochs(among)
    assert among.state.model[0].weight.requires_grad
    assert not changed(expected, last)
    assert changed(first[0], last)


@pytest.mark.slow
def test_diagnosis_looks_at_the_layers_that_move(home):
    run = train(
        CNN.but({"freeze": Freeze(up_to="3", unfreeze_epoch=1)}), Launch(mlflow=False, threads=1, diagnose=True)
    )
    assert set(run.history["layers/16.update_ratio"]) == {1, 2, 3}
    assert set(run.history["layers/0.update_ratio"]) == set(run.history["layers/0.grad_norm"]) == {2, 3}


def moving(parts):
    """Names of what changes in each epoch, parameters and statistics."""
    states = [state for state, _ in state_at_epochs(parts)]
    return [changed(before, after) for before, after in itertools.pairwise(states)]


STAGES = {"freeze": Freeze(stages=("0:16", "1:8", "2:*")), "epochs": 3}


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": AdamW(weight_decay=0.1)}, {"swa": Swa(start=0.0)}, {"grad_accum_steps": 2, "precision": "bf16"}],
    ids=["sgd", "adamw", "swa", "micro"],
)
def test_stages_unfreeze_group_by_group_to_the_bit(changes):
    parts = built(STAGES | changes)
    own = {name for name in parts.state.model.state_dict() if not name.endswith("num_batches_tracked")}
    head, norm = ({name for name in own if name.startswith(module)} for module in ("16.", "8."))
    first, second, third = moving(parts)
    assert first == head
    assert second - {"8.num_batches_tracked"} == head | norm
    assert own <= third


@pytest.mark.parametrize("leave", [3, 6, 12])
@pytest.mark.parametrize("changes", [{"optimizer": AdamW()}, {"ema": Ema(decay=0.5)}], ids=["adamw", "ema"])
def test_stages_left_and_taken_up_end_in_the_same_bits(changes, leave):
    whole, first, second = (built(STAGES | changes) for _ in range(3))
    *_, (expected, judged) = state_at_epochs(whole)
    taken_up(first, second, leave)
    assert not changed(expected, second.state.model.state_dict())
    assert not changed(judged, second.state.evaluated.state_dict())


def test_layers_unfrozen_later_have_the_rate_of_their_group_and_a_fresh_state():
    """Adam's first step of a stage moves each weight by the rate, which layer_decay lowers from the head backwards."""
    optimizer = AdamW(lr=1e-3, weight_decay=0.0, layer_decay=0.5)
    parts = built({"freeze": Freeze(stages=("0:16", "1:*")), "optimizer": optimizer, "schedule": "Constant"})
    before = {name: p.detach().clone() for name, p in parts.state.model.named_parameters()}
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        if event.step == len(parts.train.plan) + 1:
            break
    rates = {id(p): group["lr"] for group in parts.state.optimizer.param_groups for p in group["params"]}
    first = parts.state.model[0].weight
    assert rates[id(first)] < 1e-3 / 2
    moved = (first.detach() - before["0.weight"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, rates[id(first)]), rtol=0.05, atol=0)


def test_a_stage_names_a_module_with_all_within_it_and_what_no_stage_names_stays_frozen():
    network = Torchvision(name="resnet18").build(context())
    found = Freeze(stages=("0:fc", "2:layer4.1.*", "5:layer4")).of(network)
    by_epoch = {layers.unfreeze_epoch: layers for layers in found.groups}
    assert set(by_epoch) == {2, 5, None}
    assert {name.rpartition(".")[0] for name in by_epoch[2].parameters} <= set(by_epoch[2].modules)
    assert all(name.startswith("layer4.1.") for name in by_epoch[2].parameters)
    assert all(name.startswith("layer4.0.") for name in by_epoch[5].parameters)
    assert {name.partition(".")[0] for name in by_epoch[None].parameters} == {
        "conv1",
        "bn1",
        "layer1",
        "layer2",
        "layer3",
    }
    assert "layer4" in by_epoch[2].modules, "a module is in training mode as soon as one within it is trained"
    assert not any("" in layers.modules for layers in found.groups), "the network itself"


def test_stages_are_written_on_the_command_line_and_reduced_for_a_smoke_test():
    declared = CNN.but({"freeze.stages": "0:fc, 3:layer4,6:*", "epochs": 9})
    assert declared.freeze == Freeze(stages=("0:fc", "3:layer4", "6:*"))
    assert smoked(declared).freeze == Freeze(stages=("0:fc",))
    assert smoked(CNN.but({"freeze": Freeze(unfreeze_epoch=1)})).freeze == Freeze(unfreeze_epoch=1)
    assert not only_the_head(CNN.but({"freeze.stages": "0:16", "augment": ()}))


class Unread(Tiny):
    """Data that must not be read."""

    def load(self, root=None):
        raise AssertionError("the data were read")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze.stages": "0:"}, r"^freeze\.stages: should be EPOCH:MODULE"),
        ({"freeze.stages": "first:16"}, r"^freeze\.stages: should be EPOCH:MODULE"),
        ({"freeze.stages": "0:16,1:layr4"}, r"^freeze\.stages: no module of the model matches layr4"),
        ({"freeze.stages": "1:16"}, r"^freeze: stages: nothing would be trained before epoch 1; begin with 0:MODULE"),
        ({"freeze.stages": "0:16,2:*,1:8"}, r"^freeze: stages: put them in the order of their epochs"),
        ({"freeze.stages": "0:16,3:*"}, r"^freeze\.stages: 3:\* never begins, because epochs is 3"),
        ({"freeze.stages": "0:16", "freeze.up_to": "3"}, r"^freeze: stages: leave out up_to"),
    ],
)
def test_stages_that_cannot_be_are_refused_before_data_are_read(changes, message):
    with pytest.raises(UserError, match=message):
        prepare(CNN.but({"data": Unread()} | changes), Launch(device="cpu"))


def test_a_stage_that_adds_nothing_is_refused():
    with pytest.raises(UserError, match=r"freeze\.stages: the stage of epoch 2 trains nothing that is not trained"):
        built({"freeze.stages": "0:16,1:*,2:8"})


def test_stages_among_several_processes_drop_gradients(monkeypatch):
    alone, among = built(STAGES), built(STAGES)
    *_, (expected, _) = state_at_epochs(alone)
    monkeypatch.setattr("core.models.freeze._single_process", lambda: False)
    *_, (last, _) = state_at_epochs(among)
    assert not changed(expected, last)
