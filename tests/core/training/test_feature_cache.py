"""The head on features computed once: the same weights as through the network, in less time."""

import pytest
import torch

from core.augment import HorizontalFlip
from core.common.errors import NonFinite
from core.launch import Launch
from core.models import ResNet, SmallCNN, Torchvision
from core.models.freeze import Freeze
from core.optimizers.averaging import Ema, Swa
from core.runs.resume import resume
from core.runs.train import train
from core.runs.trained import load
from core.training import feature_cache
from core.training.assemble import assemble
from core.training.feature_cache import Tail, fit_cached
from tests.support.loop import BASE, Tiny
from tests.support.runs import digest

PROBE = BASE.but({"model": SmallCNN(widths=(4, 8), dropout=0.3), "augment": (), "freeze": Freeze(), "epochs": 2})
CACHED = Launch(mlflow=False, threads=1)
WHOLE = CACHED.but({"cache_features": False})


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": Ema(decay=0.5), "grad_accum_steps": 2},
        pytest.param({"swa": Swa(start=0.0), "optimizer": "AdamW"}, marks=pytest.mark.slow),
        pytest.param({"precision": "bf16"}, marks=pytest.mark.slow),
        pytest.param({"model": Torchvision(name="mobilenet_v3_small")}, marks=pytest.mark.slow),
        pytest.param({"model": ResNet(dropout=0.3), "optimizer": "SAM"}, marks=pytest.mark.slow),
    ],
    ids=["ema", "swa", "bf16", "torchvision", "dropout_in_a_hook"],
)
def test_the_weights_and_metrics_are_those_of_training_through_the_network(changes, home, capsys):
    declared = PROBE.but(changes)
    cached, whole = train(declared, CACHED), train(declared, WHOLE)
    assert capsys.readouterr().out.count("computed the features of 48 images") == 1
    ours, theirs = cached.model.state_dict(), whole.model.state_dict()
    tolerance = 5e-2 if "precision" in changes else 1e-4
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance)
    assert cached.history["val/loss"][1] != cached.history["val/loss"][2]  # it did train
    for metric in ("train/loss", "val/loss", "test/loss"):
        assert cached.metrics[metric] == pytest.approx(whole.metrics[metric], rel=tolerance, abs=tolerance)


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": (HorizontalFlip(),)},
        {"freeze": Freeze(unfreeze_epoch=1)},
        {"freeze": Freeze(up_to="3")},
        pytest.param({"freeze": None}, marks=pytest.mark.slow),
        pytest.param({"loss": "ArcFace", "loss.embedding_dim": 4}, marks=pytest.mark.slow),
    ],
    ids=["augmented", "let_go", "only_the_first", "free", "head_in_the_loss"],
)
def test_where_features_change_or_the_head_is_another_it_trains_through_the_network(changes, home, capsys):
    train(PROBE.but(changes), CACHED)
    assert "features of" not in capsys.readouterr().out


def test_too_many_features_are_not_kept(home, capsys, monkeypatch):
    monkeypatch.setattr(feature_cache, "MOST_BYTES", 40 * 8 * 4 - 1)
    train(PROBE, CACHED)
    assert "features of" not in capsys.readouterr().out


def test_stopped_and_resumed_it_ends_in_the_same_bits(home, monkeypatch):
    from core.runs import trainer as module

    whole = train(PROBE, CACHED)
    record = module._record

    def stop(journal, parts, event):
        if event.step == 7:
            raise KeyboardInterrupt
        record(journal, parts, event)

    monkeypatch.setattr(module, "_record", stop)
    with pytest.raises(KeyboardInterrupt):
        train(PROBE, CACHED.but({"checkpoint_every": "3"}))
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    stopped = next(r for r in map(load, (p.name for p in (home / "mlruns" / "runs").iterdir())) if r.status == "KILLED")
    assert digest(resume(stopped)) == digest(whole)


def test_what_is_trained_is_the_tail_of_the_network_which_itself_takes_images_as_ever():
    parts = assemble(PROBE.but({"ema": Ema(decay=0.5)}), Tiny().load(), CACHED.but({"device": "cpu"}))
    network, average = parts.state.model, parts.state.ema.module
    images = parts.setup.normalize(next(iter(parts.val.epoch(0)))).images
    before = network.eval()(images), average.eval()(images)
    tail = Tail(network, ("16",))
    assert {name: tensor.data_ptr() for name, tensor in tail.state_dict().items()} == {
        name: tensor.data_ptr() for name, tensor in network.state_dict().items() if name.startswith("16.")
    }
    *_, last = fit_cached(parts)
    assert last.step == parts.state.step == 2 * len(parts.train.plan)
    assert len(parts.state.history) == 2
    assert int(parts.state.ema.n_averaged) == last.step
    for old, new in zip(before, (network.eval()(images), average.eval()(images)), strict=True):
        assert not torch.equal(old, new)
    assert last.validation.metrics["loss"] == pytest.approx(
        float(parts.setup.loss(average(images), next(iter(parts.val.epoch(0))).targets).mean().detach()), rel=1e-4
    )


def test_a_layer_that_is_not_finite_has_the_name_that_it_has_in_the_network():
    parts = assemble(PROBE, Tiny().load(), CACHED.but({"device": "cpu"}))
    with torch.no_grad():
        parts.state.model.get_submodule("16").bias.fill_(float("inf"))
    with pytest.raises(NonFinite, match=r"layer 16 \(Linear\)"):
        list(fit_cached(parts))
