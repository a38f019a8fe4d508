"""`summary --memory`: what is computed on fake tensors is what torch's allocator counts in a real step."""

import pytest
from torch.profiler import ProfilerActivity, profile

from core import Launch
from core.cli.summary import main
from core.diagnostics.step_memory import step_memory
from core.methods import Supervised
from core.optimizers import SAM, AdamW
from core.optimizers.averaging import Ema
from core.schedules import Clock
from core.training.assemble import prepare
from core.training.step import gradients
from experiments.tiny import EXPERIMENT

CPU = Launch(device="cpu", threads=1)
# the few hundred kB of smaller networks and batches would be lost among scalars and scratch memory
LARGE = EXPERIMENT.but({"model.widths": (64, 128), "batch_size": 512, "precision": "bf16"})


class ReadsValues(Supervised):
    """A step that reads the value of a tensor, as the checks of torch.distributions do."""

    def step(self, model, loss, batch, clock):
        output = super().step(model, loss, batch, clock)
        assert output.losses.sum().item() > 0
        return output


def counted(parts) -> int:
    """Bytes that torch's allocator holds at the peak of the second step, with what existed before it."""
    setup, state, optimizer = parts.setup, parts.state, parts.state.optimizer
    state.trained.train()
    batch = setup.augment(setup.normalize(next(iter(parts.train.epoch(0)))), Clock(0, 1, 1))

    def step() -> None:
        optimizer.zero_grad()
        optimizer.step(lambda: gradients(setup, state, state.forward.step, batch, Clock(0, 1, 1))[0])

    step()
    optimizer.zero_grad()
    states = [optimizer.state] if optimizer.state else [each.state for each in optimizer.inner]
    kept = [value for each in states for values in each.values() for value in values.values()]
    kept += [*state.trained.state_dict().values(), *batch]
    kept += [*state.ema.state_dict().values()] if state.ema else []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = sum(tensor.untyped_storage().nbytes() for tensor in kept)
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": AdamW(lr=0.001), "ema": Ema()},
        {"optimizer": SAM(), "grad_accum_steps": 2},
        {"method": ReadsValues()},
        {"precision": "fp32"},
        {"model.grad_checkpointing": True},
        {"model.grad_checkpointing": True, "precision": "fp32"},
    ],
    ids=["adamw, ema", "sam, two micro-batches", "reads values", "fp32", "checkpointed", "checkpointed, fp32"],
)
def test_the_computed_peak_is_within_a_tenth_of_what_a_step_allocates(change):
    declared = LARGE.but(change)
    computed = step_memory(prepare(declared, CPU))
    assert computed.peak == pytest.approx(counted(prepare(declared, CPU)), rel=0.1)
    assert min(computed.weights, computed.gradients, computed.optimizer, computed.batch, computed.activations) > 0


def test_what_layers_keep_grows_with_the_images_and_weights_do_not():
    parts = prepare(LARGE, CPU)
    half, whole = step_memory(parts, images=256), step_memory(parts)
    assert whole.layers["1"] == pytest.approx(512 * 64 * 8 * 8 * 2, rel=0.001), "input and statistics of BatchNorm"
    assert sum(whole.layers.values()) == pytest.approx(2 * sum(half.layers.values()), rel=0.05)
    assert (whole.weights, whole.optimizer) == (half.weights, half.optimizer)
    assert step_memory(parts, micro_batches=4).peak < half.peak < whole.peak


def test_gradient_checkpointing_needs_less():
    plain, checkpointed = (prepare(LARGE.but({"model.grad_checkpointing": each}), CPU) for each in (False, True))
    assert step_memory(checkpointed).peak < 0.9 * step_memory(plain).peak


def test_the_table_says_which_ways_fit(capsys):
    assert main(["experiments.tiny", "--device", "cpu", "--memory", "--available", "0.002"]) == 0
    rows = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.count("│") == 5}
    assert " no " in rows["as declared"]
    assert " yes " in rows["--grad_accum_steps 8"]
    assert "estimated" in rows["--parallel fsdp, 2 processes"]
