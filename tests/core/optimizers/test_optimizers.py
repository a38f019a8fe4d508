"""Optimizers: against torch's own or a paper's formula, whole over a resume, and never moved by what is not finite."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.common.errors import NonFinite, UserError
from core.context import Context
from core.experiment import Experiment
from core.methods import Method, Output
from core.models import MLP, ResNet, SmallCNN
from core.optimizers import SAM, SGD, Adam, AdamW, Muon, OptimizerByName, RMSprop
from core.optimizers.layerwise import layers
from core.optimizers.muon import orthogonalized
from core.schedules import Cosine
from core.training.loop import fit
from tests.support.loop import BASE, built, digest, run, taken_up

CNN = SmallCNN(widths=(4, 6), dropout=0.2)
SGD_PLAIN = SGD(lr=0.05, momentum=0.9, weight_decay=1e-2)
ALL = {
    "sgd": SGD(lr=0.05, nesterov=True, weight_decay=1e-3),
    "adam": Adam(lr=0.01, weight_decay=1e-3),
    "adamw": AdamW(lr=0.01, weight_decay=0.1),
    "rmsprop": RMSprop(lr=1e-3, momentum=0.5, centered=True, weight_decay=1e-3),
    "muon": Muon(weight_decay=0.1),
    "muon_sgd": Muon(rest=SGD(lr=0.1), adjust_lr_fn="match_rms_adamw", layer_decay=0.9),
    "muon_normalized": Muon(momentum=0.6, ns_steps=3, normalize_weights=True),
    "muon_unfused_rest": Muon(rest=RMSprop()),
    "sam": SAM(base=SGD_PLAIN, rho=0.1),
    "sam_rmsprop": SAM(base=RMSprop(lr=1e-3)),
    "sam_muon": SAM(base=Muon(), rho=0.1),
    "by_name": OptimizerByName(name="NAdam", lr=0.01, weight_decay=1e-3),
    "grouped": SGD(lr=0.05, layer_decay=0.7, groups={"*.bias": 0.5}),
}
every = pytest.mark.parametrize("optimizer", ALL.values(), ids=ALL.keys())


def world(shape=(8, 8, 3), classes=4):
    return Context(tuple(map(str, range(classes))), (4,) * classes, shape, 20, 2, 3, 10, torch.device("cpu"))


def network(model=CNN, shape=(8, 8, 3)):
    torch.manual_seed(0)
    return nn.ModuleDict({"model": model.build(world(shape))}).to(memory_format=torch.channels_last)


def loss_of(trained, step=0):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    return F.cross_entropy(trained["model"](images), torch.arange(8) % 4)


def closure_of(trained, optimizer, step=0):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(trained, step)
        loss.backward()
        return loss

    return closure


# ---- against references


def torch_steps(reference, parameters, gradients):
    for gradient in gradients:
        for p, g in zip(parameters, gradient, strict=True):
            p.grad = g.clone()
        reference.step()


@pytest.mark.parametrize(
    ("part", "reference"),
    [
        (SGD(lr=0.1, weight_decay=0.1), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.1)),
        (SGD(lr=0.1, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True)),
        (Adam(lr=0.01, betas=(0.8, 0.9), weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.9), 1e-8, 0.1)),
        (AdamW(lr=0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
        (RMSprop(lr=0.01, weight_decay=0.1), lambda p: torch.optim.RMSprop(p, 0.01, weight_decay=0.1)),
        (
            RMSprop(lr=0.01, momentum=0.5, centered=True, alpha=0.9, eps=1e-6),
            lambda p: torch.optim.RMSprop(p, 0.01, 0.9, 1e-6, 0, 0.5, True),
        ),
    ],
    ids=["sgd", "nesterov", "adam", "adamw", "rmsprop", "rmsprop_centered"],
)
def test_weights_move_as_torchs_do(part, reference):
    ours, theirs = nn.Linear(5, 3, bias=False), nn.Linear(5, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    gradients = [[torch.randn(3, 5)] for _ in range(6)]
    torch_steps(part.build(ours), list(ours.parameters()), gradients)
    torch_steps(reference(theirs.parameters()), list(theirs.parameters()), gradients)
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (8, 3, 3, 3), (2, 5, 3, 3)], ids=str)
def test_muon_is_torchs_on_the_flattened_matrix(shape, nesterov, adjust):
    weight = nn.Parameter(
        torch.randn(shape).to(memory_format=torch.channels_last) if len(shape) == 4 else torch.randn(shape)
    )
    matrix = nn.Parameter(weight.detach().flatten(1).clone())
    part = Muon(lr=0.1, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn=adjust)
    ours = part.over([{"params": [weight], "lr": 0.1, "weight_decay": 0.1}])
    theirs = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn=adjust)
    gradients = [torch.randn(shape) for _ in range(5)]
    torch_steps(ours, [weight], [[g] for g in gradients])
    torch_steps(theirs, [matrix], [[g.flatten(1)] for g in gradients])
    torch.testing.assert_close(weight.detach().flatten(1), matrix.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 4), (8, 3, 3, 3)], ids=str)
def test_normalized_weights_have_the_norm_of_their_rows_before_each_step(shape):
    weight = nn.Parameter(7 * torch.randn(shape))
    optimizer = Muon(normalize_weights=True).over([{"params": [weight], "lr": 0.1, "weight_decay": 0.0}])
    plain = Muon().over([{"params": [other := nn.Parameter(torch.empty(shape))], "lr": 0.1, "weight_decay": 0.0}])
    for _ in range(3):
        other.data = weight.detach() * shape[0] ** 0.5 / weight.detach().square().sum().sqrt()
        gradient = torch.randn(shape)
        torch_steps(optimizer, [weight], [[gradient]])
        torch_steps(plain, [other], [[gradient]])
        torch.testing.assert_close(weight, other)


def test_orthogonalized_singular_values_are_about_1():
    values = torch.linalg.svdvals(orthogonalized(torch.randn(12, 30), 5).float())
    assert 0.5 < values.min() < values.max() < 1.5


def test_a_copy_of_muon_steps_as_the_original():
    weight = nn.Parameter(torch.randn(6, 4))
    optimizer = Muon(ns_steps=3).over([{"params": [weight], "lr": 0.1, "weight_decay": 0.1}])
    copied = copy.deepcopy(optimizer)
    (its,) = copied.param_groups[0]["params"]
    for one, p in ((optimizer, weight), (copied, its)):
        torch_steps(one, [p], [[torch.ones(6, 4)]])
    assert its is not weight
    assert torch.equal(its, weight)


def test_muon_takes_hidden_matrices_and_leaves_the_rest():
    trained = network()
    optimizer = Muon().build(trained)
    hidden = {id(p) for group in optimizer.inner[0].param_groups for p in group["params"]}
    names = {name for name, p in trained["model"].named_parameters() if id(p) in hidden}
    convolutions = [name for name, p in trained["model"].named_parameters() if p.ndim == 4]
    assert names == set(convolutions[1:])  # the first convolution, the norms and the classifier are of the rest
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, moved)) == sorted(map(id, trained.parameters()))


def test_muon_leaves_grouped_convolutions_and_lone_parameters_to_the_rest():
    class Odd(nn.Sequential):
        def __init__(self):
            super().__init__(
                nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2)
            )
            self.token = nn.Parameter(torch.zeros(1, 1, 4))

    model = Odd()
    optimizer = Muon().build(model)
    assert [p for group in optimizer.inner[0].param_groups for p in group["params"]] == [model[2].weight]


@pytest.mark.parametrize(
    ("rest", "reference"),
    [
        (SGD(lr=0.1, weight_decay=0.01), lambda groups: torch.optim.SGD(groups, 0.1, 0.9)),
        (AdamW(lr=0.01, weight_decay=0.1), lambda groups: torch.optim.AdamW(groups, 0.01)),
    ],
    ids=["sgd", "adamw"],
)
def test_beside_muon_the_rest_moves_as_torchs_do_at_its_own_rate(rest, reference):
    ours, theirs = (nn.Sequential(*(nn.Linear(n, m) for n, m in ((3, 4), (4, 5), (5, 2)))) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    hidden = theirs[1].weight
    others = [p for p in theirs.parameters() if p is not hidden]
    decayed, spared = [p for p in others if p.ndim > 1], [p for p in others if p.ndim < 2]
    muon = torch.optim.Muon([hidden], lr=0.05, weight_decay=0.2)
    other = reference([{"params": decayed, "weight_decay": rest.weight_decay}, {"params": spared, "weight_decay": 0.0}])
    gradients = [[torch.randn_like(p) for p in theirs.parameters()] for _ in range(5)]
    part = Muon(lr=0.05, weight_decay=0.2, rest=rest)
    torch_steps(part.build(ours), list(ours.parameters()), gradients)
    for gradient in gradients:
        for p, g in zip(theirs.parameters(), gradient, strict=True):
            p.grad = g.clone()
        muon.step(), other.step()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))


def test_muon_without_a_hidden_layer_is_refused():
    with pytest.raises(UserError, match=r"optimizer: Muon needs trainable hidden layers"):
        built({"optimizer": Muon(), "model": MLP(hidden=(8,))})


@pytest.mark.parametrize(
    ("base", "reference"),
    [
        (SGD(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
        (AdamW(lr=0.01, weight_decay=0.0), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.0)),
        (RMSprop(lr=1e-3), lambda p: torch.optim.RMSprop(p, 1e-3)),
    ],
    ids=["sgd", "adamw", "rmsprop"],
)
def test_sam_is_the_papers_formula_over_any_of_them(base, reference):
    """Foret et al. 2021, equation 2 and algorithm 1, by hand; BatchNorm's statistics are those of the first pass."""
    model = SmallCNN(widths=(4,), dropout=0.0)
    ours, theirs = network(model), network(model)
    one = SAM(base=base, rho=0.3).build(ours)
    other = reference(theirs.parameters())
    for step in range(4):
        one.step(closure_of(ours, one, step))
        weights = [p.detach().clone() for p in theirs.parameters()]
        loss_first = loss_of(theirs, step)
        gradient = torch.autograd.grad(loss_first, list(theirs.parameters()))
        statistics = [b.clone() for b in theirs.buffers()]
        norm = torch.sqrt(sum(g.square().sum() for g in gradient))
        with torch.no_grad():
            for p, g in zip(theirs.parameters(), gradient, strict=True):
                p += 0.3 * g / norm
        second = torch.autograd.grad(loss_of(theirs, step), list(theirs.parameters()))
        with torch.no_grad():
            for p, w, g in zip(theirs.parameters(), weights, second, strict=True):
                p.copy_(w)
                p.grad = g
            for buffer, kept in zip(theirs.buffers(), statistics, strict=True):
                buffer.copy_(kept)
        other.step()
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=1e-4, atol=1e-6)


def test_both_gradients_of_sam_see_the_same_dropout():
    """At a rho that moves nothing, the second gradient is the first: SAM is its base, to the bit."""
    bare = built({"optimizer": SGD_PLAIN, "model.dropout": 0.5})
    around = built({"optimizer": SAM(base=SGD_PLAIN, rho=1e-30), "model.dropout": 0.5})
    events, ours = run(bare), run(around)
    assert digest(bare.state) == digest(around.state)
    for a, b in zip(events, ours, strict=True):
        assert {k: v for k, v in a.metrics.items() if k != "images_per_second"} == {
            k: v for k, v in b.metrics.items() if k != "images_per_second"
        }


def test_the_loss_reported_with_sam_is_that_at_the_weights():
    changes = {"augment": (), "model.dropout": 0.0, "schedule": "Constant", "epochs": 1}
    plain = built(changes | {"optimizer": SGD_PLAIN}, log_every=1)
    sam = built(changes | {"optimizer": SAM(base=SGD_PLAIN, rho=2.0)}, log_every=1)
    first, second = next(iter(run(plain))), next(iter(run(sam)))
    assert first.metrics == pytest.approx(second.metrics)  # before any weight has moved


# ---- rates


def rates(optimizer, trained):
    by_id = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert all(group["initial_lr"] == group["lr"] for group in optimizer.param_groups)
    return {name: by_id[id(p)] for name, p in trained["model"].named_parameters()}


def test_layers_of_networks_are_blocks_in_their_order():
    resnet = ResNet(depth=18, stem="cifar").build(world())
    assert len(layers(resnet)) == 10
    assert {id(p) for p in layers(resnet)[3]} == {id(p) for p in resnet.layer2[0].parameters()}
    assert [id(p) for p in layers(resnet)[-1]] == [id(p) for p in resnet.fc.parameters()]
    assert len(layers(SmallCNN(widths=(4, 4)).build(world()))) == 5
    from torchvision.models import VisionTransformer

    vit = VisionTransformer(8, 4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=4)
    ordered = layers(vit)
    assert len(ordered) == 5
    assert {id(vit.class_token), id(vit.encoder.pos_embedding), id(vit.conv_proj.weight)} <= set(map(id, ordered[0]))
    assert sorted(id(p) for layer in ordered for p in layer) == sorted(map(id, vit.parameters()))


def test_layer_decay_multiplies_from_the_last_layer_back():
    trained = network(ResNet(depth=18, stem="cifar"))
    got = rates(SGD(lr=0.1, layer_decay=0.5, weight_decay=0.1).build(trained), trained)
    assert got["fc.weight"] == got["fc.bias"] == 0.1
    assert got["layer4.1.conv1.weight"] == got["layer4.1.bn2.bias"] == pytest.approx(0.1 * 0.5)
    assert got["layer1.0.conv1.weight"] == pytest.approx(0.1 * 0.5**8)
    assert got["conv1.weight"] == got["bn1.weight"] == pytest.approx(0.1 * 0.5**9)


def test_groups_multiply_by_the_first_pattern_that_matches():
    trained = network(ResNet(depth=18, stem="cifar"))
    part = AdamW(lr=0.01, groups={"fc.*": 10, "*.bias": 0, "layer4.*": 2}, layer_decay=0.5)
    got = rates(part.build(trained), trained)
    assert got["fc.bias"] == pytest.approx(0.1)
    assert got["layer4.1.bn1.bias"] == 0
    assert got["layer4.1.conv1.weight"] == pytest.approx(0.01 * 2 * 0.5)


def test_the_first_group_has_the_declared_rate_for_that_is_what_is_reported():
    for part in (SGD(lr=0.1, layer_decay=0.5), SGD(lr=0.1, groups={"0.*": 7})):
        assert part.build(network()).param_groups[0]["lr"] == 0.1


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"optimizer\.groups: no parameter matches fd\.\*; did you mean fc\.\*"):
        built({"optimizer.groups": {"fd.*": 10}, "model": ResNet(depth=18, stem="cifar")})
    with pytest.raises(ValueError, match=r"no parameter matches xyz; parameter names: 0\.weight"):
        SGD(groups={"xyz": 1}).build(network())


def test_groups_that_leave_nothing_to_move_are_refused():
    with pytest.raises(ValueError, match=r"optimizer\.groups: every learning rate would be 0"):
        SGD(groups={"*": 0}).build(network())


def test_groups_are_read_from_text_and_from_a_record():
    part = SGD.read({"groups": "fc.*=10, bn*=0.5"})
    assert part.groups == (("fc.*", 10.0), ("bn*", 0.5))
    assert SGD.read(part.record()) == part == SGD(groups={"fc.*": 10, "bn*": 0.5})
    changed = Experiment.but(BASE, {"optimizer.groups": "1.*=10"})
    assert changed.optimizer.groups == (("1.*", 10.0),)
    assert Experiment.read(changed.record()) == changed


def test_the_schedule_multiplies_each_groups_own_rate():
    parts = built({"optimizer": SGD(lr=0.1, groups={"1.*": 10}), "schedule": Cosine(), "epochs": 2})
    run(parts)
    last, first = sorted(group["lr"] for group in parts.state.optimizer.param_groups)
    assert first == pytest.approx(10 * last)
    assert 0 < last < 0.1


def test_a_parameter_of_rate_0_stays():
    parts = built({"optimizer": SGD(lr=0.1, weight_decay=0.1, groups={"1.*": 0}), "epochs": 1})
    before = copy.deepcopy(parts.state.model)
    run(parts)
    assert torch.equal(before[1].weight, parts.state.model[1].weight)
    assert not torch.equal(before[-1].weight, parts.state.model[-1].weight)


@every
def test_weight_decay_spares_norms_and_biases(optimizer):
    trained = network()
    inner = optimizer.build(trained)
    decays = {id(p): group["weight_decay"] for group in inner.param_groups for p in group["params"]}
    assert all(decays[id(p)] == 0 for p in trained.parameters() if p.ndim < 2)
    assert len(decays) == len(list(trained.parameters()))


# ---- state


@every
def test_saved_after_any_step_and_resumed_elsewhere_it_ends_in_the_same_bits(optimizer):
    changes = {"optimizer": optimizer, "model": CNN, "epochs": 2, "ema.decay": 0.9, "clip_grad_norm": 1.0}
    whole = built(changes)
    run(whole)
    for leave in (1, 4, 7):
        first, second = built(changes), built(changes | {"seed": 0})
        taken_up(first, second, leave)
        assert digest(second.state) == digest(whole.state)
        assert _equal(second.state.optimizer.state_dict(), whole.state.optimizer.state_dict())


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


class Turning(Method):
    """At step 2 the gradient of the n-th forward pass is not a number; the loss is, and all else."""

    nth: int = 1

    def step(self, model, loss, batch, clock):
        raise NotImplementedError

    def build(self, context):
        return _Turning(self.nth)


class _Turning(nn.Module):
    def __init__(self, nth):
        super().__init__()
        self.left = nth

    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        losses = loss(logits, batch.targets)
        if clock.step == 2 and torch.is_grad_enabled():
            self.left -= 1
            if self.left == 0:
                losses = losses + (logits - logits).square().sum(dim=1).sqrt()
        return Output(losses, logits)


BAD = [(name, 1) for name in ALL] + [(name, 2) for name in ALL if "sam" in name]


@pytest.mark.parametrize(("name", "nth"), BAD, ids=str)
def test_a_gradient_that_is_not_a_number_leaves_weights_and_momentum_as_they_were(name, nth):
    changes = {"optimizer": ALL[name], "model": CNN, "epochs": 1, "augment": ()}
    bad, good = built(changes | {"method": Turning(nth=nth)}, log_every=5), built(changes, log_every=5)
    for event in fit(good.setup, good.state, good.train, good.val):
        if event.step == 2:
            break
    with pytest.raises(NonFinite):
        run(bad)
    assert all(map(torch.equal, bad.state.model.parameters(), good.state.model.parameters()))
    assert all(torch.isfinite(b).all() for b in bad.state.model.buffers())
    assert _same_but_rates(bad.state.optimizer.state_dict(), good.state.optimizer.state_dict())


def _same_but_rates(a, b):
    a, b = (part.get("inner", [part]) for part in (a, b))
    return all(
        _same_but_rates(x, y) if "inner" in x else _equal(x["state"], y["state"]) for x, y in zip(a, b, strict=True)
    )


def test_only_the_second_gradient_of_sam_being_bad_is_said():
    parts = built({"optimizer": SAM(), "method": Turning(nth=2), "epochs": 1, "augment": ()})
    with pytest.raises(NonFinite, match=r"did not occur again .* lower optimizer\.rho"):
        run(parts)


@pytest.mark.parametrize("name", [name for name in ALL if "sam" not in name])
def test_fp16_trains_with_every_optimizer_but_sam(name):
    parts = built({"optimizer": ALL[name], "model": CNN, "precision": "fp16", "epochs": 2})
    parts.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)
    before = [p.detach().clone() for p in parts.state.model.parameters()]
    run(parts)
    after = list(parts.state.model.parameters())
    assert not all(map(torch.equal, before, after))
    assert all(torch.isfinite(p).all() for p in after)


def test_fp16_with_sam_is_refused_before_the_first_step():
    with pytest.raises(UserError, match=r"optimizer: SAM .* use precision bf16 or fp32"):
        built({"optimizer": SAM(), "precision": "fp16"})


@every
def test_it_learns(optimizer):
    parts = built({"optimizer": optimizer, "model": SmallCNN(widths=(8, 8)), "epochs": 10, "augment": ()})
    losses = [event.metrics["train/loss"] for event in run(parts) if event.validation]
    assert losses[-1] < 0.75 * losses[0]


def test_clipping_by_value_bounds_every_element():
    changes = {"optimizer": SGD(lr=1.0, momentum=0.0), "schedule": "Constant", "epochs": 1, "clip_grad_value": 1e-3}
    parts = built(changes)
    before = [p.detach().clone() for p in parts.state.model.parameters()]
    next(iter(fit(parts.setup, parts.state, parts.train, parts.val)))
    moves = [(a - b).abs().max().item() for a, b in zip(before, parts.state.model.parameters(), strict=True)]
    assert max(moves) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD.read({"layer_decay": 0}),
        lambda: SGD.read({"layer_decay": 1.1}),
        lambda: SGD.read({"groups": "fc"}),
        lambda: SGD.read({"groups": {"fc.*": -1}}),
        lambda: RMSprop.read({"alpha": 1}),
        lambda: SAM.read({"rho": 0}),
        lambda: SAM.read({"base": "SAM"}),
        lambda: Muon.read({"ns_steps": 0}),
        lambda: BASE.but({"clip_grad_value": 0}),
    ],
)
def test_fields_refuse_bad_values(make):
    with pytest.raises(UserError):
        make()


@pytest.mark.parametrize("part", [Muon(rest=Muon()), Muon(rest=SGD(groups={"a": 1})), Muon(rest=SGD(layer_decay=0.5))])
def test_what_muons_rest_cannot_be_is_refused(part):
    with pytest.raises(ValueError, match="rest"):
        part.check()


def test_muon_with_normalized_weights_refuses_weight_decay():
    with pytest.raises(ValueError, match="normalize_weights undoes weight_decay; set weight_decay to 0"):
        Muon(normalize_weights=True, weight_decay=0.1).check()
