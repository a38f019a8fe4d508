"""--precision auto on a CPU: a rule that follows from the network and the CPU, and is on record."""

import signal

import pytest
import torch

from core.common.errors import Interrupted
from core.context import Context
from core.inference.network import network_of
from core.launch import Launch
from core.models import CifarResNet, SmallCNN, Torchvision, forward_flops, precision
from core.models.precision import is_faster_in_bf16
from core.runs.rerun import rerun_here
from core.runs.resume import interrupted, resume
from core.runs.train import train
from core.training import assemble, loop
from experiments.tiny import EXPERIMENT

QUIET = Launch(mlflow=False, threads=1)


def network(model, side):
    context = Context(tuple("0123456789"), (1,) * 10, (side, side, 3), 1, 1, 1, 1, torch.device("cpu"))
    return model.build(context)


def faster_in_bf16(model, side, batch):
    built, shape = network(model, side), (side, side, 3)
    return is_faster_in_bf16(built, shape, batch, lambda: forward_flops(built, shape))


@pytest.fixture
def native(monkeypatch):
    """A CPU with bf16 instructions."""
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    return monkeypatch


@pytest.mark.parametrize(
    ("model", "side", "batch", "faster"),
    [
        (CifarResNet(depth=8), 32, 128, True),
        (CifarResNet(depth=8), 32, 16, False),  # a small batch
        (SmallCNN(widths=(16, 32, 64)), 32, 128, True),
        (SmallCNN(widths=(32, 64)), 8, 64, False),
        (Torchvision(name="mobilenet_v3_small"), 64, 512, False),  # depthwise convolutions
        (Torchvision(name="shufflenet_v2_x1_0"), 64, 512, False),
    ],
)
def test_large_dense_networks_are_trained_in_bf16(native, model, side, batch, faster):
    assert faster_in_bf16(model, side, batch) == faster


def test_a_cpu_without_the_instructions_stays_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx512_f": True})
    precision.has_bf16.cache_clear()
    assert not faster_in_bf16(CifarResNet(depth=8), 32, 1024)
    precision.has_bf16.cache_clear()


def test_the_operations_of_a_network_are_counted_once_for_precision_and_record(native, home):
    counts = []
    native.setattr(assemble, "forward_flops", lambda *given: counts.append(forward_flops(*given)) or counts[-1])
    run = train(EXPERIMENT.but({"limit": 64, "epochs": 1}), QUIET, "tiny")
    assert [run.record["facts"]["flops"]] == [str(count) for count in counts]


def test_a_run_keeps_the_precision_that_was_chosen_for_it(native, home):
    declared = EXPERIMENT.but({"limit": 64, "epochs": 1})
    with native.context() as patch:
        patch.setattr(precision, "FEWEST_FLOPS", 0.0)
        patch.setattr(precision, "FEWEST_FLOPS_PER_ELEMENT", 0.0)
        run = train(declared, QUIET, "tiny")
        explicit = train(declared.but({"precision": "fp32"}), QUIET, "tiny")
        quantized = train(declared.but({"quantize": "Quantize"}), QUIET, "tiny")
    runs = (run, explicit, quantized, train(declared, QUIET, "tiny"))
    assert [each.record["facts"]["precision"] for each in runs] == ["bf16", "fp32", "fp32", "fp32"]
    assert network_of(run, "cpu").autocast == torch.bfloat16
    again = rerun_here(run, QUIET)
    assert again.record["facts"]["precision"] == "bf16"
    assert again.record["declaration"] == run.record["declaration"]
    assert again.metrics["test/loss"] == run.metrics["test/loss"]


def test_a_resumed_run_keeps_the_precision_that_was_chosen_for_it(native, home, capsys):
    declared = EXPERIMENT.but({"limit": 64, "epochs": 2})
    with native.context() as patch:
        patch.setattr(precision, "FEWEST_FLOPS", 0.0)
        patch.setattr(precision, "FEWEST_FLOPS_PER_ELEMENT", 0.0)
        whole = train(declared, QUIET, "tiny")
        end = loop.end_of_epoch
        patch.setattr(loop, "end_of_epoch", lambda *given: [end(*given), signal.raise_signal(signal.SIGTERM)][0])
        with pytest.raises(Interrupted):
            train(declared, QUIET, "tiny")
    resumed = resume(interrupted("tiny"))
    assert "bit-exact" not in capsys.readouterr().out
    assert resumed.id != whole.id
    assert resumed.metrics["test/loss"] == whole.metrics["test/loss"]
