"""LoRA: few trained parameters, the arithmetic of peft, and the plain network's weights on record, to the bit."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.common.errors import UserError
from core.diagnostics.model_summary import summary
from core.inference.answers import read
from core.inference.network import network_of
from core.launch import Launch
from core.loading.images import Dataset, Splits
from core.models import ResNet, SmallCNN, Timm, Torchvision
from core.models.freeze import Freeze
from core.models.lora import Lora
from core.models.transfer import head_of
from core.models.weights import load_weights, merged, unmerged
from core.optimizers import AdamW
from core.optimizers.averaging import Ema, Swa
from core.record.run import WEIGHTS
from core.runs.resume import resume
from core.runs.soup import soup
from core.runs.train import train
from core.runs.trained import load
from core.training.assemble import assemble, check
from data import Digits
from experiments.tiny import EXPERIMENT
from tests.support.loop import BASE, Tiny, digest, run, taken_up
from tests.support.networks import context
from tests.support.optional import library

QUIET = Launch(device="cpu", mlflow=False, threads=1)


class FiveDigits(Dataset):
    """The digits from `first` on: five classes."""

    first: int = 0

    def load(self, root=None):
        splits, classes = Digits().load(root), slice(self.first, self.first + 5)

        def five(images):
            images = images.take(np.flatnonzero(images.targets // 5 == self.first // 5))
            return replace(images, targets=images.targets - self.first)

        parts = map(five, (splits.train, splits.val, splits.test))
        return Splits("five digits", splits.classes[classes], *parts, f"from {self.first}", "scikit-learn")


ONE = EXPERIMENT.but({"data": FiveDigits(), "stopping": None, "epochs": 5})
TUNED = ONE.but({"data": FiveDigits(first=5), "optimizer": AdamW(lr=5e-3)})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        yield train(ONE, QUIET, "tiny")


@pytest.fixture(scope="module")
def tuned(source):
    """The network of five digits, fine-tuned by LoRA for the other five."""
    return load(train(TUNED.but({"model.weights": source.id, "lora": Lora(rank=4)}), QUIET, "tiny").id)


@pytest.fixture
def there(source, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(source.folder.parents[2]))


NETWORKS = {
    "resnet": lambda: ResNet().build(context()),
    "depthwise": lambda: Torchvision(name="mobilenet_v3_small").build(context()),
    "torchvision_attention": lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4),
    "reads_weights_of_layers": lambda: torchvision.models.SwinTransformer([2, 2], 8, [2], [2], [4, 4], num_classes=4),
    "timm_attention": lambda: Timm(name="test_vit").build(context(shape=(160, 160, 3))),
}


def perturbed(network):
    """As after some training."""
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.endswith(".down"):
            nn.init.normal_(parameter, std=0.1)
    return network


def test_few_parameters_beat_a_frozen_network_and_the_head_alone_is_trained_besides(source, tuned, there):
    probe = train(TUNED.but({"model.weights": source.id, "freeze": Freeze()}), QUIET, "tiny")
    assert tuned.metrics["test/accuracy"] > probe.metrics["test/accuracy"] + 0.1
    before, after = source.model.state_dict(), tuned.model.state_dict()
    changed = {
        name for name in before if before[name].shape != after[name].shape or (before[name] != after[name]).any()
    }
    assert changed == {"0.weight", "3.weight", "7.weight", "10.weight", "16.weight", "16.bias"}
    for name in ("3.weight", "7.weight"):
        assert torch.linalg.matrix_rank((after[name] - before[name]).flatten(1), rtol=1e-4) == 4


def test_the_record_is_a_plain_network_that_answers_to_the_bit_as_the_adapted_one_was_tested(tuned, there):
    test = FiveDigits(first=5).load().test
    kept = load_file(tuned.folder / "artifacts" / WEIGHTS)
    plain = tuned.experiment.model.but({"weights": None}).build(context("56789", (8, 8, 1)))
    load_weights(plain, kept, "plain")  # names and shapes
    recorded = read(tuned, "test").logits  # less the largest of each image, in half precision
    logits = network_of(tuned, "cpu").logits(test.pixels[test.rows])
    assert np.array_equal(recorded, (logits - logits.amax(dim=1, keepdim=True)).half().numpy())
    assert (logits.argmax(dim=1).numpy() == test.targets).mean() == tuned.metrics["test/accuracy"]


@pytest.mark.parametrize("kind", NETWORKS)
def test_merged_weights_compute_what_the_adapted_network_does(kind):
    network = NETWORKS[kind]().eval()
    plain = copy.deepcopy(network)
    side = 160 if kind == "timm_attention" else 32
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    adapted = Lora(rank=2).prepare(network)
    with torch.inference_mode():
        expected = plain(x)
        assert torch.equal(adapted(x), expected)  # nothing is added at the start
    assert head_of(network) == head_of(plain)
    perturbed(network)
    kept = merged(network)
    assert kept.keys() == plain.state_dict().keys()
    load_weights(plain, kept, kind)
    with torch.inference_mode():
        answer = plain(x)
        assert not torch.allclose(answer, expected, atol=1e-4)
        assert torch.equal(network(x), answer)
        network.load_state_dict(unmerged(network, kept))
        assert torch.equal(network(x), answer)
    network.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_matrices_are_those_of_peft():
    peft = library("peft", package="peft")
    ours, theirs = ResNet().build(context()).eval(), ResNet().build(context()).eval()
    theirs.load_state_dict(ours.state_dict())
    ours = perturbed(Lora(rank=4, alpha=12.0, targets=("conv2", "layer1.0.conv1")).prepare(ours))
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=r".*conv2|layer1\.0\.conv1")
    theirs = peft.inject_adapter_in_model(config, theirs)
    for name, module in theirs.named_modules():
        if hasattr(module, "lora_A"):
            matrices = ours.get_submodule(name).parametrizations.weight[0]
            down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
            down.data, up.data = matrices.down.data.view(down.shape), matrices.up.data.view(up.shape)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x))

    def trained(network):
        return sum(p.numel() for name, p in network.named_parameters() if p.requires_grad and "fc" not in name)

    assert trained(ours) == trained(theirs)


@pytest.mark.parametrize("changes", [{"ema": Ema(decay=0.5)}, {"swa": Swa(start=0.0)}], ids=["ema", "swa"])
def test_left_and_taken_up_it_ends_in_the_same_bits(changes):
    def built():
        declared = BASE.but({"model": SmallCNN(widths=(4, 8)), "lora": Lora(rank=2), "epochs": 2, **changes})
        return assemble(declared, Tiny().load(), Launch(device="cpu"))

    whole, first, second = built(), built(), built()
    norms = copy.deepcopy([m.state_dict() for m in whole.state.evaluated.modules() if isinstance(m, _BatchNorm)])
    run(whole)
    taken_up(first, second, 7)
    assert digest(second.state) == digest(whole.state)
    for module, before in zip(
        (m for m in whole.state.evaluated.modules() if isinstance(m, _BatchNorm)), norms, strict=True
    ):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[name])  # also where averages of weights get statistics of their own


def test_an_interrupted_run_ends_with_the_same_weights_on_record(tuned, there, monkeypatch):
    from core.runs import trainer as module

    record = module._record

    def stop(journal, parts, event):
        record(journal, parts, event)
        if event.validation and event.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_record", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tuned.experiment, QUIET, "tiny")
    monkeypatch.setattr(module, "_record", record)
    stopped = max(tuned.folder.parent.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    assert stopped != tuned.folder
    again = resume(load(stopped.name))
    assert (again.folder / "artifacts" / WEIGHTS).read_bytes() == (tuned.folder / "artifacts" / WEIGHTS).read_bytes()


def test_a_soup_and_another_training_start_from_its_weights(tuned, there, capsys):
    other = train(tuned.experiment.but({"seed": 1, "epochs": 2}), QUIET, "tiny")
    mixed = soup([tuned, other], uniform=True).run
    assert mixed.predict(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 5)
    weights = [load_file(each.folder / "artifacts" / WEIGHTS) for each in (mixed, tuned, other)]
    for name, mean in weights[0].items():
        if "num_batches" not in name:
            torch.testing.assert_close(mean, (weights[1][name] + weights[2][name]) / 2)
    capsys.readouterr()
    train(TUNED.but({"model.weights": tuned.id, "epochs": 1}), QUIET, "tiny")
    assert "26 loaded" in capsys.readouterr().out


def test_summary_tells_how_many_parameters_are_trained(source, there):
    found = summary(TUNED.but({"model.weights": source.id, "lora": Lora(rank=4)}), QUIET)
    rows = {row.name: row for row in found.layers}
    assert rows["3"].kind == "Conv2d with LoRA"
    assert (rows["3"].parameters, rows["3"].trainable) == (9216 + 4 * (32 + 288), 4 * (32 + 288))
    assert rows["16"].trainable == rows["16"].parameters
    assert rows["4"].trainable == 0
    assert found.trainable == sum(row.trainable for row in found.layers) < found.parameters / 10
    assert found.flops >= sum(row.flops for row in found.layers) > 0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"lora.targets": ("qkv",)}, r"lora\.targets: qkv matches no module of the model; layers: 0, 3, 7, 10"),
        ({"lora.targets": ("16",)}, r"lora\.targets: 16 matches only what LoRA cannot adapt, or is trained whole; lay"),
        ({"lora.train": ("bn",)}, r"lora\.train: no module of the model matches bn"),
        ({"lora.train": ("*",)}, r"lora: no convolution, linear layer or attention is left to adapt"),
        ({"lora.rank": 0}, r"lora\.rank: should be a positive integer"),
        ({"freeze": Freeze()}, r"lora and freeze: lora fixes the weights itself"),
        ({"prune": "Prune"}, r"lora and prune: what lora adds would fill the weights that are pruned"),
        ({"quantize": "Quantize"}, r"lora and quantize: layers that round to int8 train"),
    ],
)
def test_what_cannot_be_adapted_is_refused(changes, complaint):
    def prepared():
        declared = BASE.but({"model": SmallCNN(widths=(32, 64)), "lora": Lora()}).but(changes)
        check(declared)
        assemble(declared, Tiny().load(), QUIET)

    with pytest.raises(UserError, match=complaint):
        prepared()
