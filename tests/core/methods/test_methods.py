"""Methods: what a step computes, that teachers stay out of the state, and what is refused before step one."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from core import randomness as K
from core.augment import CutMix, Cutout, HorizontalFlip, RandomCrop
from core.common.errors import UserError
from core.declare.tree import choices
from core.experiment import Experiment
from core.launch import Launch
from core.loading.batches import Batch
from core.loading.images import Dataset, Images, Splits
from core.loading.normalize import IMAGENET
from core.losses import CrossEntropy
from core.methods import Consistency, Distill, Method, Output, Supervised, WeightPenalty
from core.models import MLP, SmallCNN, Timm, Torchvision
from core.optimizers import SGD
from core.record.journal import Journal
from core.runs.resume import refuse_other_weights
from core.runs.train import train
from core.runs.trained import load
from core.schedules import Clock
from core.training.assemble import assemble, check
from core.training.loop import fit
from tests.support.optional import library

OFFLINE = Launch(mlflow=False, threads=1)
CLOCK = Clock(0, 10, 5)


class Bars(Dataset):
    """Images of 8x8 whose class shows in their brightness; shift makes other statistics of the same classes."""

    names: tuple[str, ...] = tuple("abcd")
    size: int = 8
    shift: int = 0

    def load(self, root=None):
        targets = np.arange(64) % 4
        pixels = np.random.default_rng(0).integers(0, 60, (64, self.size, self.size, 1))
        pixels = pixels + 40 * targets[:, None, None, None] + self.shift
        images = Images(pixels.astype(np.uint8), np.arange(64), targets)
        train, val = images.take(np.arange(48)), images.take(np.arange(48, 64))
        return Splits("bars", self.names, train, val, val, f"digest {self}", "made up")


BASE = Experiment(data=Bars(), model=MLP(hidden=(16,)), optimizer=SGD(lr=0.05, momentum=0.9), epochs=3, batch_size=16)


def built(changes=None):
    experiment = BASE.but(changes or {})
    return assemble(experiment, experiment.data.load(), Launch(device="cpu"))


def first_batch(parts):
    return parts.setup.augment(parts.setup.normalize(next(iter(parts.train.epoch(0)))), CLOCK)


def step(parts, batch=None, clock=CLOCK):
    setup = parts.setup
    return setup.method.step(parts.state.model, setup.loss, batch or first_batch(parts), clock)


def weights(state):
    return [p.detach().clone() for p in state.model.parameters()]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_l2_moves_sgds_weights_as_weight_decay_does(decay):
    schedule = {"epochs": 2, "grad_accum_steps": 2}
    decayed = built(schedule | {"optimizer.weight_decay": decay})
    method = WeightPenalty(l2=decay) if decay else Supervised()
    penalized = built(schedule | {"method": method})
    for parts in (decayed, penalized):
        list(fit(parts.setup, parts.state, parts.train, parts.val))
    torch.testing.assert_close(weights(penalized.state), weights(decayed.state))


def test_the_penalty_is_added_to_each_loss_and_spares_norms_biases_and_what_is_frozen():
    changes = {"model": SmallCNN(widths=(4, 6))}
    plain, parts = built(changes), built(changes | {"method": WeightPenalty(l1=0.01, l2=0.1)})
    for network in (plain.state.model, parts.state.model):
        next(network.parameters()).requires_grad_(False)
    free = [p for p in parts.state.model.parameters() if p.requires_grad]
    kept = [p for p in free if p.ndim >= 2]
    assert 0 < len(kept) < len(free)
    penalty = sum(0.01 * p.abs().sum() + 0.05 * (p**2).sum() for p in kept)
    got, expected = step(parts), step(plain)
    torch.testing.assert_close(got.losses, expected.losses + penalty)
    torch.testing.assert_close(got.logits, expected.logits)


def test_l1_makes_weights_small_that_plain_training_does_not():
    plain, sparse = built({"epochs": 20}), built({"epochs": 20, "method": WeightPenalty(l1=0.02)})
    for parts in (plain, sparse):
        list(fit(parts.setup, parts.state, parts.train, parts.val))
    small = [(parts.state.model[1].weight.abs() < 5e-3).float().mean().item() for parts in (plain, sparse)]
    assert small[1] > 3 * small[0]


class Counting(Method):
    """Keeps a count in a buffer and learns a scale."""

    def build(self, context):
        return _Counting()

    def step(self, model, loss, batch, clock):
        raise AssertionError


class _Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(1))

    def step(self, model, loss, batch, clock):
        self.seen += len(batch.images)
        logits = model(batch.images) * self.scale
        return Output(loss(logits, batch.targets), logits)


def test_a_method_with_weights_within_a_penalty_is_part_of_the_state():
    parts = built({"method": WeightPenalty(method=Counting(), l1=1e-4), "epochs": 1})
    list(fit(parts.setup, parts.state, parts.train, parts.val))
    held = parts.state.trained["method"].state_dict()
    assert held["method.seen"] == 48
    assert held["method.scale"] != 1


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
    yield train(BASE.but({"model": SmallCNN(widths=(8,), dropout=0.5), "epochs": 2}), OFFLINE)
    patch.undo()


def distilled(teacher, **fields):
    return {"method": Distill(teacher=str(teacher.folder), **fields)}


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.5), (4.0, 0.9), (2.0, 1.0), (3.0, 0.0)])
def test_distillation_is_the_papers_formula(teacher, temperature, alpha):
    """The soft term is cross-entropy with the teacher's softened answer, less that answer's own entropy."""
    parts = built(distilled(teacher, temperature=temperature, alpha=alpha))
    batch = first_batch(parts)
    got = step(parts, batch)
    with torch.no_grad():
        wanted = (teacher.model(batch.images) / temperature).softmax(dim=1)
    soft = F.cross_entropy(got.logits / temperature, wanted, reduction="none") + (wanted * wanted.log()).sum(dim=1)
    hard = F.cross_entropy(got.logits, batch.targets, reduction="none")
    expected = (1 - alpha) * hard + alpha * temperature**2 * soft
    torch.testing.assert_close(got.losses, expected, rtol=1e-4, atol=1e-5)


def test_distilled_gradients_are_those_of_the_values(teacher):
    method = Distill(teacher="any", temperature=3.0, alpha=0.7)
    logits, wanted = torch.randn(2, 4, 5, dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: method.output(z.square().sum(dim=1), z, wanted).losses, (logits,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_distilled_values_and_gradients_stay_finite_in_half_precision_at_extreme_logits(dtype):
    extreme = torch.tensor([[1e4, -1e4, 0], [1e4] * 3, [-1e4] * 3], dtype=dtype)
    logits = extreme.clone().requires_grad_()
    losses = Distill(teacher="any", temperature=0.5).output(torch.zeros(3), logits, extreme.flip(1)).losses
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("wrap", [lambda method: method, lambda method: WeightPenalty(method=method, l1=1e-5)])
def test_the_teacher_is_frozen_in_evaluation_mode_and_outside_state_and_optimizer(teacher, wrap):
    method = wrap(Distill(teacher=str(teacher.folder)))
    parts = built({"method": method, "ema.decay": 0.9})
    inner = getattr(parts.setup.method, "method", parts.setup.method)
    held = inner.teachers[0].network
    before = {name: tensor.clone() for name, tensor in held.state_dict().items()}
    list(fit(parts.setup, parts.state, parts.train, parts.val))
    assert not held.training
    assert not any(p.requires_grad or p.grad is not None for p in held.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.state_dict().items())
    trained = {id(p) for group in parts.state.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in held.parameters()}
    assert all(name.startswith("model.") for name in parts.state.snapshot()["trained"])


def test_a_distilled_run_left_and_taken_up_ends_in_the_same_bits(teacher):
    changes = distilled(teacher) | {"model.dropout": 0.3}
    whole, first, second = built(changes), built(changes), built(changes)
    list(fit(whole.setup, whole.state, whole.train, whole.val))
    for event in fit(first.setup, first.state, first.train, first.val):
        if event.step == 4:
            break
    second.state.restore(first.state.snapshot())
    list(fit(second.setup, second.state, second.train, second.val))
    assert all(map(torch.equal, weights(second.state), weights(whole.state)))


def test_a_pupil_learns_the_teachers_answers(teacher):
    parts = built(distilled(teacher, alpha=1.0, temperature=2.0) | {"epochs": 40})
    losses = [e.metrics["train/loss"] for e in fit(parts.setup, parts.state, parts.train, parts.val) if e.validation]
    assert losses[-1] < 0.2 * losses[0]


def test_the_teacher_sees_images_normalized_as_it_was_trained(teacher):
    """The same pixels, in a data set whose statistics differ."""
    parts = built(distilled(teacher) | {"data": Bars(shift=50)})
    batch = first_batch(parts)
    record = teacher.record["data"]
    assert parts.mean != tuple(record["mean"])
    pixels = batch.images * parts.std[0] + parts.mean[0]
    expected = teacher.model((pixels - record["mean"][0]) / record["std"][0])
    seen = []
    parts.setup.method.teachers[0].network.register_forward_hook(lambda module, inputs, output: seen.append(output))
    step(parts, batch)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Bars(names=tuple("abcx")), r"^method\.teacher: .* 4 classes, the data have 4; not in both: d, x$"),
        (Bars(names=tuple("bacd")), r"^method\.teacher: .* the same classes in a different order"),
        (Bars(size=9), r"^method\.teacher: .* images of shape 8x8x1, the data have 9x9x1$"),
    ],
    ids=["classes", "order", "shape"],
)
def test_a_teacher_that_does_not_fit_the_data_is_a_mistake(teacher, data, message):
    with pytest.raises(UserError, match=message):
        built(distilled(teacher) | {"data": data})


def test_a_teacher_that_cannot_teach_is_refused_before_data_are_read(home):
    def refused(run, message):
        for method in (Distill(teacher=str(run)), WeightPenalty(method=Distill(teacher=str(run)), l1=1)):
            with pytest.raises(UserError, match=message):
                check(BASE.but({"method": method}))

    refused("nobody", r"teacher: nobody: run not found")
    refused("", r"teacher: : run not found")
    killed, stripped = (home / "mlruns" / "runs" / name for name in ("killed", "stripped"))
    Journal(killed).close("KILLED")  # it may be resumed, and then its best weights change
    refused(killed, r"teacher: run killed is KILLED; the teacher must be a finished run")
    Journal(stripped).close("FINISHED")
    refused(stripped, r"teacher: run stripped has no saved weights")


def test_an_unbuilt_distillation_says_what_it_lacks():
    with pytest.raises(TypeError, match="build"):
        Distill(teacher="x").step(nn.Identity(), CrossEntropy(), None, CLOCK)


def test_consistency_is_the_loss_and_the_distance_of_two_views():
    view = (RandomCrop(padding=2), HorizontalFlip())
    method = Consistency(view=view, weight=3.0, ramp_epochs=2)
    parts = built({"method": method, "augment": (HorizontalFlip(), CutMix())})
    batch, clock = first_batch(parts), Clock(10, 10, 5)
    got = step(parts, batch, clock)
    assert got.logits.shape == (16, 4)
    logits = parts.state.model(batch.images)
    keys = K.another(batch.keys, "second view")
    images = batch.images
    for part in view:
        images, _ = part(images, batch.targets, keys, 4)
    apart = F.mse_loss(parts.state.model(images).softmax(1), logits.softmax(1), reduction="none").mean(dim=1)
    expected = F.cross_entropy(logits, batch.targets, reduction="none") + 3 * math.exp(-1.25) * apart
    torch.testing.assert_close(got.losses, expected)
    assert apart.max() > 0
    weights = list(parts.state.model.parameters())  # through both views
    ours, theirs = (torch.autograd.grad(losses.sum(), weights) for losses in (got.losses, expected))
    torch.testing.assert_close(ours, theirs)


def test_the_second_view_is_a_function_of_the_keys_and_another_than_the_first():
    method = Consistency(view=(HorizontalFlip(),))
    images, keys = torch.randn(400, 1, 3, 3), torch.from_numpy(K.sample_keys(0, 0, np.arange(400)))
    batch = Batch(images, torch.zeros(400, dtype=torch.int64), keys, torch.arange(400))
    once, again = method.second(batch, CLOCK), method.second(batch, CLOCK)
    assert torch.equal(once, again)
    half = method.second(Batch(*(tensor[200:] for tensor in batch)), CLOCK)
    assert torch.equal(once[200:], half), "it must not depend on the rest of the batch"
    first, _ = HorizontalFlip()(images, batch.targets, keys, 1)
    flipped = [(view != images).flatten(1).any(dim=1) for view in (first, once)]
    for share in (flipped[0].float().mean(), flipped[1].float().mean(), (flipped[0] == flipped[1]).float().mean()):
        assert abs(share - 0.5) < 0.1, "the two views must be drawn independently"


@pytest.mark.parametrize(("step", "expected"), [(0, math.exp(-5)), (10, math.exp(-1.25)), (20, 1.0), (49, 1.0)])
def test_the_weight_rises_as_in_the_paper(step, expected):
    assert Consistency(ramp_epochs=2).ramp(Clock(step, 10, 5)) == pytest.approx(expected)
    assert Consistency().ramp(Clock(step, 10, 5)) == 1.0


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Consistency(view=(CutMix(),)), r"^method\.view\.cut_mix: this augmentation changes the targets"),
        (Consistency(view=(HorizontalFlip(), Cutout(size=9))), r"^method\.view\.cutout: size 9: the square is larger"),
    ],
    ids=["mixing", "size"],
)
def test_views_that_cannot_be_are_a_mistake(method, message):
    with pytest.raises(UserError, match=message):
        built({"method": method})


@pytest.mark.parametrize(
    ("method", "message"),
    [(Consistency(view=()), "method: view must contain"), (WeightPenalty(), "method: l1 and l2 are both 0")],
)
def test_methods_that_would_do_nothing_are_refused(method, message):
    with pytest.raises(UserError, match=message):
        check(BASE.but({"method": method}))


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("WeightPenalty", "l1", -1),
        ("WeightPenalty", "l2", -1),
        ("WeightPenalty", "method", "Nothing"),
        ("Distill", "temperature", 0),
        ("Distill", "alpha", 1.1),
        ("Consistency", "weight", -1),
        ("Consistency", "ramp_epochs", -1),
        ("SimCLR", "temperature", 0),
        ("SimCLR", "projection", 0),
    ],
)
def test_bad_values_are_refused_by_field(method, field, value):
    needed = {"method.teacher": "x"} if method == "Distill" else {}
    with pytest.raises(UserError) as caught:
        BASE.but({"method": method, f"method.{field}": value} | needed)
    assert [line.split(":")[0] for line in caught.value.lines] == [f"method.{field}"]


def test_a_distillation_without_a_teacher_is_refused_by_field():
    with pytest.raises(UserError, match=r"^method: teacher: name a finished run, or a pretrained network"):
        check(BASE.but({"method": "Distill"}))


def test_every_field_says_what_it_means():
    ours = [kind for kind in choices(Method).values() if kind.__module__.startswith("core.methods.")]
    names = {"Auxiliary", "Consistency", "Distill", "SimCLR", "WeightPenalty", "Supervised"}
    assert {kind.__name__ for kind in ours} == names
    assert all(field.description for kind in ours for field in kind.model_fields.values())


def test_records_from_when_methods_were_one_file_are_read():
    assert Method.read({"class": "core.methods.Supervised"}) == Supervised()


def test_whole_runs_with_each_method_are_recorded_and_loaded(teacher, home):
    second = {"method": WeightPenalty(method=Consistency(ramp_epochs=1), l2=1e-3)}
    for changes in (distilled(teacher), second):
        run = train(BASE.but(changes | {"epochs": 1}), OFFLINE)
        assert run.status == "FINISHED"
        assert load(run.id).experiment == BASE.but(changes | {"epochs": 1})
        table = (run.folder / "artifacts/per_class.csv").read_text().splitlines()
        assert table[0] == "class,images,precision,recall,f1,recall_low,recall_high"
        recalls = [float(line.split(",")[3]) for line in table[1:]]
        assert np.mean(recalls) == pytest.approx(run.metrics["test/recall"], abs=1e-5)


class Reporting(Method):
    """Reports what it sees: a value of each image, a scalar, and what is not a number."""

    weight: float = 1.0

    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        losses = loss(logits, batch.targets)
        extras = {"brightness": batch.images.mean(dim=(1, 2, 3)), "step_from_1": torch.tensor(clock.step + 1.0)}
        return Output(self.weight * losses, logits, extras | {"nothing": torch.tensor(torch.nan)})


def metrics_of(parts):
    """(metrics of every interval, of every epoch)."""
    events = list(fit(parts.setup, parts.state, parts.train, parts.val))
    return [e.metrics for e in events if "step/loss" in e.metrics], [e.metrics for e in events if e.validation]


PENALIZED = {"method": WeightPenalty(method=Reporting(), l1=0.1)}


@pytest.mark.parametrize("changes", [{}, {"grad_accum_steps": 2}, PENALIZED], ids=["plain", "micro", "penalized"])
def test_what_a_method_reports_is_recorded_as_means_and_changes_nothing_else(changes):
    plain = built({k: v for k, v in changes.items() if k != "method"} | {"method": Supervised()})
    parts = built({"method": Reporting()} | changes)
    intervals, epochs = metrics_of(parts)
    steps = len(parts.train.plan)
    assert [m["step/step_from_1"] for m in intervals] == list(range(1, 3 * steps + 1))
    assert [m["train/step_from_1"] for m in epochs] == [steps * e + (steps + 1) / 2 for e in range(3)]
    assert all(m["train/brightness"] == pytest.approx(0.0, abs=1e-6) for m in epochs), "the mean of all images"
    assert not any(name.endswith("nothing") for m in (*intervals, *epochs) for name in m)
    if "method" in changes:
        assert all(m["train/penalty"] > 0 for m in epochs)
        return
    for mine, wanted in zip(epochs, metrics_of(plain)[1], strict=True):
        wanted.pop("images_per_second")
        assert {name: mine[name] for name in wanted} == wanted
    assert all(map(torch.equal, weights(parts.state), weights(plain.state)))


def test_what_a_method_reports_is_resumed_within_an_epoch_also_from_checkpoints_without_it():
    whole, first, second, older = (built({"method": Reporting()}) for _ in range(4))
    expected = metrics_of(whole)[1]
    for event in fit(first.setup, first.state, first.train, first.val):
        if event.step == 4:
            break
    snapshot = first.state.snapshot()
    second.state.restore(snapshot)
    names = ("train/brightness", "train/step_from_1", "val/loss")
    assert [[m[n] for n in names] for m in metrics_of(second)[1]] == [[m[n] for n in names] for m in expected[1:]]
    older.state.restore(first.state.snapshot() | {"sums": snapshot["sums"][:3], "seen": snapshot["seen"][:3]})
    resumed = metrics_of(older)[1]
    assert "train/brightness" not in resumed[0], "it is not known for the whole epoch"
    assert resumed[1]["train/step_from_1"] == expected[2]["train/step_from_1"]
    assert resumed[1]["val/loss"] == expected[2]["val/loss"]


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"loss": torch.tensor(1.0)}, "^method: it reports 'loss'; choose another name"),
        ({"a b": torch.tensor(1.0)}, "^method: it reports 'a b'; choose another name, of letters"),
        ({"a": 1.0}, "^method: the extra a should be a tensor: a scalar, or one value for each image"),
        ({"a": torch.zeros(3, 2)}, "^method: the extra a should be a tensor"),
    ],
)
def test_extras_that_cannot_be_recorded_are_refused_before_training(extras, message, monkeypatch):
    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        return Output(loss(logits, batch.targets), logits, extras)

    monkeypatch.setattr(Reporting, "step", step)
    with pytest.raises(UserError, match=message):
        built({"method": Reporting()})


def test_distillation_reports_its_two_terms(teacher):
    *_, end = metrics_of(built(distilled(teacher, alpha=0.7)))[1]
    parts = 0.3 * end["train/label_loss"] + 0.7 * end["train/distillation_loss"]
    assert end["train/loss"] == pytest.approx(parts, rel=1e-5)


def test_several_teachers_teach_the_mean_of_their_softened_probabilities(teacher, home):
    other = train(BASE.but({"seed": 5, "epochs": 1}), OFFLINE)
    names = f"{teacher.folder}, {other.folder}"
    parts = built({"method": Distill(teacher=names, temperature=3.0, alpha=1.0)})
    batch = first_batch(parts)
    got = step(parts, batch)
    with torch.no_grad():
        mean = sum((one.model(batch.images) / 3).softmax(dim=1) for one in (teacher, other)) / 2
    expected = 9 * (mean * (mean.log() - (got.logits / 3).log_softmax(dim=1))).sum(dim=1)
    torch.testing.assert_close(got.losses, expected, rtol=1e-4, atol=1e-5)
    twice = built({"method": Distill(teacher=f"{teacher.folder},{teacher.folder}")})
    torch.testing.assert_close(step(twice, batch).losses, step(built(distilled(teacher)), batch).losses)


def saved(network, path):
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_a_pretrained_network_of_others_teaches_with_its_own_normalization(kind, tmp_path):
    if kind == "timm":
        network = library("timm", extra="timm").create_model("test_resnet", num_classes=4, in_chans=3)
        declared = Timm(name="test_resnet", weights=saved(network, tmp_path / "net.pth"))
    else:
        network = torchvision.models.mobilenet_v3_small(num_classes=4)
        declared = Torchvision(name="mobilenet_v3_small", weights=saved(network, tmp_path / "net.pth"))
    network.eval()
    parts = built({"method": Distill(pretrained=declared, temperature=2.0, alpha=1.0)})
    gray = parts.setup.method.teachers[0].network
    batch = first_batch(parts)
    mean, std = (sum(values) / 3 for values in IMAGENET)
    pixels = batch.images * parts.std[0] + parts.mean[0]
    with torch.no_grad():
        wanted = network(((pixels - mean) / std).expand(-1, 3, -1, -1))
        torch.testing.assert_close(gray((pixels - mean) / std), wanted, rtol=1e-3, atol=1e-3)
    got = step(parts, batch)
    expected = Distill(pretrained=declared, temperature=2.0, alpha=1.0).output(got.losses, got.logits, wanted).losses
    torch.testing.assert_close(got.losses, expected, rtol=1e-3, atol=1e-4)


def test_a_pretrained_teacher_is_on_record_and_refused_when_its_file_has_changed(home, tmp_path):
    teaching = SmallCNN(widths=(4,), weights=saved(SmallCNN(widths=(4,)).network(built().context), tmp_path / "t.pt"))
    run = train(BASE.but({"method": Distill(pretrained=teaching, normalize="data"), "epochs": 1}), OFFLINE)
    assert run.record["weights_of_method"]["method.pretrained"]["file"] == "t.pt"
    assert load(run.id).experiment.method.pretrained == teaching
    refuse_other_weights(run)
    saved(SmallCNN(widths=(4,), init="xavier").build(built().context), tmp_path / "t.pt")
    with pytest.raises(UserError, match=r"the weights in .*t\.pt have changed since it started"):
        refuse_other_weights(run)


def test_pretrained_networks_that_cannot_teach_are_refused(tmp_path):
    def made(changes):
        check(BASE.but(changes))
        built(changes)

    def refused(model, message, **fields):
        with pytest.raises(UserError, match=message):
            made({"method": Distill(pretrained=model, **fields)})

    refused(SmallCNN(), "^method: pretrained: without weights, it has nothing to teach")
    refused(SmallCNN(weights="no.safetensors"), "^method: pretrained.weights: the file no.safetensors does not exist")
    ten = saved(torchvision.models.mobilenet_v3_small(num_classes=10), tmp_path / "ten.pth")
    message = "^method.pretrained: the head of .*ten.pth is not for the 4 classes of the data"
    refused(Torchvision(name="mobilenet_v3_small", weights=ten), message)
    refused(SmallCNN(weights=ten), "^method.pretrained.weights: .*ten.pth")
    four = saved(torchvision.models.mobilenet_v3_small(num_classes=4), tmp_path / "four.pth")
    refused(Torchvision(name="mobilenet_v3_small", weights=four), "must use the same normalize", normalize="image")
