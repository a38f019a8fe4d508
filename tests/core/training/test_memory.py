"""Memory that runs out: a step is taken again in more micro-batches, and an evaluation in smaller batches."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch

from core.common import memory
from core.common.errors import Interrupted, OutOfMemory
from core.common.memory import in_parts
from core.diagnostics.memory import gpu_memory
from core.launch import Launch
from core.models import MLP, SmallCNN
from core.optimizers import SAM, SGD, AdamW
from core.report.cost import cost
from core.runs.rerun import _memory
from core.runs.resume import resume
from core.runs.train import train
from core.runs.trained import load
from core.training.evaluate import evaluate
from core.training.loop import Event, fit
from tests.support.loop import BASE, built, digest, run, taken_up
from tests.support.memory import Tight, run_out
from tests.support.runs import digest as digest_of_run

NORMED = {"model": SmallCNN(widths=(8,)), "ema": {"class": "Ema"}}
SURE = {"model": MLP(hidden=(8,)), "augment": ()}  # no noise, no statistics: only rounding depends on micro-batches
OFFLINE = Launch(mlflow=False, threads=1, checkpoint_every="2")


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """The heap of a test process takes long to look through, and nothing here has run out."""
    monkeypatch.setattr(memory.gc, "collect", lambda: 0)


def without_times(state):
    return [{name: value for name, value in epoch.items() if name != "images_per_second"} for epoch in state.history]


@pytest.mark.parametrize(
    "changes",
    [{}, NORMED, NORMED | {"optimizer": SAM(base=SGD(lr=0.05))}, {"optimizer": AdamW(lr=0.01), "grad_accum_steps": 2}],
    ids=["dropout", "batch_norm", "sam", "adamw"],
)
def test_a_run_out_of_memory_equals_one_that_declares_the_micro_batches(changes):
    """Weights, averages, running statistics, sums and random numbers: nothing is left of the calls that failed."""
    tight, declared = built(changes | {"method": Tight(images=2)}), built(changes | {"grad_accum_steps": 4})
    run(tight), run(declared)
    assert tight.state.split * tight.setup.grad_accum_steps == 4
    assert digest(tight.state) == digest(declared.state)
    assert without_times(tight.state) == without_times(declared.state)


def test_a_division_in_mid_run_holds_from_its_step_on_and_after_a_resume():
    tight, by_hand = (built(NORMED | method) for method in ({"method": Tight(images=4, step_from=7)}, {}))
    run(tight)
    for event in fit(by_hand.setup, by_hand.state, by_hand.train, by_hand.val):
        by_hand.state.split = 2 if event.step >= 7 else 1
    assert digest(tight.state) == digest(by_hand.state)
    second = built(NORMED)  # in which memory does not run out
    taken_up(built(NORMED | {"method": Tight(images=4, step_from=7)}), second, leave=9)
    assert second.state.split == 2
    assert digest(second.state) == digest(tight.state)


@pytest.mark.parametrize(("batch", "images"), [(8, 1), (10, 3), (5, 2)])
def test_gradients_are_equal_to_rounding_also_in_uneven_micro_batches(batch, images):
    changes = SURE | {"batch_size": batch}
    tight, plain = built(changes | {"method": Tight(images=images)}), built(changes)
    run(tight), run(plain)
    assert tight.state.split > 1
    for name, weight in plain.state.trained.state_dict().items():
        torch.testing.assert_close(tight.state.trained.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    assert tight.state.history[-1]["train/loss"] == pytest.approx(plain.state.history[-1]["train/loss"], rel=1e-5)


@pytest.mark.parametrize(("changes", "smallest"), [(SURE, 1), (NORMED, 2)])
def test_what_cannot_be_divided_further_ends_with_advice_and_unchanged_weights(changes, smallest):
    parts = built(changes | {"method": Tight(images=0)})
    before = digest(parts.state)
    with pytest.raises(OutOfMemory, match=f"micro-batches of {smallest} images? cannot be divided.*grad_checkpointing"):
        run(parts)
    parts.state.reset_buffers()
    assert digest(parts.state) == before
    assert parts.state.step == 0


def test_with_several_processes_the_error_is_that_of_torch(monkeypatch):
    parts = built({"method": Tight(images=2)})
    monkeypatch.setattr("core.training.distributed.several", lambda: True)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 2.00 GiB"):
        run(parts)
    assert parts.state.split == 1


def test_other_errors_are_raised_as_they_are():
    parts = built({"method": Tight(images=0)})

    def broken(batch, clock):
        raise RuntimeError("a bug")

    parts.state.shared = broken
    with pytest.raises(RuntimeError, match="a bug"):
        run(parts)
    assert parts.state.split == 1


def test_evaluation_goes_on_in_smaller_parts_with_the_same_result():
    parts, seen = built(NORMED), []

    def tight(module, inputs):
        seen.append(len(inputs[0]))
        if len(inputs[0]) > 3:
            run_out()

    def found():
        setup = parts.setup
        return evaluate(parts.state.model, setup.loss, parts.val, setup.normalize, setup.classes, setup.task)

    plain = found()
    parts.state.model.register_forward_pre_hook(tight)
    divided = found()
    assert seen == [8, 8, 4, 2, 2, 2, 2]  # once more with the cache emptied, before it is divided
    assert divided.metrics == pytest.approx(plain.metrics, rel=1e-6)
    assert torch.equal(divided.table, plain.table)


def test_predictions_go_on_in_smaller_parts_with_the_same_answers():
    network = built(NORMED).network
    pixels = BASE.data.load().train.pixels
    plain = network.logits(pixels)

    def tight(module, inputs):
        if len(inputs[0]) > 3:
            run_out()

    network.model.register_forward_pre_hook(tight)
    torch.testing.assert_close(network.logits(pixels), plain)


def test_parts_are_kept_for_later_batches_and_end_at_single_images():
    sizes = []

    def network(images):
        sizes.append(len(images))
        if len(images) > 2:
            run_out()
        return images * 2

    whole = in_parts(network)
    for _ in range(2):
        assert torch.equal(whole(torch.arange(4.0)), torch.arange(4.0) * 2)
    assert sizes == [4, 4, 2, 2, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        in_parts(lambda images: run_out())(torch.arange(4.0))


def test_a_divided_run_is_on_record_and_resumes_divided_to_the_same_bits(home, capsys, monkeypatch):
    experiment, step, sent = BASE.but({"method": Tight(images=4, step_from=3)}), Tight.step, []
    whole = train(experiment, OFFLINE)
    said = "out of memory at step 4: from this step on, 2 micro-batches of 4 images per step instead of 1"
    assert capsys.readouterr().out.count(said) == 1
    assert whole.tags["micro_batches"] == "2 from step 4"
    assert cost(whole)["micro-batches"] == "2 from step 4, because memory ran out"

    def stopping(self, model, loss, batch, clock):
        if clock.step == 7 and not sent:
            sent.append(clock.step)  # once: a second signal would end this process
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, model, loss, batch, clock)

    monkeypatch.setattr(Tight, "step", stopping)
    with pytest.raises(Interrupted) as stopped:
        train(experiment, OFFLINE)
    capsys.readouterr()
    resumed = resume(load(stopped.value.run))
    assert "memory ran out before: 2 micro-batches per step instead of 1" in capsys.readouterr().out
    assert resumed.tags["micro_batches"] == "2 from step 4"
    assert digest_of_run(resumed) == digest_of_run(whole)


def test_a_rerun_that_was_not_divided_has_that_as_a_cause():
    divided, plain = SimpleNamespace(tags={"micro_batches": "2 from step 4"}), SimpleNamespace(tags={})
    assert str(_memory(divided, plain)) == "micro-batches: 2 from step 4 then, as declared now"
    assert not _memory(divided, divided).differences


def test_the_memory_of_a_gpu_is_logged_with_its_fragmentation(monkeypatch):
    counts = {"allocated_bytes.all.current": 3 << 20, "allocated_bytes.all.peak": 7 << 20}
    logged = {}

    class Journal:
        def metrics(self, step, values):
            logged[step] = values

    log = gpu_memory(Journal(), torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: counts | {"reserved_bytes.all.current": 8 << 20})
    for event in (
        Event(1, 0, {}),
        Event(2, 0, {"step/loss": 1.0}),
        Event(2, 0, {"val/loss": 1.0}, validation=object()),
    ):
        log(event)
    assert logged == {
        2: {
            "system/torch_memory_allocated_megabytes": 3.0,
            "system/torch_memory_peak_megabytes": 7.0,
            "system/torch_memory_reserved_megabytes": 8.0,
            "system/torch_memory_fragmentation": 0.625,
        }
    }
    assert memory.of_gpu({}) == {}  # an allocator that does not count


@pytest.mark.parametrize("own", [None, *memory.SETTINGS])
def test_expandable_segments_are_chosen_unless_the_user_has_settings(own, monkeypatch):
    for name in memory.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(own, "max_split_size_mb:128")
    before = dict(os.environ)
    memory.prefer_expandable()
    changed = dict(os.environ.items() - before.items())
    assert changed == ({} if own else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})
