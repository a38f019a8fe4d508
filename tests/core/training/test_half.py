"""bf16-true: the weights themselves in bf16, what stays in fp32, the same bits after a resume, and half the bytes."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import GoogLeNetOutputs

from core.common.errors import UserError
from core.common.half import in_half
from core.export.graph import exported
from core.inference.answers import read
from core.inference.network import network_of
from core.launch import Launch
from core.losses import CrossEntropy
from core.models import SmallCNN
from core.optimizers import AdamW
from core.optimizers.averaging import Ema, Swa
from core.record.run import WEIGHTS
from core.runs.soup import soup
from core.runs.train import train
from core.training.assemble import assemble, check
from core.training.checkpoint import CHECKPOINTS, generations
from data import Digits
from experiments.tiny import EXPERIMENT
from tests.support.loop import BASE, Tiny, run, taken_up

QUIET = Launch(device="cpu", mlflow=False, threads=1)
CNN = BASE.but({"model": SmallCNN(widths=(4, 8)), "precision": "bf16-true", "epochs": 2})
DIGITS = EXPERIMENT.but({"epochs": 2, "stopping": None, "precision": "bf16-true", "optimizer": AdamW(lr=2e-3)})


def built(changes):
    return assemble(CNN.but(changes), Tiny().load(), QUIET)


class Strict(CrossEntropy):
    """Takes float32 only."""

    def __call__(self, logits, targets):
        assert logits.dtype == torch.float32
        return super().__call__(logits, targets)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        halves = [train(DIGITS.but({"seed": seed}), QUIET, "tiny") for seed in (0, 0)]
        yield [*halves, train(DIGITS.but({"precision": "fp32"}), QUIET, "tiny")]


@pytest.fixture
def runs(trained, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(trained[0].folder.parents[2]))
    return trained


def test_weights_and_the_optimizers_state_are_bf16_and_norms_losses_and_averages_fp32():
    parts = built({"ema": Ema(decay=0.5), "optimizer": AdamW(lr=1e-3), "loss": Strict()})
    run(parts)
    for module in parts.state.model.modules():
        expected = torch.float32 if isinstance(module, nn.BatchNorm2d) else torch.bfloat16
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        assert {tensor.dtype for tensor in own if tensor.is_floating_point()} <= {expected}
        for parameter in module.parameters(recurse=False):
            assert parts.state.optimizer.state[parameter]["exp_avg"].dtype == expected
    average = parts.state.evaluated
    assert {p.dtype for p in average.parameters()} == {torch.float32}
    assert any((p != p.bfloat16()).any() for p in average.parameters())  # finer than bf16
    assert average(torch.zeros(1, 3, 6, 6)).dtype == torch.float32


@pytest.mark.parametrize("changes", [{"ema": Ema(decay=0.5)}, {"swa": Swa(start=0.0)}, {}], ids=["ema", "swa", "none"])
def test_left_and_taken_up_it_ends_in_the_same_bits(changes):
    whole, first, second = built(changes), built(changes), built(changes)
    run(whole)
    taken_up(first, second, 7)
    for ours, theirs in ((second.state.trained, whole.state.trained), (second.state.evaluated, whole.state.evaluated)):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name
    assert second.state.history[-1]["val/loss"] == whole.state.history[-1]["val/loss"]


class Several(nn.Linear):
    """Returns auxiliary logits, as torchvision's GoogLeNet does."""

    def forward(self, x):
        logits = super().forward(x)
        return GoogLeNetOutputs(logits, logits, logits)


def test_auxiliary_heads_return_fp32_too():
    outputs = in_half(Several(3, 2), torch.bfloat16)(torch.zeros(2, 3))
    assert type(outputs) is GoogLeNetOutputs
    assert {output.dtype for output in outputs} == {torch.float32}


def test_the_record_has_half_the_bytes_and_answers_to_the_bit_as_the_test_did(runs):
    half, _, whole = runs
    sizes = [
        [(each.folder / "artifacts" / WEIGHTS).stat().st_size, generations(each.folder / CHECKPOINTS)[0].stat().st_size]
        for each in (half, whole)
    ]
    assert all(ours < 0.56 * theirs for ours, theirs in zip(*sizes, strict=True))
    test = Digits().load(None).test
    pixels = test.pixels[test.rows]
    logits = network_of(half, "cpu").logits(pixels)
    assert np.array_equal(read(half, "test").logits, (logits - logits.amax(dim=1, keepdim=True)).half().numpy())
    apart = (network_of(half, "cpu", "fp32").logits(pixels) - logits).abs().max()
    assert 0 < apart < 0.2  # the same weights, and activations that are not rounded
    assert half.metrics["test/accuracy"] == pytest.approx(whole.metrics["test/accuracy"], abs=0.05)
    assert half.record["facts"]["precision"] == "bf16-true"


def test_it_is_exported_and_loaded_into_others_in_fp32(runs):
    half = runs[0]
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    expected = network_of(half, "cpu", "fp32").logits(images).softmax(dim=1)
    torch.testing.assert_close(exported(half).module()(torch.from_numpy(images)), expected, rtol=1e-4, atol=1e-5)
    tuned = DIGITS.but({"model.weights": half.id, "precision": "fp32"})
    state = assemble(tuned, tuned.data.load(None), QUIET).state
    for name, tensor in load_file(half.folder / "artifacts" / WEIGHTS).items():
        assert torch.equal(state.model.state_dict()[name], tensor.to(state.model.state_dict()[name].dtype))
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}


def test_a_soup_of_equal_runs_is_the_run(runs):
    first, second, _ = runs
    mixed = soup([first, second], uniform=True).run
    ours, theirs = (load_file(each.folder / "artifacts" / WEIGHTS) for each in (mixed, first))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if "weight" in name or "bias" in name)
    assert {name: tensor.dtype for name, tensor in ours.items()} == {name: t.dtype for name, t in theirs.items()}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"precision": "fp16-true"},
            "fp16-true: torch has fast fp16 kernels for GPUs only, and this is a cpu",
        ),
        ({"model.fp32": ("16",)}, r"model\.fp32 and precision bf16-true: all weights are in half precision; use bf16"),
        ({"quantize": "Quantize"}, "quantize and precision bf16-true"),
    ],
)
def test_what_cannot_be_in_half_precision_is_refused(changes, complaint):
    def prepared():
        check(CNN.but(changes))
        built(changes)

    with pytest.raises(UserError, match=complaint):
        prepared()
