"""The recipe of airbench94_muon, as the script has it."""

import pytest
from torch import nn

from experiments.cifar_speedrun import EXPERIMENT
from tests.support.networks import context


def test_learning_rates_are_those_of_the_script_for_the_mean_of_the_losses():
    """The script's, for the sum over 2,000 images: 0.053 and 0.67; its logits are divided by 256."""
    network = EXPERIMENT.model.build(context(tuple("0123456789")))
    optimizer = EXPERIMENT.optimizer.build(nn.ModuleDict({"model": network}))
    names = {id(p): name for name, p in network.named_parameters()}
    filters, head, biases = optimizer.param_groups
    assert {names[id(p)] for p in filters["params"]} == {f"group{i}.conv{j}.weight" for i in (1, 2, 3) for j in (1, 2)}
    assert (filters["lr"], filters["momentum"], filters["weight_decay"]) == (0.24, 0.6, 0)
    assert [names[id(p)] for p in head["params"]] == ["head.weight"]
    assert head["lr"] * 256**2 / 2000 == pytest.approx(0.67)
    assert head["lr"] * head["weight_decay"] == pytest.approx(0.004)
    assert names[id(biases["params"][0])] == "whiten.bias"
    assert len(biases["params"]) == 7
    assert biases["lr"] / 2000 == pytest.approx(0.053)
    assert head["nesterov"]
    assert head["momentum"] == biases["momentum"] == 0.85
