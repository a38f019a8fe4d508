"""--deterministic_ranks: the bits of a run do not depend on the number of its processes."""

import signal
from dataclasses import replace

import pytest
import torch

from core.common.errors import UserError
from core.common.ranks import Ranks
from core.launch import Launch
from core.losses import TorchLoss
from core.methods import SimCLR
from core.models import SmallCNN
from core.runs.train import train
from core.training.assemble import assemble, connect, load_splits
from core.training.loop import fit
from core.training.plans import evaluation_plan, training_plan
from core.training.shards import added
from tests.support.doubled import EXPERIMENT as DOUBLED
from tests.support.loop import BASE, built, digest
from tests.support.processes import PROGRAM, start, wait_for_step
from tests.support.runs import digest as digest_of
from tests.support.runs import only_run, points

SMALL = {
    "mlflow": "false", "epochs": "2", "limit": "160", "batch_size": "32", "model.widths": "4,8", "model.norm": "group",
    "model.dropout": "0.2", "augment": "RandomCrop,Mixup", "augment.random_crop.padding": "1", "checkpoint_every": "2",
    "log_every": "1", "deterministic_ranks": "4",
}  # fmt: skip
PLAIN = {"augment": "none", "augment.random_crop.padding": None}
TOOLBOX = {
    "adaptive": PLAIN | {"optimizer": "AdamW", "optimizer.lr": "0.002", "ema.decay": "0.9", "stopping.patience": "1",
                         "clip_grad_norm": "0.5", "augment": "CutMix,RandomErasing", "normalize": "image"},
    "sam": {"optimizer": "SAM", "optimizer.base": "SGD", "optimizer.base.lr": "0.05", "grad_accum_steps": "2",
            "swa.start": "0", "sampling": "ClassBalanced", "tta": "flip", "eval_batch_size": "7"},
    "loaders": PLAIN | {"workers": "1", "deterministic_ranks": "8"},
    "threads": {"threads": "2", "epochs": "1"},
    "resnet": {"model": "ResNet", "model.depth": "18", "model.widths": None, "model.dropout": None, "epochs": "1"},
}  # fmt: skip
SHARDS = {"deterministic_ranks": 4}
MEAN = TorchLoss(name="CrossEntropyLoss", arguments={"reduction": "mean"})
GROUPS = {"model": SmallCNN(widths=(4,), norm="group")}


def words(changes=None) -> tuple[str, ...]:
    """Of a command line. changes: in place of those of SMALL; None leaves one out."""
    chosen = (SMALL | (changes or {})).items()
    return PROGRAM, *(word for name, value in chosen if value is not None for word in (f"--{name}", value))


def outcome(run):
    return digest_of(run), points(run)


@pytest.fixture(scope="module")
def alone(forge, tmp_path_factory):
    """The run in one process."""
    home = tmp_path_factory.mktemp("alone")
    (process,) = start(forge, *words(), ranks=1, LABBOOK_HOME=home)
    assert process.wait() == 0, process.text
    return only_run(home)


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_several_processes_give_the_bits_of_one(ranks, alone, forge, home):
    for process in start(forge, *words(), ranks=ranks):
        assert process.wait() == 0, process.text
    assert outcome(only_run(home)) == outcome(alone)


def test_a_run_killed_on_two_processes_resumes_on_one_to_the_same_bits(alone, forge, home):
    processes = start(forge, *words())
    wait_for_step(home, 4)
    processes[1].kill(signal.SIGKILL)
    assert processes[0].wait() == 1, processes[0].text
    status, text = forge.run(PROGRAM, "resume")
    assert status == 0, text
    assert "resumes after step" in text
    assert "no longer bit-exact" not in text
    assert outcome(only_run(home)) == outcome(alone)


@pytest.mark.slow
@pytest.mark.parametrize("changes", TOOLBOX.values(), ids=TOOLBOX)
def test_other_parts_give_the_same_bits_too(changes, forge, tmp_path):
    runs = []
    for ranks in (1, 2, 4):
        for process in start(forge, *words(changes), ranks=ranks, LABBOOK_HOME=tmp_path / str(ranks)):
            assert process.wait(600) == 0, process.text
        runs.append(only_run(tmp_path / str(ranks)))
    assert outcome(runs[1]) == outcome(runs[0])
    assert outcome(runs[2]) == outcome(runs[0])


@pytest.mark.slow
def test_a_run_preempted_again_and_again_takes_whatever_is_free(alone, forge, home):
    for ranks, step in ((4, 2), (1, 4), (2, 6)):
        command = words() if ranks == 4 else (PROGRAM, "resume")
        processes = start(forge, *command, ranks=ranks)
        wait_for_step(home, step)
        processes[0].kill(signal.SIGKILL)
        for process in processes:
            process.wait()
    for process in start(forge, PROGRAM, "resume", ranks=4):
        assert process.wait() == 0, process.text
    assert outcome(only_run(home)) == outcome(alone)


@pytest.mark.slow
def test_a_rerun_in_one_process_repeats_a_run_of_two(forge, home):
    for process in start(forge, *words({"epochs": "1"})):
        assert process.wait() == 0, process.text
    status, text = forge.run("core", "rerun", only_run(home).id)
    assert status == 0, text
    assert "bitwise identical" in text


def trained(changes, launch):
    experiment = DOUBLED.but({"limit": 240, "epochs": 1, "grad_accum_steps": 1, "batch_size": 48} | changes)
    launch = Launch(device="cpu", log_every=1, **launch)
    parts = assemble(experiment, load_splits(experiment, launch), launch)
    connect(parts)
    return [event.metrics for event in fit(parts.setup, parts.state, parts.train, parts.val)]


def test_virtual_shards_change_rounding_alone():
    """In float64, without dropout: losses, gradients, clipping, mixup, train accuracy and validation."""
    plain, sharded = trained({}, {}), trained({"grad_accum_steps": 2}, SHARDS)
    assert [list(one) for one in sharded] == [list(one) for one in plain]
    for one, other in zip(plain, sharded, strict=True):
        one.pop("images_per_second", None)
        assert {name: other[name] for name in one} == pytest.approx(one, rel=1e-9)


def test_shards_are_added_in_pairs():
    lists = [[torch.tensor([float(value)])] for value in (1e8, 1, -1e8, 1, 3, 4, 5, 6)]
    expected = ((torch.tensor(1e8) + 1) + (torch.tensor(-1e8) + 1)) + torch.tensor(18.0)
    assert added(iter(lists))[0].item() == expected.item() == 18.0  # from left to right, the sum is 19


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_images_of_a_batch_for_evaluation_do_not_depend_on_the_processes(ranks):
    parts = built(GROUPS, **SHARDS)
    contexts = [replace(parts.context, rank=rank, ranks=ranks) for rank in range(ranks)]
    spans = {
        span
        for context in contexts
        for span in evaluation_plan(parts.launch, context, 90, parts.state.parallel).spans()
    }
    assert sorted(spans) == [(0, 23), (23, 46), (46, 69), (69, 90)]


def test_dropout_of_a_shard_is_that_of_a_process():
    parts = [built(GROUPS | {"model.dropout": 0.5, "seed": seed}, **SHARDS) for seed in (0, 0, 1)]
    for one in parts:
        connect(one)
        list(fit(one.setup, one.state, one.train, one.val))
    digests = [digest(one.state) for one in parts]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("changes", "launch", "message"),
    [
        ({}, {}, r"layer .* \(BatchNorm2d\) computes statistics over a batch; use --model.norm group"),
        (GROUPS | {"precision": "bf16"}, {}, "precision bf16 is not supported; use --precision fp32"),
        (GROUPS | {"max_minutes": 1.0}, {}, "max_minutes ends training by the time; use --epochs"),
        (GROUPS | {"sync_batch_norm": True}, {}, "sync_batch_norm computes over processes; use --model.norm group"),
        (GROUPS | {"grad_compress": "bf16"}, {}, "grad_compress sends what depends on the processes"),
        (GROUPS | {"sync_every": 4}, {}, "sync_every averages the weights of processes"),
        (GROUPS, {"compile": "on"}, "compiled steps are not supported; leave out --compile on"),
        (GROUPS, {"threads": 500}, "500 threads in each process need as many cores, and there are "),
        (GROUPS, {"diagnose": True}, "diagnose measures the share of one process"),
        (GROUPS | {"batch_size": 12}, {}, "12 cannot be divided into 4 even shares, one per virtual shard"),
        (GROUPS | {"grad_accum_steps": 8}, {}, "8 does not divide the 4 images of each virtual shard"),
        (GROUPS | {"method": SimCLR(), "augment": ()}, {}, "method: the loss of an image depends on the other images"),
        (GROUPS | {"loss": MEAN}, {}, "loss: the loss of an image depends on the other images"),
    ],
    ids=["norm", "bf16", "minutes", "sync", "compression", "averaging", "compile", "threads", "diagnose", "share",
         "parts", "simclr", "mean"],
)  # fmt: skip
def test_what_depends_on_the_processes_is_refused(changes, launch, message, home):
    experiment = BASE.but({"model": SmallCNN(widths=(4,)), "batch_size": 16} | changes)
    with pytest.raises(UserError, match=message):
        train(experiment, Launch(device="cpu", mlflow=False, **SHARDS | launch), "tiny")
    assert not (home / "mlruns").exists()


def test_a_number_of_processes_that_does_not_divide_the_shards_is_refused():
    parts = built(GROUPS, **SHARDS)
    with pytest.raises(ValueError, match="4 virtual shards cannot be divided among 3 processes; start 1, 2 or 4 of"):
        training_plan(parts.experiment, parts.launch, parts.splits, Ranks(0, 3))


def test_shards_are_a_power_of_two():
    with pytest.raises(UserError, match="deterministic_ranks: should be a power of two, such as 4 or 8"):
        Launch().but({"deterministic_ranks": 6})
