"""Losses, each against torch's own or its paper's formula computed another way; and what every loss must bear."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from core import losses as L
from core.common.errors import UserError
from core.context import Context
from core.declare.tree import choices
from core.launch import Launch
from core.losses import Loss
from core.models import MLP
from core.runs.train import train
from core.runs.trained import load
from core.training.assemble import assemble
from experiments.tiny import EXPERIMENT

CPU = torch.device("cpu")
COUNTS = (50, 20, 10, 6, 4)
CONTEXT = Context(tuple("abcde"), COUNTS, (4, 4, 1), sum(COUNTS), 2, 3, 10, CPU)
N, C = 16, 5
LOGITS = torch.randn(N, C, generator=torch.Generator().manual_seed(0)) * 3
HARD = torch.arange(N) % C
SOFT = torch.softmax(torch.randn(N, C, generator=torch.Generator().manual_seed(1)), dim=1)
ONE_HOT = F.one_hot(HARD, C).float()
P = LOGITS.softmax(dim=1)
P_TRUE = P[torch.arange(N), HARD]

NEEDED = {  # what a loss needs to be one
    "Sum": {"losses": ("CrossEntropy", "GeneralizedCrossEntropy", "ArcFace"), "weights": (1, 0.5, 0)},
    "TorchLoss": {"name": "CrossEntropyLoss", "arguments": {"reduction": "none"}},
}
# every loss of a single task that there is, as it comes; a new one is in here by itself
OURS = [
    kind(**NEEDED.get(name, {}))
    for name, kind in choices(Loss).items()
    if kind.__module__.startswith("core.losses.") and not kind.several_tasks
]
EVERY = [
    *OURS,
    L.CrossEntropy(label_smoothing=0.1),
    L.CrossEntropy(weights="balanced"),
    L.CrossEntropy(weights=(1, 0, 2, 1, 0.5)),
    L.CrossEntropy(weights=(1, 0.3, 2, 1, 0.5), label_smoothing=0.2),
    L.FocalLoss(gamma=0.0),
    L.FocalLoss(gamma=0.5),
    L.PolyLoss(epsilon=-1.0),
    L.GeneralizedCrossEntropy(q=1.0),
    L.GeneralizedCrossEntropy(q=0.01),
    L.BinaryCrossEntropy(over_classes="mean"),
    L.BinaryCrossEntropy(threshold=0.2),
    L.ClassBalanced(loss=L.GeneralizedCrossEntropy()),
    L.ClassBalanced(loss=L.LogitAdjusted()),
    L.ClassBalanced(beta=0.0),
    L.ArcFace(scale=8.0, margin=1.0),
    L.ClassBalanced(loss=L.TorchLoss(name="CrossEntropyLoss", arguments={"reduction": "none"})),
]
every = pytest.mark.parametrize("loss", [loss.build(CONTEXT) for loss in EVERY], ids=[repr(loss) for loss in EVERY])
soft_and_hard = pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])


def test_all_of_the_package_is_here():
    assert {type(loss).__name__ for loss in OURS} == set(L.__all__) - {"Loss", "BuiltLoss", "TaskLosses", "full"}


@every
@soft_and_hard
def test_gradients_are_those_of_the_values(loss, targets):
    double = LOGITS[:6].double().requires_grad_()
    wide = targets[:6].double() if targets.is_floating_point() else targets[:6]
    assert torch.autograd.gradcheck(lambda logits: loss(logits, wide), (double,))


@every
@soft_and_hard
def test_one_value_for_each_example_that_depends_on_no_other(loss, targets):
    values = loss(LOGITS, targets)
    assert values.shape == (N,)
    assert values.dtype == torch.float32
    alone = torch.cat([loss(LOGITS[i : i + 1], targets[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(values, alone)


@every
def test_a_one_hot_target_is_the_class(loss):
    torch.testing.assert_close(loss(LOGITS, ONE_HOT), loss(LOGITS, HARD))


@every
@pytest.mark.parametrize("true", range(3))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_values_and_gradients_stay_finite_in_half_precision_at_extreme_logits(loss, true, soft, dtype):
    extreme = torch.tensor([[1e4, -1e4, 0, 0, 0], [1e4] * 5, [-1e4] * 5], dtype=dtype, requires_grad=True)
    targets = torch.full((3,), true)
    value = loss(extreme, F.one_hot(targets, C).float() * 0.8 + 0.04 if soft else targets)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(extreme.grad).all()


@every
@soft_and_hard
def test_half_precision_logits_are_computed_with_in_full(loss, targets):
    half = LOGITS.bfloat16()
    torch.testing.assert_close(loss(half, targets), loss(half.float(), targets))


@every
def test_under_autocast_the_values_are_those_of_full_precision(loss):
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(LOGITS, SOFT), loss(LOGITS.double(), SOFT).float(), rtol=1e-4, atol=1e-4)


@every
def test_a_step_down_its_gradient_lowers_it_and_the_true_class_gains(loss):
    logits = torch.zeros(C, C, requires_grad=True)
    targets = torch.arange(C)
    loss(logits, targets).sum().backward()
    after = loss(logits - 1e-2 * logits.grad, targets)
    weighted = logits.grad.abs().sum(dim=1) > 0  # a class of weight 0 asks for nothing
    assert weighted.sum() >= 4
    assert (after < loss(logits, targets))[weighted].all()
    assert (logits.grad.argmin(dim=1) == targets)[weighted].all()


@st.composite
def batches(draw):
    n, classes = draw(st.integers(1, 6)), draw(st.integers(2, 7))
    values = st.floats(-30, 30, width=32)
    logits = draw(st.lists(st.lists(values, min_size=classes, max_size=classes), min_size=n, max_size=n))
    return torch.tensor(logits), torch.tensor(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))


@given(batches())
def test_the_families_meet_in_cross_entropy(batch):
    logits, targets = batch
    expected = F.cross_entropy(logits, targets, reduction="none")
    same = [
        L.CrossEntropy(),
        L.FocalLoss(gamma=0.0),
        L.PolyLoss(epsilon=0.0),
        L.SymmetricCrossEntropy(alpha=1.0, beta=0.0),
        L.ArcFace(margin=0.0, scale=64.0),
    ]
    for loss in same:
        torch.testing.assert_close(loss(logits, targets), expected, rtol=1e-4, atol=1e-4)
    log_p = logits.log_softmax(dim=1)
    torch.testing.assert_close(L.NegativeLogLikelihood()(log_p, targets), expected)
    # 1 - p^q over q lies between -log p and its second-order lower bound
    q = 1e-3
    small = L.GeneralizedCrossEntropy(q=q)(logits.double(), targets)
    assert (small <= expected.double() * (1 + 1e-5) + 1e-5).all()
    assert (small >= expected - q * expected**2 / 2 - 1e-4).all()


@pytest.mark.parametrize(("weights", "smoothing"), [((1.0, 2.0, 0.0, 0.5, 3.0), 0.0), (None, 0.2)])
@soft_and_hard
def test_cross_entropy_is_torchs_with_weights_or_with_smoothing(weights, smoothing, targets):
    loss = L.CrossEntropy(label_smoothing=smoothing, weights=weights).build(CONTEXT)
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(LOGITS, targets, weight=weight, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, targets), expected)


@soft_and_hard
def test_a_weight_is_that_of_an_example_with_its_smoothing(targets):
    weights = (1.0, 2.0, 0.0, 0.5, 3.0)
    loss = L.CrossEntropy(label_smoothing=0.2, weights=weights).build(CONTEXT)
    smoothed = L.CrossEntropy(label_smoothing=0.2)
    of_class = torch.stack([smoothed(LOGITS, torch.full((N,), label)) for label in range(C)], dim=1)
    share = ONE_HOT if targets is HARD else targets
    torch.testing.assert_close(loss(LOGITS, targets), (share * torch.tensor(weights) * of_class).sum(dim=1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_balanced_weights_prefer_no_class_for_want_of_evidence(smoothing):
    """A network that sees only the frequencies of the classes is best off with equal logits, however long the tail."""
    labels = torch.arange(C).repeat_interleave(torch.tensor(COUNTS))
    loss = L.CrossEntropy(weights="balanced", label_smoothing=smoothing).build(CONTEXT)
    bias = torch.zeros(C, requires_grad=True)
    loss(bias.expand(len(labels), C), labels).mean().backward()
    torch.testing.assert_close(bias.grad, torch.zeros(C), atol=1e-6, rtol=0)


def test_balanced_weights_are_scikit_learns_and_1_on_average():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat(np.arange(C), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(C), y=labels)
    loss = L.CrossEntropy(weights="balanced").build(CONTEXT)
    np.testing.assert_allclose(loss.numbers, expected, rtol=1e-6)
    assert loss.numbers[labels].mean() == pytest.approx(1.0)


def test_negative_log_likelihood_is_torchs():
    log_p = LOGITS.log_softmax(dim=1)
    torch.testing.assert_close(L.NegativeLogLikelihood()(log_p, HARD), F.nll_loss(log_p, HARD, reduction="none"))
    certain = torch.tensor([[0.0, -math.inf]])
    assert L.NegativeLogLikelihood()(certain, torch.tensor([[1.0, 0.0]])).item() == 0


def test_focal_is_the_papers_formula_and_its_expectation():
    torch.testing.assert_close(L.FocalLoss(gamma=2.0)(LOGITS, HARD), -((1 - P_TRUE) ** 2) * P_TRUE.log())
    torch.testing.assert_close(L.FocalLoss(gamma=1.5)(LOGITS, SOFT), -(SOFT * (1 - P) ** 1.5 * P.log()).sum(1))


def test_poly_1_is_the_series_with_another_first_coefficient():
    logits, targets = LOGITS.double() / 9, HARD
    missing = 1 - logits.softmax(dim=1)[torch.arange(N), targets]
    series = (1 + 0.7) * missing + sum(missing**j / j for j in range(2, 400))
    torch.testing.assert_close(L.PolyLoss(epsilon=0.7)(logits, targets), series)


def test_symmetric_cross_entropy_is_the_papers_formula():
    reverse = -sum(P[:, k] * torch.where(k == HARD, 0.0, -6.0) for k in range(C))
    expected = 0.3 * -P_TRUE.log() + 0.7 * reverse
    torch.testing.assert_close(L.SymmetricCrossEntropy(alpha=0.3, beta=0.7, log_zero=-6)(LOGITS, HARD), expected)


def test_generalized_cross_entropy_is_the_papers_formula_and_its_gradient_autograds():
    loss = L.GeneralizedCrossEntropy(q=0.7)
    torch.testing.assert_close(loss(LOGITS, HARD), (1 - P_TRUE**0.7) / 0.7)
    torch.testing.assert_close(L.GeneralizedCrossEntropy(q=1.0)(LOGITS, HARD), 1 - P_TRUE)
    ours, theirs = (LOGITS.clone().requires_grad_() for _ in range(2))
    upstream = torch.linspace(-1, 2, N)
    loss(ours, SOFT).backward(upstream)
    (SOFT * (1 - theirs.softmax(dim=1) ** 0.7) / 0.7).sum(dim=1).backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_binary_cross_entropy_is_torchs_and_takes_several_labels():
    several = (torch.rand(N, C, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    for targets, wanted in ((HARD, ONE_HOT), (SOFT, SOFT), (several, several)):
        each = F.binary_cross_entropy_with_logits(LOGITS, wanted, reduction="none")
        torch.testing.assert_close(L.BinaryCrossEntropy()(LOGITS, targets), each.sum(dim=1))
        torch.testing.assert_close(L.BinaryCrossEntropy(over_classes="mean")(LOGITS, targets), each.mean(dim=1))
    each = F.binary_cross_entropy_with_logits(LOGITS, (SOFT > 0.3).float(), reduction="none")
    torch.testing.assert_close(L.BinaryCrossEntropy(threshold=0.3)(LOGITS, SOFT), each.sum(dim=1))


def test_mean_squared_error_is_torchs():
    for targets, wanted in ((HARD, ONE_HOT), (SOFT, SOFT)):
        expected = F.mse_loss(LOGITS, wanted, reduction="none").mean(dim=1)
        torch.testing.assert_close(L.MeanSquaredError()(LOGITS, targets), expected)


def test_logit_adjusted_is_the_papers_pairwise_form():
    """Menon et al.: log(1 + sum over other classes y' of (prior_y' / prior_y)^tau exp(f_y' - f_y))."""
    prior = torch.tensor(COUNTS) / sum(COUNTS)
    ratio = (prior[None, :] / prior[HARD][:, None]) ** 0.8 * (LOGITS - LOGITS.gather(1, HARD[:, None])).exp()
    expected = torch.log(1 + (ratio * (1 - ONE_HOT)).sum(dim=1))
    torch.testing.assert_close(L.LogitAdjusted(tau=0.8).build(CONTEXT)(LOGITS, HARD), expected)


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.9999])
def test_class_balanced_weighs_by_the_effective_number_and_adds_up_to_the_classes(beta):
    effective = np.array([sum(beta**j for j in range(n)) for n in COUNTS])  # the paper's, before it is summed
    weights = torch.tensor(C / effective / (1 / effective).sum(), dtype=torch.float32)
    focal = L.FocalLoss(gamma=1.0)
    loss = L.ClassBalanced(beta=beta, loss=focal).build(CONTEXT)
    torch.testing.assert_close(loss(LOGITS, HARD), weights[HARD] * focal(LOGITS, HARD))
    torch.testing.assert_close(loss(LOGITS, SOFT), (SOFT * weights).sum(dim=1) * focal(LOGITS, SOFT))


def test_a_class_without_training_images_gives_no_infinity():
    context = Context(tuple("abcde"), (50, 0, 10, 6, 4), (4, 4, 1), 70, 2, 3, 10, CPU)
    for loss in (L.CrossEntropy(weights="balanced"), L.LogitAdjusted(), L.ClassBalanced()):
        assert torch.isfinite(loss.build(context)(LOGITS, HARD)).all()


def test_arcface_widens_the_true_angle():
    loss = L.ArcFace(embedding_dim=3, scale=16.0, margin=0.4)
    network = loss.network(MLP(hidden=()), CONTEXT)
    images = torch.randn(N, 1, 4, 4)
    logits = network(images)
    embedding, weight = network.body(images).double(), network.head.weight.double()
    assert embedding.shape == (N, 3)
    cosine = torch.einsum("nd,cd->nc", embedding, weight) / (
        embedding.norm(dim=1)[:, None] * weight.norm(dim=1)[None, :]
    )
    torch.testing.assert_close(logits.double(), 16 * cosine, rtol=1e-4, atol=1e-4)
    angle = cosine.clamp(-1, 1).acos()
    wide = torch.where(ONE_HOT.bool() & (angle + 0.4 < math.pi), torch.cos(angle + 0.4), cosine)
    known = (angle.gather(1, HARD[:, None]) + 0.4 < math.pi).squeeze(1)
    assert known.sum() > 5
    expected = F.cross_entropy(16 * wide, HARD, reduction="none")
    torch.testing.assert_close(loss(logits, HARD).double()[known], expected[known], rtol=1e-3, atol=1e-3)


def test_arcfaces_margin_never_turns_back():
    """The loss falls all the way as the true class's angle closes, also beyond pi - margin."""
    loss = L.ArcFace(scale=16.0, margin=0.5)
    cosine = torch.cos(torch.linspace(math.pi, 0, 200, dtype=torch.float64))
    values = loss(16 * torch.stack([cosine, torch.zeros(200)], dim=1), torch.zeros(200, dtype=torch.int64))
    assert (values.diff() < 0).all()
    assert values.diff().abs().max() < 0.5, "a jump"


def test_arcfaces_gradient_is_finite_where_the_angle_is_0_or_pi():
    logits = torch.tensor([[64.0, 64.0], [-64.0, 64.0]], requires_grad=True)
    L.ArcFace(scale=64.0)(logits, torch.tensor([0, 0])).sum().backward()
    assert torch.isfinite(logits.grad).all()


SHORT = EXPERIMENT.but({"epochs": 1, "limit": 200, "model": MLP(hidden=(16,))})


def test_arcfaces_weights_are_trained_averaged_saved_tested_and_loaded_with_the_network(home):
    arcface = L.ArcFace(embedding_dim=8, scale=16.0)
    parts = assemble(SHORT.but({"loss": arcface, "ema.decay": 0.5}), SHORT.data.load(None), Launch(device="cpu"))
    trained = {id(p) for group in parts.state.optimizer.param_groups for p in group["params"]}
    assert id(parts.state.model.head.weight) in trained
    assert "head.weight" in dict(parts.state.evaluated.named_parameters())
    run = train(SHORT.but({"loss": L.ClassBalanced(loss=arcface), "epochs": 6}), Launch(mlflow=False, threads=1))
    assert load(run.folder).model.head.weight.shape == (10, 8)
    test = SHORT.data.load(None).limited(200).test
    probabilities = load(run.folder).predict(test.pixels[test.rows])
    assert probabilities.shape == (len(test), 10)
    assert (probabilities.argmax(1) == test.targets).mean() == pytest.approx(run.metrics["test/accuracy"])
    assert run.metrics["test/accuracy"] > 0.3


class Learned(Loss):
    """A loss with a trained temperature."""

    def build(self, context):
        return _Learned()

    def __call__(self, logits, targets):
        raise AssertionError


class _Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.heat = nn.Parameter(torch.ones(1))

    def forward(self, logits, targets):
        return F.cross_entropy(logits / self.heat, targets, reduction="none")


def test_a_weighted_loss_with_weights_of_its_own_is_part_of_the_state():
    changes = {"loss": L.ClassBalanced(loss=Learned())}
    parts = assemble(SHORT.but(changes), SHORT.data.load(None), Launch(device="cpu"))
    assert list(parts.state.trained["loss"].state_dict()) == ["loss.heat"]
    trained = {id(p) for group in parts.state.optimizer.param_groups for p in group["params"]}
    assert id(parts.setup.loss.loss.heat) in trained


def test_numbers_move_with_the_module_and_are_in_no_checkpoint():
    loss = L.LogitAdjusted().build(CONTEXT)
    assert not loss.state_dict()
    assert loss.to("meta").numbers.device.type == "meta"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": L.CrossEntropy(weights=(1, 2, 3))}, r"^loss\.weights: got 3 weights for 10 classes"),
        ({"loss": L.ClassBalanced(loss=L.CrossEntropy(weights=(1,)))}, r"^loss\.weights: got 1 weights for 10 classes"),
    ],
    ids=["weights", "nested"],
)
def test_what_does_not_fit_the_classes_is_a_mistake(changes, message):
    with pytest.raises(UserError, match=message):
        assemble(SHORT.but(changes), SHORT.data.load(None), Launch(device="cpu"))


@pytest.mark.parametrize(
    ("loss", "field", "value"),
    [
        ("CrossEntropy", "label_smoothing", 1.0),
        ("CrossEntropy", "weights", "equal"),
        ("CrossEntropy", "weights", (1, -1)),
        ("CrossEntropy", "weights", (0, 0)),
        ("CrossEntropy", "weights", (1, math.inf)),
        ("CrossEntropy", "weights", (1, math.nan)),
        ("CrossEntropy", "weights", ()),
        ("FocalLoss", "gamma", math.inf),
        ("FocalLoss", "gamma", -1),
        ("PolyLoss", "epsilon", -1.1),
        ("SymmetricCrossEntropy", "alpha", -1),
        ("SymmetricCrossEntropy", "beta", -1),
        ("SymmetricCrossEntropy", "log_zero", 0),
        ("GeneralizedCrossEntropy", "q", 0),
        ("GeneralizedCrossEntropy", "q", 1.1),
        ("BinaryCrossEntropy", "over_classes", "max"),
        ("BinaryCrossEntropy", "threshold", 1),
        ("LogitAdjusted", "tau", -0.1),
        ("ClassBalanced", "beta", 1.0),
        ("ClassBalanced", "loss", "Nothing"),
        ("ArcFace", "embedding_dim", 1),
        ("ArcFace", "embedding_dim", 10**11),
        ("ArcFace", "scale", 0),
        ("ArcFace", "margin", 1.6),
    ],
)
def test_bad_values_are_refused_by_field(loss, field, value):
    with pytest.raises(UserError) as caught:
        EXPERIMENT.but({"loss": loss, f"loss.{field}": value})
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(f"loss.{field}: ")


def test_every_field_says_what_it_means():
    for loss in OURS:
        assert all(field.description for field in type(loss).model_fields.values()), loss


def test_weights_are_read_from_a_command_lines_text():
    changed = EXPERIMENT.but({"loss.weights": "1,2,0.5"}).loss
    assert changed == L.CrossEntropy(weights=(1, 2, 0.5), label_smoothing=EXPERIMENT.loss.label_smoothing)
    assert EXPERIMENT.but({"loss.weights": "balanced"}).but({"loss.weights": "none"}) == EXPERIMENT
    assert L.CrossEntropy.read(changed.record()) == changed


def test_weights_by_class_name_are_those_of_the_classes_in_their_order():
    named = EXPERIMENT.but({"loss.weights": "7=2, 3=0.5"}).loss
    assert named == EXPERIMENT.but({"loss.weights": {"7": 2, "3": 0.5}}).loss
    assert L.CrossEntropy.read(named.record()) == named
    context = replace(CONTEXT, classes=("10", "3", "7", "a=b", "x"))
    assert named.build(context).numbers.tolist() == [1, 0.5, 2, 1, 1]
    assert L.CrossEntropy(weights="a=b=4").build(context).numbers.tolist() == [1, 1, 1, 4, 1]
    with pytest.raises(ValueError, match=r"loss\.weights: 8 is not a class of the data; the classes are 10, 3, 7"):
        L.CrossEntropy(weights="8=2").build(context)
    for wrong in ("1,dog=2", "dog=1,dog=2", "dog=", "dog=0"):
        with pytest.raises(ValidationError):
            L.CrossEntropy(weights=wrong)


@pytest.mark.parametrize("loss", [L.CrossEntropy(weights="balanced"), L.LogitAdjusted(), L.ClassBalanced()], ids=repr)
def test_a_loss_that_needs_the_classes_says_so(loss):
    with pytest.raises(TypeError, match="build"):
        loss(LOGITS, HARD)


def test_records_from_when_losses_were_one_file_are_read():
    assert Loss.read({"class": "core.losses.FocalLoss", "gamma": 1.0}) == L.FocalLoss(gamma=1.0)
    assert Loss.read({"class": "core.losses.CrossEntropy", "label_smoothing": 0.1}) == L.CrossEntropy(
        label_smoothing=0.1
    )
