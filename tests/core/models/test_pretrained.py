"""Weights from elsewhere: what is loaded, what is not, what is refused, and that nothing of a file is ever run."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.common.errors import UserError
from core.export.graph import exported
from core.launch import Launch
from core.models import MLP, ResNet, SmallCNN, Torchvision
from core.models.transfer import adapt, head_of, to_channels
from core.record.run import WEIGHTS
from core.runs.rerun import check_environment
from core.runs.resume import resume
from core.runs.train import train
from core.runs.trained import load
from core.training.assemble import check
from tests.support.loop import BASE
from tests.support.networks import Others, context
from tests.support.runs import digest

QUIET = Launch(mlflow=False, threads=1)
SHORT = BASE.but({"model": SmallCNN(widths=(4, 8)), "augment": (), "epochs": 1})


def saved(path, network):
    (save_file if path.suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_file_gives_every_weight_but_the_head_of_other_classes(suffix, tmp_path, capsys):
    before = SmallCNN(widths=(4, 8)).build(context())
    model = SmallCNN(widths=(4, 8), weights=saved(tmp_path / f"w.{suffix}", before))
    same, other = model.build(context()), model.build(context("ab"))
    for name, tensor in before.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor)
        if not name.startswith(head_of(before)):
            assert torch.equal(other.state_dict()[name], tensor)
    assert other.state_dict()[f"{head_of(before)}.weight"].shape[0] == 2
    first, second = capsys.readouterr().out.splitlines()
    assert "loaded, 2" not in first
    assert "2 replaced (16.weight, 16.bias)" in second


def test_a_run_gives_its_weights_to_other_classes_and_channels_and_both_are_on_record(home, capsys):
    first = train(SHORT, QUIET)
    second = train(SHORT.but({"data": Others(), "model.weights": first.id, "epochs": 1}), QUIET)
    out = capsys.readouterr().out
    assert f"weights of {first.id} (best.safetensors, sha256 " in out
    assert "1 adapted (0.weight: 3 to 1 channels)" in out
    found = hashlib.sha256((first.folder / "artifacts" / WEIGHTS).read_bytes()).hexdigest()
    assert second.record["weights"] == {"name": first.id, "file": "best.safetensors", "sha256": found}
    assert first.record["weights"] is None
    (first.folder / "artifacts" / WEIGHTS).unlink()  # the run itself does not need them any more
    assert second.predict(np.zeros((1, 6, 6, 1), np.uint8)).shape == (1, 3)


def test_as_many_classes_of_other_names_get_a_head_of_their_own(home, tmp_path):
    first = train(SHORT, QUIET)
    model = SHORT.model.but({"weights": first.id})
    kept = load_file(first.folder / "artifacts" / WEIGHTS)[f"{head_of(model.build(context()))}.weight"]
    torch.manual_seed(0)
    for names, same in ((tuple("abcd"), True), (tuple("wxyz"), False)):
        assert torch.equal(model.build(context(names)).get_submodule(head_of(first.model)).weight, kept) is same


def test_a_resumed_run_ends_as_if_it_had_never_stopped_and_refuses_weights_that_have_changed(
    home, tmp_path, monkeypatch
):
    from core.runs import trainer as module

    path = tmp_path / "w.safetensors"
    declared = SHORT.but({"model.weights": saved(path, SHORT.model.build(context()))})
    whole = train(declared, QUIET)
    monkeypatch.setattr(module, "_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(declared, QUIET)
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    runs = [load(folder.name) for folder in (home / "mlruns" / "runs").iterdir()]
    stopped = next(run for run in runs if run.status == "KILLED")
    kept = path.read_bytes()
    saved(path, SHORT.model.build(context()))
    with pytest.raises(UserError, match="have changed since it started"):
        resume(stopped)
    checks = {one.what: one.differences for one in check_environment(whole, QUIET)}
    assert "then" in checks["weights"][0]
    path.write_bytes(kept)
    assert digest(resume(stopped)) == digest(whole)


class Malice:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "among_weights"])
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_malicious_checkpoint_runs_nothing(write, nested, tmp_path):
    path, mark = tmp_path / "w.pth", tmp_path / "mark"
    write({"state_dict": {"0.weight": torch.zeros(3)}, "epoch": Malice(mark)} if nested else Malice(mark), path)
    with pytest.raises(UserError, match="cannot load") as caught:
        MLP(weights=str(path)).build(context())
    assert not mark.exists()
    assert len(caught.value.lines) == 1
    pickle.loads(pickle.dumps(Malice(mark)))
    assert mark.exists()  # the proof is one: unpickled, it does leave its mark


def test_the_latest_run_is_declared_by_its_id(home):
    source = train(SHORT, QUIET)
    assert SHORT.but({"model.weights": "latest"}).model.weights == source.id
    assert SHORT.but({"model.weights": "other/latest"}).model.weights == "other/latest"


def test_a_checkpoint_that_is_cut_off_is_called_damaged(tmp_path):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:2000])
    with pytest.raises(UserError, match="it is damaged"):
        MLP(weights=str(tmp_path / "w.pth")).build(context())


def entry(monkeypatch, content, expected=None):
    """torchvision's entry for ResNet-18, as if its file had this content; the file's name."""
    from torchvision.models import ResNet18_Weights

    name = f"resnet18-{(expected or hashlib.sha256(content).hexdigest())[:8]}.pth"
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", f"http://127.0.0.1:9/{name}")
    return name


@pytest.mark.parametrize("place", ["store", pytest.param("hub", marks=pytest.mark.slow)])
def test_torchvisions_file_is_found_and_its_hash_checked(place, home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    network = Torchvision(name="resnet18").build(context(range(1000)))
    torch.save(network.state_dict(), tmp_path / "file")
    name = entry(monkeypatch, (tmp_path / "file").read_bytes())
    folder = {"store": home / "data" / "store", "hub": tmp_path / "torch" / "hub" / "checkpoints"}[place]
    folder.mkdir(parents=True)
    (tmp_path / "file").rename(folder / name)
    for model in (ResNet(weights="IMAGENET1K_V1"), Torchvision(name="resnet18", weights="DEFAULT")):
        found = model.build(context())
        assert torch.equal(found.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
        assert "120 loaded, 2 replaced (fc.weight, fc.bias)" in capsys.readouterr().out
    (folder / name).write_bytes((folder / name).read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=f"{name} is damaged"):
        check(BASE.but({"model": ResNet(weights="IMAGENET1K_V1")}))


def test_without_file_and_network_one_line_says_where_to_put_it(forge, home):
    words = ("--model", "ResNet", "--model.weights", "IMAGENET1K_V1")
    blocked = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(home)}
    status, text = forge.run("experiments.tiny", *words, env=blocked)
    assert status == 2
    (line,) = [line for line in text.splitlines() if "model.weights" in line]
    target = home / "data" / "store" / "resnet18-f37072fd.pth"
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in line
    assert f"put the file at {target}, or use --model.weights none" in line
    assert "Traceback" not in text
    assert not list((home / "mlruns").glob("runs/*"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ResNet(weights="IMAGENET1K_V3"), "the weights IMAGENET1K_V3 do not exist; did you mean IMAGENET1K_V1"),
        (MLP(weights="IMAGENET1K_V1"), "torchvision has no weights for this network"),
        (MLP(weights="nothing.safetensors"), "the file nothing.safetensors does not exist"),
        (MLP(weights="digits-1"), "digits-1: run not found"),
    ],
    ids=["misspelt", "not_torchvisions", "no_file", "no_run"],
)
def test_what_is_not_there_is_refused_by_its_field_before_data_are_read(model, message):
    with pytest.raises(UserError) as caught:
        check(BASE.but({"model": model}))
    (line,) = caught.value.lines
    assert line.startswith("model.weights: ")
    assert message in line


def test_weights_of_another_architecture_are_refused_with_their_names(tmp_path):
    path = saved(tmp_path / "w.safetensors", SmallCNN(widths=(4, 8)).build(context()))
    with pytest.raises(UserError, match=r"model\.weights: .* of another shape .*: 0\.weight 4x3x3x3, not 5x3x3x3"):
        SmallCNN(widths=(5, 8), weights=path).build(context())
    network = MLP(hidden=(4, 4)).build(context())
    with pytest.raises(UserError, match=r"w: 2 missing .*: 1\.bias, 3\.weight"):
        adapt(network, {"1.weight": torch.zeros(4, 3072), "3.bias": torch.zeros(4)}, 4, True, "w")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "body.", "module._orig_mod.", "net.encoder.q."])
def test_what_programs_put_around_a_network_is_taken_off(prefix, tmp_path):
    network = MLP(hidden=(4,)).build(context())
    nested = {"state_dict": {prefix + name: t for name, t in network.state_dict().items()}, "epoch": 3}
    torch.save(nested, tmp_path / "w.ckpt")
    found = MLP(hidden=(4,), weights=str(tmp_path / "w.ckpt")).build(context())
    assert torch.equal(found[1].weight, network[1].weight)


def test_halves_of_a_network_are_put_together(tmp_path):
    """As mmpretrain saves them; an auxiliary head whose names end alike is not taken for the head."""
    network = SmallCNN(widths=(4, 6)).build(context())
    own = network.state_dict()
    head = head_of(network) + "."
    halves = {("head." if name.startswith(head) else "backbone.") + name: tensor for name, tensor in own.items()}
    torch.save({"state_dict": halves | {f"aux.{head}weight": torch.zeros(4, 6)}}, tmp_path / "w.pth")
    found = SmallCNN(widths=(4, 6), weights=str(tmp_path / "w.pth")).build(context())
    assert all(torch.equal(tensor, own[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize("kind", ["both", "average"])
def test_an_average_beside_the_weights_is_reported(kind, tmp_path, capsys):
    network, average = MLP(hidden=(4,)).build(context()), MLP(hidden=(4,)).build(context())
    saved = {"state_dict_ema": average.state_dict(), "epoch": 3}
    torch.save(saved | ({"state_dict": network.state_dict()} if kind == "both" else {}), tmp_path / "w.pth")
    found = MLP(hidden=(4,), weights=str(tmp_path / "w.pth")).build(context())
    assert torch.equal(found[1].weight, (network if kind == "both" else average)[1].weight)
    said = capsys.readouterr().out
    assert ("state_dict_ema, which the file has too, was not loaded" in said) == (kind == "both")
    assert ("state_dict_ema of the file was loaded" in said) == (kind == "average")


def test_weights_that_do_not_fit_are_shown_with_their_own_names():
    network = MLP(hidden=(4, 4)).build(context())
    with pytest.raises(UserError, match=r"the names in the file are blocks\.0\.mlp, norm"):
        adapt(network, {"blocks.0.mlp": torch.zeros(4), "norm": torch.zeros(4)}, 4, True, "w")


@pytest.mark.parametrize("channels", [1, 2, 5, 6])
def test_channels_that_are_all_alike_give_what_they_gave(channels):
    weight, gray = torch.randn(4, 3, 3, 3), torch.randn(2, 1, 8, 8)
    before = torch.conv2d(gray.expand(-1, 3, -1, -1), weight)
    after = torch.conv2d(gray.expand(-1, channels, -1, -1), to_channels(weight, channels))
    if channels % 3 == 0 or channels < 3:
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert after.shape == before.shape


@pytest.mark.slow
def test_a_vision_transformers_positions_are_interpolated(tmp_path, capsys):
    path = saved(tmp_path / "w.safetensors", Torchvision(name="vit_b_32").build(context(shape=(64, 64, 3))))
    network = Torchvision(name="vit_b_32", weights=path).build(context("ab", shape=(96, 96, 3)))
    assert network.encoder.pos_embedding.shape[1] == 10
    assert "1 adapted (encoder.pos_embedding: 5 to 10 positions)" in capsys.readouterr().out


def test_small_images_are_enlarged_for_a_network_that_takes_none_so_small():
    network = Torchvision(name="mobilenet_v3_small", resize=64).build(context(shape=(6, 6, 3)))
    seen = []
    network.features[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    network.eval()(torch.zeros(2, 3, 6, 6))
    assert seen == [(2, 3, 64, 64)]


@pytest.mark.slow
def test_a_network_that_sees_enlarged_images_is_served_so_too(home):
    run = train(SHORT.but({"model": Torchvision(name="mobilenet_v3_small", resize=64)}), QUIET)
    pixels = np.zeros((3, 6, 6, 3), np.uint8)
    served = exported(run).module()(torch.from_numpy(pixels))
    torch.testing.assert_close(served, torch.from_numpy(run.predict(pixels)), rtol=1e-4, atol=1e-5)
