"""Weights of timm and of the hub by name, with networks of timm whose weights the test makes, and without a network."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.common.errors import UserError
from core.experiment import Experiment
from core.launch import Launch
from core.models import MLP, Timm, Torchvision
from core.models.preset import of_torchvision
from core.optimizers import SGD
from core.runs.train import train
from core.runs.trained import load
from core.training.assemble import check
from core.training.match_weights import matched
from core.training.smoke import declared
from data import ImageFolder
from tests.support.loop import BASE, Tiny
from tests.support.networks import context
from tests.support.optional import library

RESNET, VIT = "resnet10t.c3_in1k", "vit_tiny_patch16_224.augreg_in21k"


@pytest.fixture
def timm():
    return library("timm", extra="timm")


@pytest.fixture
def hub(timm, tmp_path, monkeypatch):
    """A hub that has what timm.create_model gives for a name, in place of the one on the network. Returns what was
    asked for."""
    asked = []

    def download(repository, file, revision=None):
        asked.append((repository, file))
        owner, _, name = repository.partition("/")
        if owner != "timm":
            raise OSError("there is no network")
        path = tmp_path / f"{name}-{file}"
        torch.manual_seed(5)
        save_file(timm.create_model(name.partition(".")[0], num_classes=classes_of(timm, name)).state_dict(), path)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


def classes_of(timm, name):
    return timm.get_pretrained_cfg(name).num_classes


def theirs(timm, name, **made):
    torch.manual_seed(5)
    return timm.create_model(name.partition(".")[0], num_classes=classes_of(timm, name), **made).eval()


@pytest.mark.parametrize("weights", ["DEFAULT", "c3_in1k"])
def test_weights_by_name_are_timms_but_for_the_head_of_other_classes(timm, hub, weights, capsys):
    ours = Timm(name="resnet10t", weights=weights).build(context())
    reference = theirs(timm, RESNET).state_dict()
    assert hub[0] == ("timm/resnet10t.c3_in1k", "model.safetensors")
    for name, tensor in ours.state_dict().items():
        assert (name.startswith("fc.")) == (tensor.shape != reference[name].shape)
        assert name.startswith("fc.") or torch.equal(tensor, reference[name])
    assert "weights of resnet10t.c3_in1k of timm" in (out := capsys.readouterr().out)
    assert "2 replaced (fc.weight, fc.bias)" in out


def test_a_transformer_at_another_size_and_of_gray_images_answers_as_timms_own(timm, hub, tmp_path):
    ours = Timm(name="vit_tiny_patch16_224", weights="DEFAULT").build(context(shape=(64, 64, 1))).eval()
    (file,) = tmp_path.glob("*.safetensors")
    made = {
        "pretrained": True,
        "pretrained_cfg_overlay": {"file": str(file), "custom_load": False},
        "img_size": 64,
        "num_classes": 0,
    }
    other = timm.create_model("vit_tiny_patch16_224", **made).eval()
    gray = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    features = ours.forward_head(ours.forward_features(gray), pre_logits=True)
    torch.testing.assert_close(features, other(gray.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


def written(timm, folder, name="resnet10t", **more):
    """A folder in the layout of the hub, as timm.models.save_for_hf writes it."""
    network = timm.create_model(name, num_classes=4)
    timm.models.save_for_hf(network, folder, model_config=more or None, safe_serialization=True)
    return network


def test_a_local_folder_that_timm_wrote_gives_its_weights_and_its_head_if_the_classes_are_the_same(timm, tmp_path):
    network = written(timm, tmp_path / "saved", label_names=["a", "b", "c", "d"])
    same, other = (
        Timm(name="resnet10t", weights=f"local-dir:{tmp_path / 'saved'}").build(context(names))
        for names in ("abcd", "dcba")
    )
    assert torch.equal(same.fc.weight, network.fc.weight)
    assert not torch.equal(other.fc.weight, network.fc.weight)
    assert torch.equal(other.layer1[0].conv1.weight, network.layer1[0].conv1.weight)


class Large(Tiny):
    """Images that are large enough for the networks of timm."""

    def load(self, root=None):
        splits = super().load(root)
        pixels = np.ascontiguousarray(splits.train.pixels.repeat(6, axis=1).repeat(6, axis=2)[:, :32, :32])
        return replace(
            splits, **{name: replace(getattr(splits, name), pixels=pixels) for name in ("train", "val", "test")}
        )


def test_a_run_with_weights_by_name_records_their_digest_and_is_loaded_without_them(timm, hub, home, tmp_path):
    model = Timm(name="resnet10t", weights="DEFAULT")
    changes = {"data": Large(), "model": model, "epochs": 1, "augment": (), "match_weights": True}
    run = train(BASE.but(changes), Launch(mlflow=False, threads=1))
    assert run.record["weights"]["name"] == "resnet10t.c3_in1k of timm"
    assert len(run.record["weights"]["sha256"]) == 64
    assert run.experiment.normalize == "imagenet"
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    assert load(run.id).model(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


# ---- images as the weights expect them


def folder_with(model):
    return Experiment(data=ImageFolder(size=32), model=model, optimizer=SGD(), match_weights=True)


def test_size_crop_interpolation_and_normalization_are_those_of_timms_evaluation(timm, hub):
    from PIL import Image

    found = declared(folder_with(Timm(name="resnet10t", weights="DEFAULT")), Launch(), None)
    cfg = timm.get_pretrained_cfg(RESNET)
    assert (found.data.size, found.data.interpolation, found.normalize) == (176, "bicubic", "imagenet")
    noise = torch.randint(0, 256, (211, 300, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(noise.numpy())
    their = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict()))(image)
    ours = torch.from_numpy(np.array(found.data.frame.cut(image))).movedim(-1, 0) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (cfg.mean, cfg.std))
    torch.testing.assert_close((ours - mean) / std, their, rtol=0, atol=0.05)


def test_those_of_torchvision_are_of_its_presets():
    import torchvision.models as tv

    preset = of_torchvision(tv.get_model_weights("efficientnet_b0").DEFAULT)
    assert (preset.size, preset.resize_size, preset.interpolation) == ((224, 224), 256, "bicubic")
    assert preset.mean == (0.485, 0.456, 0.406)


def test_matching_without_known_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"match_weights: the model has no pretrained weights; set model\.weights"):
        matched(BASE.but({"match_weights": True}))
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="match_weights: it is not known how images were prepared for"):
        matched(BASE.but({"model": MLP(weights=str(file))}))


# ---- mistakes


def test_without_network_and_cache_the_message_says_where_to_put_which_file(timm, monkeypatch, home, capsys):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_, **__):
        raise LocalEntryNotFoundError("Cannot find the requested files in the disk cache")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(UserError) as caught:
        check(BASE.but({"model": Timm(name="resnet10t", weights="DEFAULT")}))
    (line,) = caught.value.lines
    assert line.startswith(
        "model.weights: model.safetensors of timm/resnet10t.c3_in1k is not in the cache of huggingface"
    )
    place = line.partition("put the file at ")[2].partition(",")[0]
    assert "hf download timm/resnet10t.c3_in1k model.safetensors" in line
    Path(place).parent.mkdir(parents=True)
    save_file(theirs(timm, RESNET).state_dict(), place)  # what the message asked for
    Timm(name="resnet10t", weights="DEFAULT").build(context())
    assert "weights of resnet10t.c3_in1k" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("c3_in1", r"did you mean c3_in1k"),
        ("IMAGENET1K_V1", r"the weights IMAGENET1K_V1 do not exist.*; choose one of DEFAULT, c3_in1k"),
        ("local-dir:/nowhere", r"local-dir:/nowhere has no config\.json that names the architecture"),
        ("hf-hub:me/mine", r"config\.json of me/mine is not in the cache .*\(there is no network\)"),
    ],
)
def test_a_wrong_name_of_weights_is_told(timm, hub, weights, message):
    with pytest.raises(UserError, match=message):
        check(BASE.but({"model": Timm(name="resnet10t", weights=weights)}))


def test_weights_of_another_network_and_damaged_ones_are_told(timm, tmp_path):
    written(timm, tmp_path / "saved")
    here = f"local-dir:{tmp_path / 'saved'}"
    with pytest.raises(UserError, match=r"has weights of resnet10t, not of resnet18; use --model\.name resnet10t"):
        check(BASE.but({"model": Timm(name="resnet18", weights=here)}))
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"model\.weights: timm cannot load .*model\.safetensors into resnet10t: "):
        Timm(name="resnet10t", weights=here).build(context())
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    (tmp_path / "saved" / "model.safetensors").unlink()
    assert config["architecture"] == "resnet10t"
    with pytest.raises(UserError, match=r"has no file model\.safetensors or pytorch_model\.bin"):
        check(BASE.but({"model": Timm(name="resnet10t", weights=here)}))


def test_torchvisions_weights_are_found_as_before():
    with pytest.raises(UserError, match="resnet18 has IMAGENET1K_V1, DEFAULT"):
        Torchvision(name="resnet18", weights="IMAGENET1K_V7").origin()
