"""Optimizers of torch and timm by name are theirs, and mistakes are told before data are read. What other recipes need:
decay of all parameters, and rates that follow the batch size."""

import pytest
import torch
from torch import nn

from core.common.errors import UserError
from core.launch import Launch
from core.models import SmallCNN
from core.optimizers import SAM, SGD, AdamW, Muon, OptimizerByName
from core.runs.train import train
from core.training.assemble import check
from tests.support.loop import BASE, built, digest, run, taken_up
from tests.support.optional import library

TIMM = {
    "lion": OptimizerByName(name="lion", lr=1e-3, weight_decay=0.1, arguments={"betas": (0.9, 0.98)}),
    "lamb": OptimizerByName(name="lamb", lr=1e-2, weight_decay=0.1),
    "adan": OptimizerByName(name="adan", lr=1e-2),
}


def same_steps(ours, theirs, one, other):
    for _ in range(5):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step(), theirs.step()
    torch.testing.assert_close(list(one.parameters()), list(other.parameters()))


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("part", "reference"),
    [
        (
            OptimizerByName(name="RAdam", lr=0.1, weight_decay=0.1, arguments={"decoupled_weight_decay": True}),
            lambda p: torch.optim.RAdam(p, 0.1, weight_decay=0.1, decoupled_weight_decay=True),
        ),
        (
            OptimizerByName(name="AdamW", lr=0.1, weight_decay=0.1, arguments={"amsgrad": True}),
            lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1, amsgrad=True),
        ),
        (SGD(lr=0.1, weight_decay=0.1), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.1)),
    ],
    ids=["radam", "amsgrad", "sgd"],
)
def test_with_decay_of_all_parameters_a_network_moves_as_with_torchs_own_line(part, reference):
    one, other = two_layers(), two_layers()
    same_steps(part.but({"decay_all": True}).build(one), reference(other.parameters()), one, other)


@pytest.mark.parametrize("part", TIMM.values(), ids=TIMM.keys())
def test_timms_optimizers_are_those_of_its_own_factory(part):
    optim = library("timm.optim", extra="timm")
    one, other = two_layers(), two_layers()
    theirs = optim.create_optimizer_v2(
        other, opt=part.name, lr=part.lr, weight_decay=part.weight_decay, **part.arguments
    )
    same_steps(part.build(one), theirs, one, other)


@pytest.mark.parametrize("part", TIMM.values(), ids=TIMM.keys())
def test_a_run_with_timms_optimizer_resumes_to_the_same_bits(part):
    library("timm.optim", extra="timm")
    changes = {"optimizer": part, "model": SmallCNN(widths=(4, 6)), "epochs": 2}
    whole, first, second = built(changes), built(changes), built(changes | {"seed": 0})
    run(whole)
    taken_up(first, second, 7)
    assert digest(second.state) == digest(whole.state)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "Nadam"}, "name: torch.optim has no optimizer Nadam; did you mean NAdam"),
        ({"name": "Lion"}, "name: torch.optim has no optimizer Lion; did you mean lion"),
        ({"name": "lyon"}, "name: timm.optim has no optimizer lyon; did you mean"),
        ({"name": "SparseAdam"}, "name: SparseAdam is not supported; it needs sparse gradients"),
        ({"name": "lamb", "arguments": {"beta": 1}}, "arguments: lamb has no beta; did you mean betas"),
        ({"name": "NAdam", "arguments": {"lr": 1}}, "arguments: NAdam has no lr; set optimizer.lr"),
        ({"name": "NAdam", "arguments": {"fused": True}}, "arguments: NAdam has no fused; choose one of betas, eps"),
        ({"name": "NAdam", "arguments": {"betas": (0.9, 1.5)}}, "arguments: NAdam: Invalid beta parameter"),
        ({"name": "NAdam", "arguments": {"betas": "much"}}, "arguments: NAdam: "),
        ({"name": "Rprop", "weight_decay": 0.1}, "weight_decay: Rprop has no weight decay; set it to 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_name_or_argument_is_told_before_data_are_read(optimizer, message):
    library("timm.optim", extra="timm")
    with pytest.raises(UserError) as caught:
        check(BASE.but({"optimizer": OptimizerByName(lr=1e-3, **optimizer)}))
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(f"optimizer: {message}")


def test_parameters_that_an_optimizer_does_not_take_are_told():
    with pytest.raises(UserError, match=r"optimizer: Muon: Muon only supports 2D parameters.*; use --optimizer Muon"):
        built({"optimizer": OptimizerByName(name="Muon", lr=0.1)})


def test_without_timm_one_line_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm.optim", None)
    with pytest.raises(UserError, match=r'requires the library timm\.optim, .*pip install -e "\.\[timm\]"'):
        OptimizerByName(name="lion", lr=1e-4).check()
    OptimizerByName(name="NAdam", lr=1e-4).check()


# ---- rates that follow the batch size


def test_a_rate_for_256_images_follows_the_batch_size_and_equals_the_rate_itself(home):
    scaled = BASE.but({"optimizer.lr": 1.6, "optimizer.lr_per": 256, "batch_size": 16})
    first, second = (train(one, Launch(mlflow=False)) for one in (scaled, BASE.but({"batch_size": 16})))
    assert first.metrics["test/loss"] == second.metrics["test/loss"]
    assert first.metrics["lr"] == second.metrics["lr"]
    assert built({"optimizer.lr": 1.6, "optimizer.lr_per": 256}).state.optimizer.param_groups[0]["initial_lr"] == 0.05


def test_optimizers_within_others_have_their_own_rates():
    muon = Muon(lr=0.1, rest=AdamW(lr=0.2, lr_per=4)).for_batches_of(8)
    assert (muon.lr, muon.rest.lr) == (0.1, 0.4)
    assert SAM(base=SGD(lr=0.1, lr_per=16)).for_batches_of(8).base.lr == 0.05
    assert BASE.optimizer.for_batches_of(8) is BASE.optimizer
