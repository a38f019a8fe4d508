"""--compile: the same training up to rounding, translated once for a run, with the same names and draws."""

import os
import shutil
import signal
import time

import pytest
import torch

from core.augment import AlternatingFlip
from core.common.errors import NonFinite, UserError
from core.common.ranks import ALONE, Ranks
from core.launch import Launch
from core.methods import Consistency, WeightPenalty
from core.models.quantize import Quantize
from core.optimizers import SAM, SGD
from core.optimizers.averaging import Ema
from core.record import journal, sources
from core.runs.failures import explained
from core.runs.resume import resume
from core.runs.train import train
from core.runs.trained import own_launch
from core.training import assemble, compiled, plans
from core.training.compiled import GRAPHS, NO, PAYS_FROM, YES, choice
from core.training.loop import fit
from tests.support.loop import BASE, built
from tests.support.runs import digest, only_run, points

needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler"
)
WORDS = (
    "experiments.tiny --variant mlp --model.hidden 32 --model.dropout 0.2 --epochs 3 --ema.decay 0.9 --mlflow false "
    "--checkpoint_every 7 --compile on"
)
ON = Launch(device="cpu", compile="on")
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def forget():
    """What one test compiled is not there in the next one."""
    failure = compiled._failure
    yield
    torch.compiler.set_stance("default")
    failure.cache_clear()


def trained(changes, compile):
    """(losses of all steps, state) of a training in which nothing is compiled after the first step."""
    parts = built(changes, log_every=1, compile=compile)
    assemble.connect(parts)
    losses = []
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        losses.append(event.metrics.get("step/loss", 0.0))
        torch.compiler.set_stance("fail_on_recompile")
    torch.compiler.set_stance("default")
    return losses, parts.state


@needs_compiler
@pytest.mark.parametrize(
    "changes",
    [
        {"grad_accum_steps": 2, "clip_grad_norm": 0.5, "clip_grad_value": 0.1, "ema": Ema(decay=0.9)},
        {
            "method": WeightPenalty(method=Consistency(view=(AlternatingFlip(),), ramp_epochs=1), l2=0.01),
            "optimizer": SAM(base=SGD(lr=0.1)),
            "augment": (),
        },
    ],
    ids=["accumulated", "clock"],
)
def test_compiled_once_and_equal_up_to_rounding(changes, monkeypatch):
    """Through epochs with validation in batches of 5 and 3, changing learning rates, dropout, and a last step whose
    loss is not read."""
    monkeypatch.setattr(plans, "EVALUATION_BATCH", 5)
    plain, before = trained(changes, "off")
    losses, state = trained(changes, "on")
    assert losses == pytest.approx(plain, rel=1e-5)
    for name, tensor in before.snapshot()["trained"].items():  # names without a prefix
        assert torch.allclose(state.snapshot()["trained"][name], tensor, atol=1e-5), name


@needs_compiler
def test_a_compiled_step_that_is_not_finite_names_the_layer():
    with pytest.raises(NonFinite, match=r"layer \S+ \(Linear\) is the first with a non-finite output"):
        trained({"optimizer.lr": 1e30, "grad_accum_steps": 2}, "on")


@needs_compiler
def test_a_killed_run_resumes_to_the_same_bits_and_stays_compiled(forge, home, monkeypatch, tmp_path):
    process = forge.start(*WORDS.split())
    _kill_after(process, home, 33)
    run = resume(only_run(home))
    assert run.record["facts"]["compiled"] == YES
    assert "resumed_elsewhere" not in run.tags
    monkeypatch.setenv("LABBOOK_HOME", str(tmp_path / "other"))
    launch = own_launch(run.record)
    again = train(run.experiment, launch)
    assert launch.compile == "on"
    assert digest(again) == digest(run)
    assert points(again) == points(run)
    # what torch has written is no source, so that check_environment finds no difference
    assert not [name for name in sources.recorded(again.folder / "artifacts")["files"] if "torch._inductor" in name]


def _kill_after(process, home, step):
    end = time.monotonic() + 100
    while time.monotonic() < end and not process.ended:
        folders = list((home / "mlruns" / "runs").glob("*"))
        if folders and max(journal.history(folders[0]).get("step/loss", {0: 0})) >= step:
            process.kill(signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.002)
    raise AssertionError(process.text)


def test_a_run_that_was_not_compiled_is_not_resumed_compiled():
    record = {"launch": Launch().record(), "facts": {}}
    del record["launch"]["compile"]  # as before there was --compile
    assert own_launch(record).compile == "off"
    assert own_launch({"launch": Launch().record(), "facts": {"compiled": GRAPHS}}).compile == "auto"


def test_where_torch_cannot_compile_the_reason_and_the_remedy_are_named(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *given, **options: _no_compiler)
    with pytest.raises(UserError, match=r"^compile: .* No working C\+\+ compiler; install a C\+\+ compiler .* off$"):
        built(compile="on")


def _no_compiler(*given):
    raise RuntimeError("backend='inductor' raised:\nNo working C++ compiler\nmore")


@needs_compiler
def test_a_run_on_record_goes_on_uncompiled_where_torch_cannot_compile(home, monkeypatch, capsys):
    run = train(BASE.but({"epochs": 1, "limit": 64}), ON.but({"mlflow": False}), "tiny")
    compiled._failure.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda *given, **options: _no_compiler)
    again = assemble.prepare(run.experiment, ON, like=run)
    assert again.compiled == NO
    assert "not compiled: torch.compile does not work here: No working C++ compiler" in capsys.readouterr().out


def test_an_error_of_the_compiler_names_what_is_wrong():
    error = torch._dynamo.exc.TorchDynamoException("backend='inductor' raised:\nAssertionError: a strange layer")
    assert "step 4 could not be compiled: AssertionError: a strange layer; train" in str(explained(error, "", 3))


def test_what_must_not_be_compiled_is_refused_all_at_once(monkeypatch):
    monkeypatch.setattr(compiled, "_failure", lambda device: "")
    launch = ON.but({"detect_anomaly": True})
    with pytest.raises(UserError, match=r"(?s)compile: quantize .*compile: detect_anomaly"):
        choice(BASE.but({"quantize": Quantize()}), launch, torch.device("cpu"), ALONE, PAYS_FROM)


@pytest.mark.parametrize(
    ("changes", "launch", "steps", "capability", "ranks", "expected"),
    [
        ({}, {}, PAYS_FROM, (8, 0), 1, GRAPHS),
        ({}, {}, PAYS_FROM - 1, (8, 0), 1, NO),
        ({}, {}, PAYS_FROM, (6, 1), 1, NO),
        ({}, {"smoke": True}, PAYS_FROM, (8, 0), 1, NO),
        ({}, {"compile": "off"}, PAYS_FROM, (8, 0), 1, NO),
        ({}, {"compile": "on"}, 3, (8, 0), 1, GRAPHS),
        ({"grad_accum_steps": 2}, {}, PAYS_FROM, (8, 0), 1, YES),
        ({}, {}, PAYS_FROM, (8, 0), 2, YES),
        ({"quantize": Quantize()}, {}, PAYS_FROM, (8, 0), 1, NO),
    ],
)
def test_auto_compiles_long_runs_on_a_gpu(changes, launch, steps, capability, ranks, expected, monkeypatch):
    monkeypatch.setattr(compiled, "_failure", lambda device: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choice(BASE.but(changes), Launch(**launch), GPU, Ranks(ranks=ranks), steps) == expected


def test_auto_does_not_compile_on_a_cpu():
    assert choice(BASE, Launch(), torch.device("cpu"), ALONE, 10**9) == NO
