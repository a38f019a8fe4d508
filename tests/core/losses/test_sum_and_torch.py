"""Losses that are made of others: a weighted sum, and modules of torch that give a mean; and what is checked."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core import losses as L
from core.cli import main as command
from core.cli.verbs import VERBS
from core.common.errors import NonFinite, UserError
from core.launch import Launch
from core.losses import Loss
from core.losses.check import LossCheck, check_loss
from core.models import MLP
from core.runs.train import train
from core.training.assemble import assemble, check
from core.training.loop import fit
from experiments.tiny import EXPERIMENT
from tests.support.loop import built, digest, run, taken_up

SHORT = EXPERIMENT.but({"epochs": 1, "limit": 200, "model": MLP(hidden=(16,))})
ADDED = "tests.core.losses.test_sum_and_torch"


def assembled(loss, **changes):
    experiment = SHORT.but({"loss": loss, **changes})
    check(experiment)
    return assemble(experiment, experiment.data.load(None), Launch(device="cpu"))


class Heated(nn.Module):
    """As users have it: the mean over a batch, with a weight that is trained."""

    def __init__(self, heat=1.5):
        super().__init__()
        self.heat = nn.Parameter(torch.tensor(float(heat)))

    def forward(self, logits, targets):
        return F.cross_entropy(logits / self.heat, targets)


class Broken(nn.Module):
    """Not finite."""

    def forward(self, logits, targets):
        return F.cross_entropy(logits, targets) * torch.nan


def a_number():
    return 5


class NotItsGradient(Loss):
    """Detaches what it should not, and takes classes alone."""

    factor: float = 2.0

    def __call__(self, logits, targets):
        return self.factor * logits.gather(1, targets[:, None]).squeeze(1) * logits.detach().sum(dim=1)


def test_a_sum_is_the_weighted_sum_and_each_loss_is_measured_by_itself(home):
    loss = L.Sum(losses=(L.CrossEntropy(), L.FocalLoss(gamma=1.0)), weights=(1, 0.25))
    logits, targets = torch.randn(8, 10), torch.arange(8)
    expected = L.CrossEntropy()(logits, targets) + 0.25 * L.FocalLoss(gamma=1.0)(logits, targets)
    torch.testing.assert_close(assembled(loss).setup.loss(logits, targets), expected)
    found = train(SHORT.but({"loss": loss}), Launch(mlflow=False, threads=1))
    epoch = {name: values[1] for name, values in found.history.items() if name.startswith("val/")}
    for split, values in (("val", epoch), ("test", found.metrics)):
        parts = [values[f"{split}/loss_{name}"] for name in ("cross_entropy", "focal_loss")]
        assert values[f"{split}/loss"] == pytest.approx(parts[0] + 0.25 * parts[1])
        assert parts[0] == pytest.approx(values[f"{split}/nll"])


def test_a_weight_of_0_measures_without_training():
    alone, beside = (
        built({"loss": loss, "augment": ()})
        for loss in (L.Sum(losses=(L.CrossEntropy(),)), L.Sum(losses=(L.CrossEntropy(), L.PolyLoss()), weights=(1, 0)))
    )
    ends = [run(parts)[-1] for parts in (alone, beside)]
    assert digest(alone.state) == digest(beside.state)
    assert ends[1].metrics["val/loss_poly_loss"] > ends[1].metrics["val/loss_cross_entropy"] > 0


def test_a_sum_is_declared_on_the_command_line_with_the_fields_of_its_losses():
    changes = {"loss": "Sum", "loss.losses": "CrossEntropy,FocalLoss,FocalLoss", "loss.losses.focal_loss_2.gamma": "5"}
    declared = EXPERIMENT.but(changes | {"loss.weights": "1,0.5,0.1"}).loss
    assert declared == L.Sum(losses=(L.CrossEntropy(), L.FocalLoss(), L.FocalLoss(gamma=5)), weights=(1, 0.5, 0.1))
    assert Loss.read(declared.record()) == declared


def test_the_last_layer_of_one_of_the_losses_is_that_of_the_network():
    arcface = L.ArcFace(embedding_dim=8)
    parts = assembled(L.Sum(losses=(L.CrossEntropy(), L.ClassBalanced(loss=arcface))))
    assert parts.state.model.head.weight.shape == (10, 8)
    with pytest.raises(UserError, match="loss: losses: arc_face and class_balanced each add a last layer"):
        assembled(L.Sum(losses=(arcface, L.ClassBalanced(loss=arcface))))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (L.Sum(), "loss: losses must contain at least one"),
        (L.Sum(losses=(L.CrossEntropy(),), weights=(1, 2)), "loss: weights: got 2 weights for 1 losses"),
        (L.Sum(losses=(L.CrossEntropy(),), weights=(0,)), "loss: weights: all of them are 0"),
        (L.TorchLoss(), "loss: either name, of a loss in torch.nn, or factory"),
        (L.TorchLoss(name="CrossEntropiLoss"), "torch.nn has no loss CrossEntropiLoss; did you mean CrossEntropyLoss"),
        (L.TorchLoss(name="CrossEntropyLoss", arguments={"smoothing": 1}), "does not take these arguments"),
        (L.TorchLoss(factory=f"{ADDED}:a_number"), "a_number returned int, which is no nn.Module"),
        (L.TorchLoss(factory="nowhere.at_all:Loss"), "there is no module nowhere"),
        (L.TorchLoss(name="BCEWithLogitsLoss"), r"failed for logits \[2, 10\] and targets \[2\].*try targets: labels"),
        (L.TorchLoss(name="CosineEmbeddingLoss"), "failed for logits"),
        (L.ClassBalanced(loss=L.TorchLoss(name="CrossEntropyLoss")), 'loss: loss: it gives the mean.*reduction="none"'),
        (L.ClassBalanced(loss=L.Sum(losses=(L.TorchLoss(name="NLLLoss"),))), "loss: loss: it gives the mean"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_losses_that_cannot_be_are_refused(loss, message):
    with pytest.raises(UserError, match=message):
        assembled(loss)


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("loss", [L.TorchLoss(name="CrossEntropyLoss"), L.Sum(losses=(L.CrossEntropy(),))], ids=str)
def test_a_mean_trains_as_the_loss_of_each_example_does(loss, accumulated):
    """Mixed targets by CutMix, and micro-batches, included."""
    other, parts = (built({"loss": one, "grad_accum_steps": accumulated}) for one in (L.CrossEntropy(), loss))
    ends = [run(one)[-1].metrics for one in (other, parts)]
    torch.testing.assert_close(list(parts.state.model.parameters()), list(other.state.model.parameters()))
    assert ends[1]["val/loss"] == pytest.approx(ends[0]["val/loss"], rel=1e-4)
    assert ends[1]["train/loss"] == pytest.approx(ends[0]["train/loss"], rel=1e-4)


def test_modules_of_torch_give_what_torch_gives():
    logits, targets = torch.randn(6, 10), torch.arange(6)
    weight = [1.0] * 9 + [0.5]
    weighted = assembled(L.TorchLoss(name="CrossEntropyLoss", arguments={"weight": weight})).setup.loss
    assert weighted(logits, targets).mean() == pytest.approx(F.cross_entropy(logits, targets, torch.tensor(weight)))
    binary = L.TorchLoss(name="BCEWithLogitsLoss", targets="labels", arguments={"reduction": "none"})
    each = F.binary_cross_entropy_with_logits(logits, F.one_hot(targets, 10).float(), reduction="none")
    torch.testing.assert_close(assembled(binary).setup.loss(logits, targets), each.mean(dim=1))
    assert binary.multi_label
    assert not L.TorchLoss(name="CrossEntropyLoss").multi_label


def test_the_weights_of_a_module_are_trained_and_resumed():
    loss = L.TorchLoss(factory=f"{ADDED}:Heated", arguments={"heat": 2})
    whole, first, second = (built({"loss": loss}) for _ in range(3))
    run(whole)
    assert whole.state.trained["loss"].state_dict()["module.heat"] != pytest.approx(2)
    taken_up(first, second, leave=7)
    assert digest(second.state) == digest(whole.state)


def test_a_mean_that_is_not_finite_names_no_images():
    parts = built({"loss": L.Sum(losses=(L.CrossEntropy(), L.TorchLoss(factory=f"{ADDED}:Broken")))})
    with pytest.raises(NonFinite) as caught:
        list(fit(parts.setup, parts.state, parts.train, parts.val))
    assert "as the mean over a batch, it does not show for which images" in str(caught.value)
    assert "training images" not in str(caught.value)


@pytest.mark.parametrize(
    "name", sorted(set(L.__all__) - {"BuiltLoss", "Loss", "full", "Sum", "TaskLosses", "TorchLoss"})
)
def test_the_losses_of_the_package_pass_their_check(name):
    assert not [one for one in check_loss(LossCheck(loss=name)) if one.wrong or one.note]


class InFloat(Loss):
    """In float32, whatever the logits are."""

    def __call__(self, logits, targets):
        return F.cross_entropy(logits.float(), targets, reduction="none")


class Counted(Loss):
    """The error rate, which has no gradient."""

    def __call__(self, logits, targets):
        return (logits.argmax(dim=1) != targets).float()


class Needing(Loss):
    """Has a field without a default."""

    factor: float

    def __call__(self, logits, targets):
        return self.factor * F.cross_entropy(logits, targets, reduction="none")


def test_a_loss_that_computes_in_float32_passes_its_check():
    assert not [one for one in check_loss(LossCheck(loss=InFloat())) if one.wrong]


def test_a_loss_without_a_gradient_is_said_to_have_none():
    found = {one.what: one.wrong for one in check_loss(LossCheck(loss=Counted()))}
    for what in ("gradients, hard targets", "finite in bfloat16, hard targets"):
        assert "no gradient with respect to the logits" in found[what]


def checked(capsys, *words):
    status = command.run("check-loss", words, VERBS)
    return status, capsys.readouterr()


def test_a_loss_with_a_wrong_gradient_fails_its_check_by_line(capsys):
    status, said = checked(capsys, f"{ADDED}:NotItsGradient", "--factor", "3", "--classes", "4")
    lines = {line[7:].split("  ")[0]: line[:5].strip() for line in said.out.splitlines()}
    assert status == 1
    assert lines["gradients, hard targets"] == lines["mixed targets"] == "FAILS"
    assert lines["one value for each example"] == lines["finite in bfloat16, hard targets"] == "ok"
    assert "test_sum_and_torch.py, line" in said.out, "where the code of the user failed"


def test_a_module_that_gives_a_mean_is_named_as_such_and_passes(capsys):
    status, said = checked(capsys, f"{ADDED}:Heated", '--arguments={"heat": 2}')
    assert status == 0
    assert "note   one value for each example" in said.out
    assert "it gives the mean over a batch: ClassBalanced cannot weigh it" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FocalLos"], "FocalLos is not a Loss; did you mean FocalLoss"),
        (["FocalLoss", "--gama", "2"], "--gama: unknown option; did you mean --gamma"),
        (["FocalLoss", "--gamma", "-1"], "--gamma: should be greater than or equal to 0"),
        (["FocalLoss", "--classes", "1"], "--classes: should be greater than or equal to 2"),
        (["FocalLoss", "extra"], "extra: unexpected word"),
        ([f"{ADDED}:Nobody"], "has no Nobody"),
        ([f"{ADDED}:Needing"], "--factor is missing"),
        (["a b:c"], "a b:c: should be package.module:function"),
        ([], "LOSS is missing"),
    ],
)
def test_mistakes_in_the_words_are_one_message(words, message, capsys):
    status, said = checked(capsys, *words)
    assert status == 2
    assert message in said.err
