"""What processes exchange besides plain gradients: compressed ones, or weights; with two real processes over gloo."""

import signal

import pytest
import torch
from safetensors.torch import load_file

from core.common.errors import UserError
from core.experiment import Experiment
from core.record.run import WEIGHTS
from core.training.assemble import check
from core.training.checkpoint import CHECKPOINTS, generations, read
from experiments.tiny import EXPERIMENT
from tests.support.processes import COMMON, PROGRAM, start, wait_for_step
from tests.support.runs import digest, only_run, points

# 40 steps; PowerSGD compresses from step 4 on
WORDS = (PROGRAM, *COMMON, "--model.dropout", "0.2", "--checkpoint_every", "7", "--batch_size", "60")
POWERSGD = (*WORDS, "--epochs", "4", "--limit", "600", "--grad_compress", "powersgd")
LOCAL = (*WORDS, "--epochs", "4", "--limit", "600", "--sync_every", "4")


def run_of(forge, folder, *words):
    folder.mkdir()
    for process in start(forge, *words, LABBOOK_HOME=folder):
        assert process.wait() == 0, process.text
    return only_run(folder)


def weights(run):
    return torch.cat([tensor.flatten().double() for tensor in load_file(run.artifact(WEIGHTS)).values()])


@pytest.mark.parametrize("words", [POWERSGD, LOCAL], ids=["powersgd", "local"])
def test_killed_and_resumed_equals_uninterrupted(words, forge, home, tmp_path):
    """What differs between processes (errors of the compression, weights, momentum) is part of the checkpoint."""
    whole = run_of(forge, tmp_path / "whole", *words)
    both = start(forge, *words)
    wait_for_step(home, 26)
    both[1].kill(signal.SIGKILL)
    assert both[0].wait() == 1, both[0].text
    both[1].wait()
    run = only_run(home)
    kept = read(generations(run.folder / CHECKPOINTS)[0])
    first, second = kept.state["apart"]
    assert len(first) == len(second)
    if words is POWERSGD:
        assert kept.step > 4
        assert first[0]["error"].keys() == second[0]["error"].keys() != set()
        assert not torch.equal(first[0]["error"][0], second[0]["error"][0])
        assert torch.equal(first[0]["q"][0], second[0]["q"][0])
    for process in start(forge, PROGRAM, "resume"):
        assert process.wait() == 0, process.text
    assert digest(run) == digest(whole)
    assert points(run) == points(whole)
    if words is LOCAL:
        momenta = (own[1]["state"][0]["momentum_buffer"] for own in (first, second))
        assert not torch.equal(*momenta)
        evaluated_on_the_average(run)


def evaluated_on_the_average(run):
    """Each process has measured half of val: both with the weights on record."""
    kept = min(run.history["val/loss"].values())
    val = run.experiment.data.load(None).val
    losses = run.experiment.loss(
        torch.from_numpy(run.predict(val.pixels[val.rows])).log(), torch.from_numpy(val.targets)
    )
    assert kept == pytest.approx(float(losses.mean()), rel=1e-4)


@pytest.mark.slow
def test_bf16_gradients_are_near_those_of_fp32(forge, tmp_path):
    words = (*WORDS, "--epochs", "1", "--limit", "240")
    plain, half = (
        weights(run_of(forge, tmp_path / name, *words, "--grad_compress", name)) for name in ("none", "bf16")
    )
    # four steps at a learning rate of up to 0.1: bf16 keeps 8 bits of a gradient
    assert 1e-6 < float((plain - half).norm() / plain.norm()) < 1e-3


def test_one_process_is_told_that_it_has_no_effect(forge, home):
    status, text = forge.run(PROGRAM, "--smoke", *COMMON, "--grad_compress", "bf16")
    assert status == 0, text
    assert "grad_compress: no effect with one process" in text
    assert "sync_every" not in text
    assert only_run(home).experiment.grad_compress == "bf16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sync_every": 4, "grad_compress": "bf16"}, "weights are exchanged, not gradients"),
        ({"sync_every": 4, "ema": {"decay": 0.9}}, "use swa"),
    ],
)
def test_what_cannot_be_combined_is_refused(changes, message):
    from core.optimizers.averaging import Ema

    changes = {name: Ema(**value) if name == "ema" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message):
        check(EXPERIMENT.but(changes))
    assert (Experiment.model_fields["grad_compress"].default, Experiment.model_fields["sync_every"].default) == (
        "none",
        1,
    )
