"""Several processes train one run: as one would, on one record, and they end and go on together."""

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from torch import nn

from core.models.hooks import drop_branches, keep_in_fp32
from core.training import distributed
from tests.support.processes import COMMON, PROGRAM, free_port, start, wait_for_step
from tests.support.runs import digest, only_run, points

DOUBLED = "tests.support.doubled"
WORDS = (PROGRAM, "--epochs", "4", *COMMON, "--model.dropout", "0.2", "--ema.decay", "0.9", "--checkpoint_every", "7",
         "--augment", "RandomCrop,Mixup", "--augment.random_crop.padding", "1", "--batch_size", "60")  # fmt: skip


@pytest.fixture
def torchrun(home):
    """Starts a real torchrun with its output in a file; none outlives its test."""
    running = []

    def start(*words):
        path = home / f"torchrun-{time.monotonic_ns()}.txt"
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        with path.open("w") as output:
            agent = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"})
        running.append(agent)
        return agent, path

    yield start
    for agent in running:
        if agent.poll() is None:
            for process in [*psutil.Process(agent.pid).children(recursive=True), agent]:
                process.kill()
            agent.wait()


def children_of(pid) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def rank_of(pid) -> str:
    with open(f"/proc/{pid}/environ", "rb") as stream:
        return dict(line.split(b"=", 1) for line in stream.read().split(b"\0") if b"=" in line)[b"RANK"].decode()


@pytest.fixture(scope="module")
def undisturbed(forge, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    for process in start(forge, *WORDS, LABBOOK_HOME=home):
        assert process.wait() == 0, process.text
    return only_run(home)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--optimizer", "SAM", "--optimizer.base", "SGD", "--optimizer.base.lr", "0.05", "--swa.start", "0.5",
         "--max_minutes", "60", "--sampling", "ClassWeighted", "--clip_grad_value", "0.1", "--monitor", "val/top5",
         "--tta", "flip"),
    ],
    ids=["plain", "toolbox"],
)  # fmt: skip
def test_two_processes_compute_what_one_does(words, forge, home, tmp_path):
    """In float64: losses, gradients, validation and test, with accumulation, mixup and clipping."""
    words = (DOUBLED, *COMMON, "--log_every", "1", *words)
    status, text = forge.run(*words, env={"LABBOOK_HOME": str(tmp_path)})
    assert status == 0, text
    one = points(only_run(tmp_path))
    for process in start(forge, *words):
        assert process.wait() == 0, process.text
    two = points(only_run(home))
    one.pop("minutes", None)
    two.pop("minutes", None)
    assert two.keys() == one.keys()
    assert len(one["step/loss"]) == 42
    for name in one:
        assert two[name] == pytest.approx(one[name], rel=1e-9), name
    assert two["val/accuracy"] == one["val/accuracy"]
    assert two["test/accuracy"] == one["test/accuracy"]


def test_the_first_process_writes_and_speaks_for_all(forge, home):
    first, second = start(forge, PROGRAM, "--smoke", *COMMON)
    assert (first.wait(), second.wait()) == (0, 0), first.text + second.text
    assert "2 processes" in first.text
    assert second.text == ""
    run = only_run(home)
    table = (run.folder / "artifacts" / "confusion_matrix.csv").read_text().splitlines()[1:]
    counted = sum(int(number) for line in table for number in line.split(",")[1:])
    assert counted == run.record["data"]["test"]
    assert run.record["facts"]["hardware.processes"] == "2"


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_validation_is_of_the_weights_that_are_kept(average, undisturbed, forge, home):
    """BatchNorm's statistics differ between processes until the first one's are everybody's."""
    run = undisturbed
    if average == "swa":
        for process in start(forge, PROGRAM, "--epochs", "2", "--batch_size", "60", "--swa.start", "0", *COMMON):
            assert process.wait() == 0, process.text
        run = only_run(home)
    kept = max(run.history["val/accuracy"], key=lambda epoch: (run.history["val/accuracy"][epoch], -epoch))
    val = run.experiment.data.load(None).val
    images, targets = val.pixels[val.rows], val.targets
    losses = run.experiment.loss(torch.from_numpy(run.predict(images)).log(), torch.from_numpy(targets))
    assert run.history["val/loss"][kept] == pytest.approx(float(losses.mean()), rel=1e-4)


def test_several_seeds_over_two_processes(forge, home):
    first, second = start(forge, PROGRAM, "--seeds", "2", "--smoke", *COMMON)
    assert (first.wait(), second.wait()) == (0, 0), first.text + second.text
    assert "of 2 seeds" in first.text
    assert len(list((home / "mlruns" / "runs").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch_size", "50"), "batch_size: 50 cannot be divided into 2 even shares"),
        (
            ("--grad_accum_steps", "4", "--batch_size", "60"),
            "grad_accum_steps: 4 does not divide the 30 images of each process",
        ),
        (
            ("--sync_batch_norm", "true", "--batch_size", "60"),
            "sync_batch_norm: torch does not support it on a cpu device",
        ),
    ],
    ids=["share", "grad_accum_steps", "sync_batch_norm"],
)
def test_what_cannot_be_shared_is_refused_by_all_and_said_once(words, message, forge, home):
    first, second = start(forge, PROGRAM, *COMMON, *words)
    assert (first.wait(), second.wait()) == (2, 2)
    assert message in first.text
    assert second.text == ""
    assert not (home / "mlruns").exists()


def test_a_mistake_of_one_process_alone_ends_all_and_is_said_by_the_first(forge, home):
    """As when the second machine lacks the data, or here the device."""
    words = (PROGRAM, *COMMON, "--batch_size", "60")
    shared = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    first, second = (
        forge.start(
            *words, "--device", device, env={n: str(v) for n, v in {**shared, "RANK": r, "LOCAL_RANK": r}.items()}
        )
        for r, device in enumerate(("cpu", "cuda:7"))
    )
    assert (first.wait(), second.wait()) == (2, 2), first.text
    assert "process 1: device: cuda:7 cannot be used here" in first.text
    assert not (home / "mlruns").exists()


def test_a_loss_that_is_not_finite_in_one_process_is_named_by_all(forge, home):
    processes = start(forge, DOUBLED, *COMMON, "--method", "PoisonedAt", "--epochs", "6")
    assert [process.wait() for process in processes] == [1, 1]
    assert re.search(r"not finite at step \d+ .*\(13\) have a non-finite loss", processes[0].text), processes[0].text
    assert only_run(home).status == "FAILED"


@pytest.mark.parametrize("who", [0, 1], ids=["first", "second"])
def test_one_process_killed_ends_both_and_the_run_resumes_to_the_same_bits(who, undisturbed, forge, home):
    processes = start(forge, *WORDS)
    wait_for_step(home, 30)
    processes[who].kill(signal.SIGKILL)
    assert processes[1 - who].wait() == 1, processes[1 - who].text
    run = only_run(home)
    if who:
        assert run.status == "KILLED"
        assert f"resume it with: torchrun --nproc-per-node 2 -m {PROGRAM} resume {run.id}" in processes[0].text
    for process in start(forge, PROGRAM, "resume"):
        assert process.wait() == 0, process.text
    assert digest(run) == digest(undisturbed)
    assert points(run) == points(undisturbed)


@pytest.mark.parametrize("who", [0, 1], ids=["first", "second"])
def test_a_signal_to_one_process_stops_both_at_the_same_step(who, undisturbed, forge, home):
    processes = start(forge, *WORDS)
    wait_for_step(home, 25)
    processes[who].kill(signal.SIGTERM)
    assert [process.wait() for process in processes] == [143, 143], processes[0].text + processes[1].text
    assert processes[1].text == ""
    run = only_run(home)
    assert run.status == "KILLED"
    for process in start(forge, PROGRAM, "resume", run.id):
        assert process.wait() == 0, process.text
    assert digest(run) == digest(undisturbed)
    assert points(run) == points(undisturbed)


def test_another_number_of_processes_is_said_aloud(forge, home):
    first, second = start(forge, *WORDS)
    wait_for_step(home, 25)
    first.kill(signal.SIGTERM)
    assert (first.wait(), second.wait()) == (143, 143)
    status, text = forge.run(PROGRAM, "resume")
    assert status == 0, text
    assert "this run is no longer bit-exact: processes: 2 then, 1 now" in text


@pytest.mark.slow
def test_torchrun_restarts_to_the_same_bits(undisturbed, home, torchrun):
    agent, output = torchrun("--nproc-per-node", "2", "--max-restarts", "1", "-m", *WORDS)
    wait_for_step(home, 30)
    (victim,) = [pid for pid in children_of(agent.pid) if rank_of(pid) == "1"]
    os.kill(victim, signal.SIGKILL)
    assert agent.wait(120) == 0, output.read_text()
    assert "resumes after step" in output.read_text()
    run = only_run(home)
    assert run.status == "FINISHED"
    assert digest(run) == digest(undisturbed)
    assert points(run) == points(undisturbed)


@pytest.mark.slow
def test_three_processes_resume_to_the_same_bits(forge, home, tmp_path):
    """With more than two, sums depend on the order of what is added up."""
    for process in start(forge, *WORDS, ranks=3, LABBOOK_HOME=tmp_path):
        assert process.wait() == 0, process.text
    processes = start(forge, *WORDS, ranks=3)
    wait_for_step(home, 30)
    processes[2].kill(signal.SIGKILL)
    for process in processes:
        process.wait()
    for process in start(forge, PROGRAM, "resume", ranks=3):
        assert process.wait() == 0, process.text
    assert digest(only_run(home)) == digest(only_run(tmp_path))
    assert points(only_run(home)) == points(only_run(tmp_path))


@pytest.mark.slow
def test_two_nodes_restart_to_the_same_bits(undisturbed, home, torchrun):
    """Two torchrun agents that meet by c10d, as on two machines; one's process is killed."""
    meet = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "job")
    one = ("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "1", *meet, "-m", *WORDS)
    agents = [torchrun(*one) for _ in range(2)]
    wait_for_step(home, 30)
    os.kill(children_of(agents[1][0].pid)[0], signal.SIGKILL)
    for agent, output in agents:
        assert agent.wait(120) == 0, output.read_text()
    run = only_run(home)
    assert digest(run) == digest(undisturbed)
    assert points(run) == points(undisturbed)


def test_a_process_alone_asks_nobody(home):
    from core.training import distributed

    with distributed.joined() as ranks:
        assert (ranks.rank, ranks.ranks) == (0, 1)
        assert distributed.gathered("x") == ["x"]
        assert distributed.from_first("x") == "x"
        agreed = distributed.Agreement()
        assert [agreed(None), agreed(15)] == [None, 15]


def test_norms_over_all_processes_keep_their_hooks():
    """Stochastic depth and fp32 are hooks on norms, too."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    keep_in_fp32(network, ["1"])
    drop_branches([network[1]], 0.5)
    before = {name: value for name, value in vars(network[1]).items() if name.startswith("_forward_") and value}
    assert before
    network = distributed.converted(network, None)
    assert type(network[1]) is nn.SyncBatchNorm
    assert {name: value for name, value in vars(network[1]).items() if name in before} == before


def test_a_sparse_tensor_is_summed_over_processes(tmp_path):
    import torch.distributed as dist

    table = torch.eye(3, dtype=torch.int64).to_sparse()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert distributed.total(table + table).to_dense().tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    finally:
        dist.destroy_process_group()
