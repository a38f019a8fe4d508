"""The loss that this experiment brings: margins by the number of a class's images."""

import pytest
import torch
import torch.nn.functional as F

from core.common.errors import UserError
from core.context import Context
from experiments.cifar_longtail import EXPERIMENT
from experiments.cifar_longtail.loss import MarginByClass

COUNTS = (50, 20, 10, 6, 4)
N, C = 16, len(COUNTS)
LOGITS = torch.randn(N, C, generator=torch.Generator().manual_seed(0)) * 3
HARD = torch.arange(N) % C
SOFT = torch.softmax(torch.randn(N, C, generator=torch.Generator().manual_seed(1)), dim=1)
ONE_HOT = F.one_hot(HARD, C).float()


def built(margin, counts=COUNTS):
    context = Context(tuple("abcde"), counts, (4, 4, 1), sum(counts), 2, 3, 10, torch.device("cpu"))
    return MarginByClass(margin=margin).build(context)


def test_margins_by_class_are_the_papers():
    """Cao et al. 2019, equations 11 and 13: C / n^(1/4), C such that the largest is the declared one."""
    largest = 2.0
    scale = largest * min(COUNTS) ** 0.25
    margins = torch.tensor([scale / n**0.25 for n in COUNTS])
    assert margins.max() == pytest.approx(largest)
    loss = built(largest)
    torch.testing.assert_close(loss.numbers, margins)
    lowered = (LOGITS - margins * ONE_HOT).exp()
    expected = -torch.log(lowered[torch.arange(N), HARD] / lowered.sum(dim=1))
    torch.testing.assert_close(loss(LOGITS, HARD), expected)
    log_p = (LOGITS - margins * SOFT).log_softmax(dim=1)  # a mixed target: each class's margin by its share
    torch.testing.assert_close(loss(LOGITS, SOFT), -(SOFT * log_p).sum(dim=1))
    torch.testing.assert_close(built(0.0)(LOGITS, SOFT), F.cross_entropy(LOGITS, SOFT, reduction="none"))


@pytest.mark.parametrize("margin", [1.0, 5.0])
@pytest.mark.parametrize("targets", [HARD, SOFT.double()], ids=["hard", "soft"])
def test_gradients_are_those_of_the_values(margin, targets):
    double = LOGITS[:6].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: built(margin)(logits, targets[:6]), (double,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_values_and_gradients_stay_finite_in_half_precision_at_extreme_logits(soft, dtype):
    extreme = torch.tensor([[1e4, -1e4, 0, 0, 0], [1e4] * 5, [-1e4] * 5], dtype=dtype, requires_grad=True)
    targets = torch.arange(3)
    value = built(1.0)(extreme, F.one_hot(targets, C).float() * 0.8 + 0.04 if soft else targets)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(extreme.grad).all()


def test_a_class_without_training_images_gives_no_infinity():
    assert torch.isfinite(built(1.0, (50, 0, 10, 6, 4))(LOGITS, HARD)).all()


def test_a_negative_margin_is_refused():
    with pytest.raises(UserError, match=r"^loss\.margin: "):
        EXPERIMENT.but({"loss": "MarginByClass", "loss.margin": -1})
