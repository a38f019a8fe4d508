"""The entries that a GPU passes or fails. Each returns a line that says what was seen."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch

from core.augment import Albumentation, CutMix, HorizontalFlip, RandomCrop
from core.common.errors import NonFinite
from core.common.memory import SETTINGS
from core.diagnostics.batch_size import fitting, largest_batch
from core.loading.loader import Host, Resident
from core.methods import Method, Output
from core.optimizers import SAM, SGD
from core.optimizers.averaging import Ema, Swa
from core.record.run import EXPORT
from core.report.cost import cost
from core.runs.seeds import train_seeds
from core.runs.train import train
from core.runs.trained import Run
from core.training import checkpoint
from core.training.assemble import Assembly
from core.training.fleet import fit_together
from core.training.loop import fit
from tests.gpu.bench import Bench, Skip, called, finished, limited, peak_megabytes, same_weights, started
from tests.support.memory import Tight
from tests.support.processes import wait_for_step
from tests.support.runs import only_run


class Poisoned(Method):
    """The loss of the images of one step is not a number."""

    at: int = 2

    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        losses = loss(logits, batch.targets)
        return Output(losses * torch.nan if clock.step == self.at else losses, logits)


def precision(bench: Bench) -> str:
    """Each precision learns the digits; auto is bf16 on a GPU."""
    accuracies = {}
    for name in ("fp32", "bf16", "fp16", "bf16-true", *(["fp16-true"] if bench.on_gpu else []), "auto"):
        parts = bench.fitted(bench.digits.but({"precision": name}))
        accuracies[f"{name} ({parts.precision})"] = parts.state.history[-1]["val/accuracy"]
    assert min(accuracies.values()) > 0.7, accuracies
    assert not bench.on_gpu or "auto (bf16)" in accuracies
    return ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in accuracies.items())


def fp16_scaler(bench: Bench) -> str:
    """The scale of fp16 is in the checkpoint, and the loss is finite."""
    run = bench.train({"precision": "fp16", "epochs": 1})
    found, wrong = checkpoint.latest(run.folder / "checkpoints")
    assert found is not None, wrong
    scale = found.state["scaler"]["scale"]
    assert scale > 0
    assert np.isfinite(run.metrics["train/loss"])
    return f"scale {scale:g} after {found.step} steps"


def found_inf(bench: Bench) -> str:
    """A step that is not finite is skipped on the device, with all later ones, and is named."""
    experiment = bench.digits.but({"method": Poisoned(at=2), "batch_size": 32})
    parts = bench.built(experiment, log_every=100)
    assert parts.state.optimizer.param_groups[0]["fused"]
    known: dict[int, bytes] = {}
    named: NonFinite | None = None
    try:
        for event in fit(parts.setup, parts.state, parts.train, parts.val):
            known[event.step] = _weights(parts)
    except NonFinite as error:
        named = error
    assert named is not None, "the loss was not finite, and nobody said so"
    assert named.step == 3, named
    assert len({known[step] for step in known if step >= 2}) == 1, "a later step changed the weights"
    assert known[1] != known[2]
    return str(named)[:120]


def _weights(parts: Assembly) -> bytes:
    return b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in parts.state.model.parameters())


def images(bench: Bench) -> str:
    """Images that are resident on the device, read in this process, or by workers into pinned memory, give the same
    weights to the bit."""
    experiment = bench.digits.but({"augment": (RandomCrop(padding=1), HorizontalFlip(), CutMix()), "epochs": 2})
    resident, here, pinned = (
        bench.fitted(experiment, deterministic=True, resident=resident, workers=workers)
        for resident, workers in ((True, None), (False, 0), (False, 2))
    )
    assert isinstance(resident.train, Resident)
    assert resident.train.pixels.device.type == bench.device.partition(":")[0]
    assert isinstance(pinned.train, Host)
    assert _weights(resident) == _weights(here) == _weights(pinned)
    return "resident, in this process, 2 workers: the same bits"


def workers_with_image_steps(bench: Bench) -> str:
    """Image steps in loader workers; the batches come in pinned memory."""
    changes = {"augment": (Albumentation(name="HorizontalFlip"), RandomCrop(padding=1)), "epochs": 2}
    events = bench.events(bench.digits.but(changes), workers=2)
    return f"{events[-1].metrics['images_per_second']:,.0f} images/s"


def nccl(bench: Bench) -> str:
    """One process under torchrun, with gradients averaged by nccl."""
    words = ["experiments.digits_cnn", "--epochs", "1", "--device", bench.device, "--mlflow", "false", "--threads", "1"]
    finished(started("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", *words))
    run = only_run(bench.home)
    assert run.status == "FINISHED"
    return f"{'nccl' if bench.on_gpu else 'gloo'}, one rank: accuracy {run.metrics['val/accuracy']:.1%}"


def _stopped_and_resumed(bench: Bench, number: int) -> str:
    """A run that is stopped by a signal and resumed has the bits of one that was left alone."""
    every = {"deterministic": True, "checkpoint_every": "5"}
    words = ["experiments.tiny", "--epochs", "20", "--limit", "640", "--mlflow", "false", "--threads", "1"]
    words += ["--device", bench.device, "--deterministic", "true", "--checkpoint_every", "5"]
    process = started("-c", "import sys, tests.support; from core.cli.main import experiment; experiment(sys.argv[1], "
                      "sys.argv[2:])", *words)  # fmt: skip
    wait_for_step(bench.home, 7, seconds=90)
    process.send_signal(number)
    process.communicate()
    stopped = only_run(bench.home)
    assert stopped.status != "FINISHED", "it ended before the signal came"
    called("resume", stopped.id)
    whole = train(bench.digits.but({"epochs": 20, "limit": 640}), bench.launch(**every), "tiny")
    same_weights(Run(stopped.folder), whole)
    return f"{signal.Signals(number).name} after step 7: the same bits as without"


def killed(bench: Bench) -> str:
    """SIGKILL, then resume."""
    return _stopped_and_resumed(bench, signal.SIGKILL)


def stopped(bench: Bench) -> str:
    """SIGTERM, then resume."""
    if bench.small:
        raise Skip("as killed; the suite does it")
    return _stopped_and_resumed(bench, signal.SIGTERM)


def deterministic(bench: Bench) -> str:
    """Two runs of one declaration are equal to the bit with --deterministic."""
    experiment = bench.digits.but({"model.dropout": 0.2})
    one, other = (_weights(bench.fitted(experiment, deterministic=True)) for _ in range(2))
    assert one == other
    return "two runs: the same bits"


def gpu_on_record(bench: Bench) -> str:
    """Memory, power and energy of the GPU are in the journal and in the report."""
    bench.needs_gpu("the driver of a GPU measures them")
    # the mirror takes a sample every 10 s; energy needs two
    run = train(
        bench.network.but({"epochs": 10_000, "max_minutes": 0.45, "batch_size": 256}), bench.launch(mlflow=True), "tiny"
    )
    found = cost(run)
    assert run.history["system/torch_memory_reserved_megabytes"]
    report = (run.folder / "artifacts" / "report.html").read_text()
    for name in ("memory of the GPU", "energy of the GPUs", "device"):
        assert name in found, f"{name} is not in the report: {found}"
        assert found[name] in report
    return "; ".join(f"{name}: {found[name]}" for name in ("device", "memory of the GPU", "energy of the GPUs"))


SEGMENTS = """
import torch, tests.support
from core.launch import Launch
from core.runs.train import train
from experiments.tiny import EXPERIMENT
train(EXPERIMENT.but({"epochs": 1}), Launch(device="cuda", mlflow=False))
segments = torch.cuda.memory_snapshot()
print("segments:", sum(bool(one.get("is_expandable")) for one in segments), "of", len(segments))
"""


def expandable(bench: Bench) -> str:
    """A run in a new process makes the segments of the allocator expandable: its setting comes before CUDA's start."""
    bench.needs_gpu("the allocator of CUDA has them")
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    text = finished(started("-c", SEGMENTS, environment=environment))
    line = next(line for line in text.splitlines() if line.startswith("segments:"))
    assert not line.startswith("segments: 0 of"), line
    return line


def predict(bench: Bench) -> str:
    """Predictions on the GPU are those of the CPU, and `evaluate` measures them."""
    run = bench.train({"precision": "fp32", "epochs": 1})
    pixels = run.own_splits().test.pixels[:256]
    here, there = run.predict(pixels), run.predict(pixels, device=bench.device)
    difference = float(np.abs(here - there).max())
    assert difference < 0.01, difference  # TF32 rounds to 10 bits
    agreement = float((here.argmax(axis=1) == there.argmax(axis=1)).mean())
    assert agreement > 0.99
    return f"largest difference of a probability {difference:.1e}, same class for {agreement:.1%}"


def export(bench: Bench) -> str:
    """A run of the GPU is exported; speed is no reason to refuse here."""
    run = bench.train({"epochs": 1})
    said = called("export", run.id, "--to", "safetensors,pt2", "--anyway", "--threads", "1", status=None)
    assert (run.folder / "artifacts" / EXPORT).is_file(), said
    refused = [line for line in said.splitlines() if line.startswith("kept anyway")]
    assert all("slower than eager" in line for line in refused), refused
    return "; ".join(["safetensors, pt2", *refused])


def out_of_memory(bench: Bench) -> str:
    """Memory runs out: the step is taken again in more micro-batches, with the same loss up to rounding."""
    experiment = bench.network.but({"precision": "fp32"})
    if not bench.on_gpu:
        run = bench.train({"method": Tight(images=16), "batch_size": 64, "epochs": 1})
        assert run.tags["micro_batches"] == "4 from step 1"
        return f"pretended: {run.tags['micro_batches']}"
    launch = bench.launch(deterministic=True)
    whole = []
    most = peak_megabytes(lambda: whole.append(train(experiment, launch, "tiny")))
    with limited(0.6 * most):
        divided = train(experiment, launch, "tiny")
    assert "micro_batches" in divided.tags, "memory did not run out"
    losses = [run.metrics["train/loss"] for run in (whole[0], divided)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3), losses
    return f"{divided.tags['micro_batches']} with 60 % of {most:,.0f} MB; loss {losses[1]:.6f}, before {losses[0]:.6f}"


def out_of_memory_in_evaluation(bench: Bench) -> str:
    """Memory runs out in a forward pass for predictions: the same answers in smaller batches."""
    bench.needs_gpu("the suite pretends this on a CPU")
    run = train(bench.network.but({"precision": "fp32"}), bench.launch(), "tiny")
    pixels = np.tile(run.own_splits().test.pixels[:512], (4, 1, 1, 1))
    found = []
    most = peak_megabytes(lambda: found.append(run.predict(pixels, batch_size=len(pixels), device=bench.device)))
    with limited(0.6 * most):
        found.append(run.predict(pixels, batch_size=len(pixels), device=bench.device))
    difference = float(np.abs(found[0] - found[1]).max())
    assert difference < 0.01, difference
    return f"{len(pixels):,} images with 60 % of {most:,.0f} MB: largest difference {difference:.1e}"


def batch_size_auto(bench: Bench) -> str:
    """The largest power of two that fits, and a run with it in which memory does not run out."""
    experiment = bench.network
    if not bench.on_gpu:
        tight = bench.digits.but({"method": Tight(images=40)})
        size, reason = fitting(tight, tight.data.load(None), bench.launch())
        assert size == 32
        return f"pretended: {size} ({reason})"
    with limited(6_000):
        size = largest_batch(experiment, bench.launch())
        run = train(experiment.but({"batch_size": size}), bench.launch(), "tiny")
    assert "micro_batches" not in run.tags, run.tags["micro_batches"]
    return f"{size} images of 64x64 in 6,000 MB, peak {run.metrics['peak_memory_mb']:,.0f} MB"


def averages(bench: Bench) -> str:
    """EMA, SWA and SAM learn the digits."""
    changes: Mapping[str, Mapping[str, object]] = {
        "EMA": {"ema": Ema(decay=0.9)},
        "SWA": {"swa": Swa(start=0.5), "epochs": 4},
        "SAM": {"optimizer": SAM(base=SGD(lr=0.05, momentum=0.9))},
    }
    found = {
        name: bench.fitted(bench.digits.but(change)).state.history[-1]["val/accuracy"]
        for name, change in changes.items()
    }
    assert min(found.values()) > 0.5, found
    return ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in found.items())


def layers(bench: Bench) -> str:
    """--profile and --diagnose: trace, operations, memory; statistics of layers."""
    run = bench.train({"epochs": 1}, profile=True, diagnose=True)
    folder = run.folder / "artifacts" / "profile"
    assert {path.name for path in folder.iterdir()} == {"memory.txt", "operations.txt", "trace.json.gz"}
    assert any(name.startswith("layers/") for name in run.metrics)
    return (folder / "memory.txt").read_text().strip().splitlines()[0][:80]


def compiled(bench: Bench) -> str:
    """--compile on: CUDA graphs on a GPU; the same validation as without, and the usual names of weights."""
    bench.needs_option("compile")
    if not bench.on_gpu and bench.small:
        raise Skip("compiling takes a minute on a CPU; the suite does it")
    changes = {"precision": "fp32"}
    plain, translated = (bench.train(changes, compile=how, deterministic=True) for how in ("off", "on"))
    values = [run.metrics["val/loss"] for run in (plain, translated)]
    assert values[1] == pytest.approx(values[0], rel=0.05, abs=0.02), values
    assert not any("_orig_mod" in name for name in translated.model.state_dict())
    how = translated.record["facts"].get("compiled", "not on record")
    return f"compiled: {how}; val/loss {values[1]:.4f}, without {values[0]:.4f}"


def compiled_micro_batches(bench: Bench) -> str:
    """Memory runs out in a compiled step: its micro-batches add up."""
    bench.needs_option("compile")
    bench.needs_gpu("CUDA graphs are for GPUs")
    experiment, whole = bench.network.but({"precision": "fp32"}), []
    most = peak_megabytes(lambda: whole.append(train(experiment, bench.launch(compile="off"), "tiny")))
    with limited(0.4 * most):
        divided = train(experiment, bench.launch(compile="on"), "tiny")
    assert "micro_batches" in divided.tags, "memory did not run out"
    losses = [run.metrics["train/loss"] for run in (whole[0], divided)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2), losses
    return f"{divided.tags['micro_batches']}; loss {losses[1]:.5f}, uncompiled in whole {losses[0]:.5f}"


def fleet(bench: Bench) -> str:
    """--seeds N --together: each seed as it is alone."""
    bench.needs_option("together")
    experiment = bench.digits.but({"precision": "fp32", "model": {"class": "MLP", "hidden": (32,)}, "augment": ()})
    number = bench.of(4, 2)
    alone, together = (train_seeds(experiment, number, bench.launch(together=how), "tiny") for how in (False, True))
    assert len(together.runs) == number, together.failed
    pairs = [
        (one.metrics["val/loss"], other.metrics["val/loss"])
        for one, other in zip(alone.runs, together.runs, strict=True)
    ]
    worst = max(abs(a - b) for a, b in pairs)
    assert worst < 0.01, pairs
    return f"{number} seeds: largest difference of val/loss {worst:.1e}"


def trials_at_once(bench: Bench) -> str:
    """search --at_once: trials with numbers of their own, each as it is alone."""
    network = bench.digits.but({"precision": "fp32", "model": {"class": "MLP", "hidden": (32,)}, "augment": ()})
    numbers = ({"optimizer.lr": 0.05}, {"optimizer.lr": 0.1, "loss.label_smoothing": 0.1}, {"optimizer": "AdamW"})
    trials = dict(enumerate(network.but(each) for each in numbers))
    members = {number: bench.built(trial) for number, trial in trials.items()}
    for _ in fit_together(members):
        pass
    worst = max(
        abs(members[number].state.history[-1]["val/loss"] - bench.fitted(trial).state.history[-1]["val/loss"])
        for number, trial in trials.items()
    )
    assert worst < 0.01
    return f"{len(trials)} trials: largest difference of val/loss {worst:.1e}"


def checks() -> Iterator[tuple[Callable[[Bench], str], int]]:
    """(entry, its time limit in seconds), the most important first."""
    yield precision, 40
    yield found_inf, 20
    yield images, 40
    yield out_of_memory, 40
    yield out_of_memory_in_evaluation, 30
    yield batch_size_auto, 30
    yield deterministic, 20
    yield killed, 60
    yield compiled, 90
    yield compiled_micro_batches, 90
    yield fleet, 40
    yield trials_at_once, 20
    yield nccl, 40
    yield predict, 20
    yield gpu_on_record, 60
    yield expandable, 15
    yield averages, 30
    yield fp16_scaler, 15
    yield workers_with_image_steps, 30
    yield layers, 30
    yield export, 40
    yield stopped, 60
