"""A network divided among processes is trained as a whole one would be."""

import resource
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.common.errors import UserError
from core.launch import Launch
from core.methods import SimCLR
from core.models.lora import Lora
from core.optimizers import Muon
from core.record.run import WEIGHTS
from core.runs.train import train
from core.training.checkpoint import CHECKPOINTS, generations
from core.training.cut import cut
from tests.support.loop import BASE
from tests.support.processes import COMMON, PROGRAM, start, wait_for_step
from tests.support.runs import digest, only_run, points

DOUBLED = "tests.support.doubled"


def trained(forge, home, *words, ranks=2):
    """The run of these words in `ranks` processes, and what the first of them said."""
    if ranks == 1:
        status, text = forge.run(*words, env={"LABBOOK_HOME": str(home)})
        assert status == 0, text
        return only_run(home), text
    processes = start(forge, *words, ranks=ranks, LABBOOK_HOME=home)
    assert [process.wait() for process in processes] == [0] * ranks, "".join(process.text for process in processes)
    return only_run(home), processes[0].text


def measured(run):
    return {name: values for name, values in points(run).items() if name != "minutes"}


def alike(one, two):
    """The metrics of two runs in float64, but for those of time."""
    first, second = measured(one), measured(two)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert second[name] == pytest.approx(values, rel=1e-10, abs=1e-12), name


@pytest.mark.parametrize("kind", ["fsdp", "pipeline"])
def test_the_loop_computes_what_it_does_with_the_whole_network(kind, forge):
    """In float64: losses, norms of gradients and validation, with clipping, accumulation, mixup and a moving average;
    fsdp as ddp on as many processes, a pipeline as one process."""
    processes = start(forge, "tests.support.divided", kind)
    assert [process.wait() for process in processes] == [0, 0], "".join(process.text for process in processes)
    for process in processes:
        count, difference = process.text.split()[-2:]
        assert int(count) > 30
        assert float(difference) < 1e-10


@pytest.mark.slow
def test_fsdp_records_what_ddp_does(forge, tmp_path):
    """In float64, with the test split and the report."""
    words = (DOUBLED, *COMMON, "--log_every", "1", "--ema.decay", "0.9", "--epochs", "1", "--limit", "300")
    one, _ = trained(forge, tmp_path / "ddp", *words)
    two, _ = trained(forge, tmp_path / "fsdp", *words, "--parallel", "fsdp")
    alike(one, two)
    assert two.record["facts"]["launch.parallel"] == "fsdp"


@pytest.mark.slow
def test_a_pipeline_records_what_one_process_does(forge, tmp_path):
    """In float64, with the test split, the report and the weights."""
    words = (DOUBLED, *COMMON, "--log_every", "1", "--ema.decay", "0.9", "--epochs", "1", "--limit", "300")
    one, _ = trained(forge, tmp_path / "one", *words, ranks=1)
    two, _ = trained(forge, tmp_path / "two", *words, "--parallel", "pipeline", "--microbatches", "2")
    alike(one, two)
    assert two.record["facts"]["parameters"] == one.record["facts"]["parameters"]
    first, second = (load_file(run.artifact(WEIGHTS)) for run in (one, two))
    assert list(first) == list(second)
    assert all(torch.allclose(first[name], second[name], rtol=1e-10, atol=1e-12) for name in first)


def test_what_cannot_be_divided_is_refused_by_name(home):
    """All at once, before anything is read or written."""
    changes = {"optimizer": Muon(), "lora": Lora(), "method": SimCLR(), "precision": "fp16"}
    launch = Launch(parallel="fsdp", compile="on", diagnose=True)
    with pytest.raises(UserError) as refused:
        train(BASE.but(changes), launch)
    text = "\n".join(refused.value.lines)
    for name in ("this is one", "optimizer Muon", "lora", "method SimCLR", "precision fp16", "compile", "diagnose"):
        assert name in text, name
    assert not (home / "mlruns").exists()


class Branching(nn.Module):
    """A network whose way depends on its images."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else self.fc(-x)


def test_a_network_is_cut_where_one_tensor_is_passed_on():
    """And refused, by name, where it cannot be."""
    from torchvision.models import resnet18

    network, images = resnet18().eval(), torch.randn(2, 3, 64, 64)
    stages = cut(network, 3)
    x = images
    for stage in stages:
        x = stage(x)
    assert torch.equal(x, network(images))
    sizes = [sum(p.numel() for p in stage.parameters()) for stage in stages]
    assert sum(sizes) == sum(p.numel() for p in network.parameters())
    assert max(sizes) < 0.5 * sum(sizes)
    assert {name for stage in stages for name in stage.state_dict()} == set(network.state_dict())
    with pytest.raises(UserError, match="5 processes are 5 stages, and Sequential has 2 blocks; start fewer"):
        cut(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 5)
    with pytest.raises(UserError, match="Branching cannot be cut: symbolically traced"):
        cut(Branching(), 2)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(UserError, match="Sequential cannot be cut: blocks share a weight"):
        cut(tied, 2)


LONG = (PROGRAM, *COMMON, "--epochs", "3", "--batch_size", "60", "--model.dropout", "0.2", "--ema.decay", "0.9",
        "--checkpoint_every", "7", "--parallel", "fsdp", "--optimizer", "AdamW", "--max_minutes", "60")  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(forge, tmp_path_factory):
    run, _ = trained(forge, tmp_path_factory.mktemp("undisturbed"), *LONG)
    return run


def resumed(forge, home, ranks=2, **env):
    """Resume the run; returns (the exit statuses, what the first process said)."""
    processes = start(forge, PROGRAM, "resume", ranks=ranks, LABBOOK_HOME=home, **env)
    return [process.wait() for process in processes], processes[0].text


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (
            "--limit",
            "301",
            "--optimizer",
            "AdamW",
            "--swa.start",
            "0",
            "--model.norm",
            "batch",
            "--clip_grad_value",
            "0.01",
        ),
        (
            "--freeze.up_to",
            "1.0",
            "--freeze.unfreeze_epoch",
            "1",
            "--model.grad_checkpointing",
            "true",
            "--tta",
            "flip",
        ),
        ("--limit", "301", "--eval_batch_size", "6", "--optimizer.layer_decay", "0.7", "--sampling", "ClassWeighted"),
    ],
    ids=["average", "frozen", "sizes"],
)
def test_fsdp_records_what_ddp_does_with(words, forge, tmp_path):
    words = (DOUBLED, *COMMON, "--log_every", "1", "--epochs", "2", *words)
    one, _ = trained(forge, tmp_path / "ddp", *words)
    two, _ = trained(forge, tmp_path / "fsdp", *words, "--parallel", "fsdp")
    alike(one, two)


@pytest.mark.slow
def test_fsdp_resumes_to_the_same_bits_after_kills(undisturbed, forge, home):
    """Of a process between two checkpoints, and of each while it writes one, with the former one whole."""
    processes = start(forge, *LONG)
    wait_for_step(home, 30)
    processes[1].kill(signal.SIGKILL)
    assert processes[0].wait() == 1, processes[0].text
    for point in ("shards written", "shards sealed", "checkpoint synced"):
        before = {path.name for path in generations(only_run(home).folder / CHECKPOINTS)}
        assert before
        _, text = resumed(forge, home, LABBOOK_FAILPOINT=point)
        assert "resumes after step" in text, text
        assert {path.name for path in generations(only_run(home).folder / CHECKPOINTS)} == before
    statuses, text = resumed(forge, home)
    assert statuses == [0, 0], text
    assert digest(only_run(home)) == digest(undisturbed)
    assert measured(only_run(home)) == measured(undisturbed)
    assert not list((only_run(home).folder / CHECKPOINTS).glob("*.part"))


@pytest.mark.slow
def test_a_full_disk_at_one_process_ends_all_and_the_former_checkpoint_is_resumed(undisturbed, forge, home):
    processes = start(forge, *LONG)
    wait_for_step(home, 20)
    resource.prlimit(processes[1].pid, resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    assert [process.wait() for process in processes] == [1, 1], processes[0].text
    assert "File too large" in processes[0].text
    assert f"resume {only_run(home).id}" in processes[0].text
    assert "Traceback" not in processes[0].text + processes[1].text
    statuses, text = resumed(forge, home)
    assert statuses == [0, 0], text
    assert digest(only_run(home)) == digest(undisturbed)


@pytest.mark.slow
def test_a_second_launch_of_a_run_is_refused_and_the_first_continues(undisturbed, forge, home):
    processes = start(forge, *LONG)
    wait_for_step(home, 15)
    others = start(forge, PROGRAM, "resume", only_run(home).id)
    assert [process.wait() for process in others] == [2, 2], others[0].text
    assert "another process is using this run" in others[0].text
    assert [process.wait() for process in processes] == [0, 0], processes[0].text
    assert digest(only_run(home)) == digest(undisturbed)


@pytest.mark.slow
def test_fsdp_resumes_on_another_number_of_processes_and_says_so(undisturbed, forge, home):
    first, second = start(forge, *LONG)
    wait_for_step(home, 25)
    second.kill(signal.SIGTERM)
    assert (first.wait(), second.wait()) == (143, 143), first.text
    (latest, *_) = generations(only_run(home).folder / CHECKPOINTS)
    shard = next(latest.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    statuses, text = resumed(forge, home, ranks=1)
    assert statuses == [2]
    assert "this is one; use --processes 2 or torchrun" in text
    statuses, text = resumed(forge, home, ranks=3)
    assert statuses == [0, 0, 0], text
    assert "its content does not match its digest; using the previous checkpoint" in text
    assert "this run is no longer bit-exact: processes: 2 then, 3 now" in text
    run = only_run(home)
    assert run.status == "FINISHED"
    for name in ("val/loss", "train/loss"):  # BatchNorm sees the share of a process
        assert list(run.history[name].values()) == pytest.approx(list(undisturbed.history[name].values()), rel=0.2)
    assert forge.run("core", "evaluate", run.id)[0] == 0


@pytest.mark.slow
def test_a_pipeline_resumes_to_the_same_bits_and_with_other_stages(forge, home, tmp_path):
    words = (*LONG[: LONG.index("--parallel")], "--parallel", "pipeline", "--model.norm", "group")
    whole, _ = trained(forge, tmp_path, *words)
    first, second = start(forge, *words)
    wait_for_step(home, 30)
    second.kill(signal.SIGKILL)
    assert first.wait() == 1, first.text
    copied = tmp_path / "copied"
    shutil.copytree(home, copied)
    statuses, text = resumed(forge, home)
    assert statuses == [0, 0], text
    assert digest(only_run(home)) == digest(whole)
    assert measured(only_run(home)) == measured(whole)
    statuses, text = resumed(forge, copied, ranks=3)
    assert statuses == [0, 0, 0], text
    assert "processes: 2 then, 3 now" in text
    assert only_run(copied).status == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp", "pipeline"])
def test_a_loss_that_is_not_finite_is_named_by_all(kind, forge, home):
    words = (DOUBLED, *COMMON, "--parallel", kind, "--optimizer.lr", "1e200", "--clip_grad_norm", "none")
    processes = start(forge, *words)
    assert [process.wait() for process in processes] == [1, 1], processes[0].text
    assert "not finite at step" in processes[0].text
    assert only_run(home).status == "FAILED"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "BatchNorm would see 4 parts of a batch"),
        (("--model.norm", "group", "--microbatches", "1"), "2 stages work at the same time on as many micro-batches"),
        (("--model.norm", "group", "--microbatches", "7"), "7 micro-batches do not divide a batch of 60 images"),
        (("--model.norm", "group", "--freeze.up_to", "0"), "freeze needs all blocks of the network in each process"),
    ],
    ids=["BatchNorm", "few", "microbatches", "freeze"],
)
def test_what_no_pipeline_can_do_is_refused(words, message, forge, home):
    words = (PROGRAM, *COMMON, "--batch_size", "60", "--parallel", "pipeline", *words)
    first, second = start(forge, *words)
    assert (first.wait(), second.wait()) == (2, 2), first.text
    assert message in first.text
    assert second.text == ""
    assert not (home / "mlruns").exists()
