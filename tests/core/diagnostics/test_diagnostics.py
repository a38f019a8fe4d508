"""Looking closer: summary, profile, anomalies, one batch, layers. They show what is there and change no bit."""

import gzip
import json
import re

import pytest
import torch
from torch import nn

from core.cli import list as listing
from core.cli import main as command
from core.common import paths
from core.common.errors import NonFinite
from core.diagnostics import anomaly
from core.diagnostics.layer_statistics import dead_units, extremes, gradient_norms, layers, update_ratios
from core.diagnostics.model_summary import described, summary
from core.diagnostics.overfit import verdict
from core.launch import Launch
from core.loading.batches import Plan
from core.methods import Method, Supervised
from core.models import MLP, Model, SmallCNN, forward_flops
from core.optimizers import SGD
from core.record import journal
from core.runs.train import train
from core.runs.trained import Run
from core.training.assemble import assemble
from core.training.loop import fit
from core.training.plans import OVERFIT_STEPS
from core.training.runtime import anomaly_mode
from core.training.smoke import overfitted
from tests.support.loop import BASE, Rooted, built, digest
from tests.support.loop import run as run_loop
from tests.support.processes import start

PROGRAM = "experiments.tiny"
SUPERVISED = Supervised()
OFFLINE = {"mlflow": False, "threads": 1}


def only_run(home) -> Run:
    (folder,) = (home / "mlruns" / "runs").iterdir()
    return Run(folder)


def kept(run):
    return {event["path"] for _, event in journal.read(run.folder) if event["event"] == "artifact"}


def tags(run):
    found = {}
    for _, event in journal.read(run.folder):
        found |= event["values"] if event["event"] == "tags" else {}
    return found


def best_weights(run):
    return (run.folder / "artifacts/weights/best.safetensors").read_bytes()


# --- summary


class Shared(Model):
    """A layer used twice, a weight of two layers, a parameter owned beside layers, a frozen layer."""

    def network(self, context):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(5))
                self.first, self.twice, self.frozen = nn.Linear(108, 6), nn.Linear(6, 6), nn.Linear(6, 4)
                self.again, self.tied = self.twice, nn.Linear(6, 6)
                self.tied.weight = self.twice.weight
                self.frozen.requires_grad_(False)

            def forward(self, images):
                x = self.tied(self.again(self.twice(self.first(images.flatten(1))))) * self.scale.mean()
                return self.frozen(x)

        return Network()


@pytest.mark.parametrize("model", [MLP(hidden=(8,)), SmallCNN(widths=(4, 6)), Shared()], ids=["mlp", "cnn", "shared"])
def test_the_parameters_of_the_layers_add_up_to_those_of_the_network(model, home):
    changes = {"model": model}
    found, network = summary(BASE.but(changes), Launch(**OFFLINE)), built(changes).state.model
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert sum(layer.parameters for layer in found.layers) == found.parameters
    assert found.trainable == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert sum(layer.flops for layer in found.layers) == found.flops > 0
    assert not (home / "mlruns").exists()


def test_shapes_and_flops_of_known_layers():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 5))
    found = {layer.name: layer for layer in described(network, torch.zeros(1, 3, 6, 6), (6, 6, 3)).layers}
    assert [layer.shape for layer in found.values()] == [(8, 4, 4), (8, 4, 4), (128,), (5,)]
    assert found["0"].flops == 2 * 8 * 16 * 27
    assert found["3"].flops == 2 * 128 * 5
    assert not any(module._forward_hooks for module in network.modules())


class Attentive(nn.Module):
    """Computes beside its children, and calls a grandchild without its parent."""

    def __init__(self):
        super().__init__()
        self.project = nn.ModuleDict({"into": nn.Linear(3, 12)})
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, images):
        query, key, value = self.project["into"](images.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        x = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.attend(x, x, x, need_weights=False)[0].mean(dim=1)


def test_every_flop_of_the_network_stands_in_one_row():
    tokens, network = 10, Attentive()
    found = described(network, torch.zeros(1, 3, 2, 5), (2, 5, 3))
    attention = 2 * 2 * tokens**2 * 4
    assert {layer.name: layer.flops for layer in found.layers} == {
        "": attention,
        "project.into": 2 * tokens * 3 * 12,
        "attend": 2 * tokens * 4 * 4 * 4 + attention,
        "attend.out_proj": 0,  # its weights are used by the module above
    }
    assert found.flops == sum(layer.flops for layer in found.layers) == forward_flops(network, (2, 5, 3))


def test_summary_on_the_command_line(capsys, home):
    with pytest.raises(SystemExit) as left:
        command.experiment(PROGRAM, ["summary", "--model.widths", "8,16"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    assert "8x8x8" in out
    assert "BatchNorm2d" in out
    assert not paths.runs().exists()


# --- profile


@pytest.mark.parametrize(("epochs", "steps"), [(3, 5), (1, 5)], ids=["after_warmup", "fewer_steps_than_the_warmup"])
def test_a_profile_is_kept_with_the_run(epochs, steps, home, capfd):
    run = train(BASE.but({"epochs": epochs}), Launch(profile=True, **OFFLINE))
    printed = capfd.readouterr()
    assert "profile of" in printed.out
    assert not [line for line in (printed.out + printed.err).splitlines() if re.search("ERROR|USDT", line)]
    assert {"profile/trace.json.gz", "profile/operations.txt", "profile/memory.txt"} <= kept(run)
    folder = run.folder / "artifacts" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["memory.txt", "operations.txt", "trace.json.gz"]
    events = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "Optimizer.step#SGD.step" for event in events) == steps
    assert f"{steps} steps, sorted by self_cpu_time_total" in (folder / "operations.txt").read_text()
    assert "aten::addmm" in (folder / "operations.txt").read_text()
    assert "peak resident memory" in (folder / "memory.txt").read_text()


def test_a_failed_run_leaves_no_profiler_running(home):
    class Bug(Method):
        def step(self, model, loss, batch, clock):
            if clock.step == 2:
                raise KeyError("a bug")
            return SUPERVISED.step(model, loss, batch, clock)

    with pytest.raises(KeyError):
        train(BASE.but({"method": Bug(), "epochs": 1}), Launch(profile=True, **OFFLINE))
    assert not torch.autograd._profiler_enabled()


# --- anomalies


class Once(Method):
    """The gradient of step 3 is not a number."""

    def step(self, model, loss, batch, clock):
        if clock.step == 2:
            return Rooted.step(self, model, loss, batch, clock)
        return SUPERVISED.step(model, loss, batch, clock)


def test_an_anomaly_names_step_layer_operation_and_line(home):
    with pytest.raises(NonFinite) as caught:
        train(BASE.but({"method": Once()}), Launch(detect_anomaly=True, **OFFLINE))
    text = str(caught.value)
    assert "at step 3 (epoch 1): the loss is finite, but the gradient of" in text
    assert "the first NaN is in the gradient of Pow, called in " in text
    assert "loop.py, line" in text
    assert ".square().sum(dim=1).sqrt()" in text
    assert caught.value.step == 3
    assert only_run(home).status == "FAILED"
    assert not torch.is_anomaly_enabled()


def test_other_warnings_are_heard_in_anomaly_mode(recwarn):
    import warnings

    def events():
        warnings.warn("something else", stacklevel=1)
        yield

    with anomaly_mode(True):
        list(anomaly.explained(events(), built()))
    assert [str(warning.message) for warning in recwarn] == ["something else"]


def test_other_errors_pass_in_anomaly_mode():
    def events():
        raise RuntimeError("a bug of the user's own")
        yield

    with anomaly_mode(True), pytest.raises(RuntimeError, match="user's own"):
        list(anomaly.explained(events(), built()))


# --- one batch


def test_one_batch_is_learnt_and_never_counts_as_a_best_result(home, capsys):
    changes = {"epochs": 30, "model": MLP(hidden=(64,)), "stopping.patience": 1}
    run = train(BASE.but(changes), Launch(overfit=8, **OFFLINE), "x")
    assert tags(run)["overfit"] == "reached"
    assert tags(run)["launch.overfit"] == "8"
    assert run.metrics["train/accuracy"] == 1.0
    assert run.metrics["train/loss"] < 0.05
    assert sorted(run.history["train/loss"]) == list(range(1, 31)), "nothing stops it early"
    assert "overfit: reached: accuracy 100.0%" in capsys.readouterr().out
    assert listing.best_on_record("x") is None
    assert run.experiment.augment == ()


def test_what_cannot_be_learnt_is_reported_with_advice(home, capsys):
    changes = {"epochs": 2, "optimizer.lr": 1e-9, "schedule": "Constant", "model.dropout": 0.2}
    run = train(BASE.but(changes), Launch(overfit=8, **OFFLINE), "x")
    out = capsys.readouterr().out
    assert tags(run)["overfit"] == "not reached"
    assert "overfit: not reached" in out
    assert "lr_find suggests one" in out
    assert "--optimizer.weight_decay" in out
    assert "--model.dropout" in out


def test_a_loss_that_still_falls_asks_for_more_epochs():
    history = [{"train/accuracy": 0.5, "train/loss": 2.0}, {"train/accuracy": 0.7, "train/loss": 1.0}]
    assert "increase --epochs" in verdict(BASE, history)[1]
    assert verdict(BASE, []) == []


def test_every_step_sees_the_same_batch_whole():
    small = overfitted(BASE, 8)
    parts = assemble(small, small.data.load().limited(8), Launch(overfit=8, device="cpu"))
    batches = list(parts.train.epoch(3))
    assert len(batches) == parts.context.steps_per_epoch == OVERFIT_STEPS
    assert all(sorted(batch.index.tolist()) == list(range(8)) for batch in batches)
    assert len({tuple(batch.index.tolist()) for batch in batches}) > 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_repeats_give_each_rank_its_share_from_any_step(ranks):
    plans = [Plan(8, 8, 5, True, rank, ranks, repeats=3) for rank in range(ranks)]
    for start_at in (0, 2):
        spans = [list(plan.spans(start_at)) for plan in plans]
        covered = sorted(i for each in spans for first, end in each for i in range(first, end))
        assert covered == list(range(8 * start_at, 24))
    orders = [tuple(order) for epoch in range(2) for order in plans[0].order(epoch).reshape(3, 8)]
    assert len(set(orders)) == 6, "no order comes again in the next epoch"


def test_one_batch_is_resumed_to_the_bit(home):
    changes = {"epochs": 4}
    declared = overfitted(BASE.but(changes), 8)
    splits = declared.data.load().limited(8)
    whole, first = (assemble(declared, splits, Launch(overfit=8, device="cpu")) for _ in range(2))
    run_loop(whole)
    for event in fit(first.setup, first.state, first.train, first.val):
        if event.step == OVERFIT_STEPS + 7:
            break
    list(fit(first.setup, first.state, first.train, first.val))
    assert digest(first.state) == digest(whole.state)


# --- layers


def test_the_ratio_is_that_of_one_step_of_plain_descent(home):
    changes = {"augment": (), "model.dropout": 0.0, "optimizer": SGD(lr=0.1, momentum=0.0), "schedule": "Constant"}
    run = train(BASE.but(changes | {"epochs": 1}), Launch(diagnose=True, **OFFLINE))
    parts = built(changes | {"epochs": 1})
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        if event.step == 4:
            weights = {name: [p.detach().clone() for p in ps] for name, ps in layers(parts.state.model).items()}
        if event.validation:
            break
    for name, old in weights.items():
        size = torch.cat([p.flatten() for p in old]).norm().item()
        gradient = run.metrics[f"layers/{name}.grad_norm"]
        assert run.metrics[f"layers/{name}.update_ratio"] == pytest.approx(0.1 * gradient / size, rel=1e-3)
    assert {"1", "3"} == set(weights)


def test_ratios_and_gradients_by_hand():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[3.0, 4.0]])
    layer.weight.grad = torch.tensor([[0.0, 2.0]])
    now = layers(nn.Sequential(layer))
    assert update_ratios({"0": [torch.tensor([[3.0, 3.0]])]}, now) == {"0": pytest.approx(1 / 18**0.5)}
    assert update_ratios({"0": [torch.zeros(1, 2)]}, now) == {}
    assert gradient_norms(now) == {"0": 2.0}


def test_dead_units_are_counted_by_channel_and_by_feature():
    convolution, linear = nn.Conv2d(1, 4, 1), nn.Linear(4, 3)
    nn.init.ones_(convolution.weight)
    convolution.bias.data = torch.tensor([0.0, -10.0, 0.0, 0.0])
    nn.init.ones_(linear.weight)
    linear.bias.data = torch.tensor([-99.0, -99.0, 0.0])
    pooled = [nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(convolution, *pooled, linear, nn.ReLU())
    network[5].eval()
    images = torch.zeros(3, 1, 2, 2)
    images[1, 0, 0, 0] = 1.0  # alive at one place of one image is alive
    assert dead_units(network, images) == {"1": 0.25, "5": pytest.approx(2 / 3)}
    assert [module.training for module in network] == [True] * 5 + [False]
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("batch_size", [8, 40], ids=["steps", "one_step_an_epoch"])
def test_layers_are_journalled_once_an_epoch(batch_size, home, capsys):
    run = train(BASE.but({"batch_size": batch_size}), Launch(diagnose=True, **OFFLINE))
    for name in ("layers/1.update_ratio", "layers/4.update_ratio", "layers/1.grad_norm", "layers/2.dead"):
        assert sorted(run.history[name]) == [1, 2, 3], name
    assert run.history["layers/1.update_ratio"][1] > 0
    assert "update ratio per step" in capsys.readouterr().out


def test_what_is_reported_names_the_layers_at_the_ends():
    first = {"layers/a.dead": 0.1, "layers/b.c.dead": 0.9, "layers/a.grad_norm": 3.0}
    last = {"layers/a.dead": 0.0, "layers/b.c.dead": 0.5}
    text = "fraction of dead ReLU units, median of the epochs: "
    assert extremes([first, first, last]) == [f"{text}1.0e-01 (layer a) to 9.0e-01 (layer b.c)"]
    assert extremes([{"layers/a.dead": 0.0, "layers/b.dead": 0.0}]) == [f"{text}0.0e+00 in every layer"]
    assert extremes([]) == []


# --- all of them


def test_looking_changes_no_bit_of_the_weights(home):
    plain = train(BASE, Launch(**OFFLINE))
    watched = train(BASE, Launch(profile=True, diagnose=True, detect_anomaly=True, **OFFLINE))
    assert best_weights(plain) == best_weights(watched)
    assert not any(name.startswith("layers/") for name in plain.metrics)
    assert not any(name.startswith("profile/") for name in kept(plain))


def test_what_is_not_asked_for_costs_nothing():
    events = iter(())
    assert anomaly.explained(events, None) is events


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--overfit", "1"], "--overfit: should be greater than or equal to 2"),
        (["--overfit"], "--overfit: needs a value"),
        (["--profile", "perhaps"], "--profile"),
        (["--detect-anomly"], "did you mean --detect_anomaly?"),
        (["--overfit", "8", "--grad_accum_steps", "3"], "grad_accum_steps: 3 does not divide"),
        (["--overfit", "90000"], "batch_size: 90000 is more than the"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_values_are_refused(words, message, capsys, home):
    with pytest.raises(SystemExit) as left:
        command.experiment(PROGRAM, words)
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not paths.runs().exists()


def test_help_shows_them(capsys):
    with pytest.raises(SystemExit):
        command.experiment(PROGRAM, ["--help", "all"])
    out = capsys.readouterr().out
    for name in ("lr_find", "summary", "--min_lr", "--max_lr", "--smoothing", "--overfit", "--profile", "--diagnose",
                 "--detect_anomaly"):  # fmt: skip
        assert f"  {name}" in out


def test_two_processes_look_and_only_the_first_writes(forge, home):
    words = (PROGRAM, "--mlflow", "false", "--threads", "1", "--overfit", "32", "--epochs", "2")
    looking = ("--profile", "--diagnose", "--detect-anomaly")
    processes = start(forge, *words, *looking)
    assert [process.wait() for process in processes] == [0, 0], processes[0].text
    run = only_run(home)
    assert "profile/trace.json.gz" in kept(run)
    assert sorted(run.history["layers/0.update_ratio"]) == [1, 2]
    assert tags(run)["overfit"] in ("reached", "not reached")
