"""A network that is looked at is afterwards as it was."""

import pytest
import torch
from torch import nn

from core.models.inspection import evaluation_mode, hooked


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Dropout(), nn.Identity()))


def test_each_module_gets_its_own_mode_back():
    model, other = network(), nn.Linear(1, 1)
    model[1].eval()
    with evaluation_mode(model, len, other):
        assert not any(module.training for module in (*model.modules(), *other.modules()))
    with pytest.raises(RuntimeError), evaluation_mode(model):
        model(torch.zeros(1, 7))
    assert [module.training for module in model.modules()] == [True, True, False, False, False]
    assert other.training


def test_hooks_see_every_output_and_are_gone_afterwards():
    model, seen = network().eval(), []

    def note(name, module, output):
        seen.append((name, type(module).__name__, tuple(output.shape)))
        return output + 1 if name == "1.1" else None

    images = torch.zeros(4, 2)
    plain = model(images)
    with hooked([("0", model[0]), ("1.1", model[1][1])], note):
        assert torch.equal(model(images), plain + 1)
    assert seen == [("0", "Linear", (4, 3)), ("1.1", "Identity", (4, 3))]
    assert torch.equal(model(images), plain)
    assert len(seen) == 2
