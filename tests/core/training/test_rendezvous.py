"""LABBOOK_RENDEZVOUS: processes meet without torchrun, and a file of a dead job is no trap."""

import signal
import socket

import pytest
import torch.distributed as dist

from core.common.errors import UserError
from core.common.ranks import Ranks, ranks_here
from core.training import distributed, rendezvous
from tests.support.processes import COMMON, PROGRAM, free_port, start, wait_for_step
from tests.support.runs import only_run

WORDS = (PROGRAM, "--epochs", "3", "--batch_size", "60", "--checkpoint_every", "7", *COMMON)


def test_processes_meet_at_a_port(forge, home):
    first, second = start(forge, PROGRAM, "--smoke", *COMMON, LABBOOK_RENDEZVOUS=f"tcp://127.0.0.1:{free_port()}")
    assert (first.wait(), second.wait()) == (0, 0), first.text + second.text
    assert "2 processes" in first.text


def test_the_file_of_a_killed_job_is_used_again(forge, home, tmp_path):
    meet = tmp_path / "meet"
    both = start(forge, *WORDS, LABBOOK_RENDEZVOUS=f"file://{meet}")
    wait_for_step(home, 25)
    for process in both:
        process.kill(signal.SIGKILL)
        process.wait()
    assert meet.stat().st_size > 0
    for process in start(forge, PROGRAM, "resume", LABBOOK_RENDEZVOUS=f"file://{meet}"):
        assert process.wait() == 0, process.text
    assert only_run(home).status == "FINISHED"
    assert not meet.exists()


def alone(monkeypatch, url, rank):
    """A process of two, whose other one never comes."""
    monkeypatch.setattr(rendezvous, "SECONDS", 1.0)
    for name, value in {"RANK": rank, "WORLD_SIZE": 2, "LABBOOK_RENDEZVOUS": url}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError) as found, distributed.joined():
        pass
    return str(found.value)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_alone_at_a_stale_file_says_so(rank, monkeypatch, tmp_path):
    store = dist.FileStore(str(tmp_path / "meet"), 2)
    store.set("meeting", "0123456789abcdef")  # of process 0 of a job that was killed
    text = alone(monkeypatch, f"file://{tmp_path / 'meet'}", rank)
    assert f"process {rank} did not meet the others" in text
    assert f"if a job that ended left {tmp_path / 'meet'}, remove it" in text


def test_a_port_at_which_nobody_listens(monkeypatch):
    text = alone(monkeypatch, f"tcp://127.0.0.1:{free_port()}", 1)
    assert "process 1 did not meet the others" in text
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = alone(monkeypatch, f"tcp://127.0.0.1:{taken.getsockname()[1]}", 0)
    assert "process 0 did not meet the others" in text


@pytest.mark.parametrize(
    ("url", "ranks", "message"),
    [
        ("udp://node1:1", 2, "should be tcp://HOST:PORT, file:///PATH or mpi://"),
        ("tcp://node1", 2, "should be tcp://HOST:PORT"),
        ("tcp://node1:port", 2, "port"),
        ("file://meet", 2, "should be tcp://HOST:PORT, file:///PATH"),
        ("file:///no/such/folder/meet", 2, "there is no folder /no/such/folder"),
        ("tcp://node1:29500", None, "RANK (from 0) and WORLD_SIZE should be set, too"),
    ],
)
def test_mistakes(url, ranks, message, monkeypatch):
    monkeypatch.setenv("LABBOOK_RENDEZVOUS", url)
    if ranks:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
    with pytest.raises(UserError) as found, distributed.joined():
        pass
    assert message in str(found.value)


def test_mpi_is_refused_by_a_torch_without_it(monkeypatch):
    monkeypatch.setenv("LABBOOK_RENDEZVOUS", "mpi://")
    monkeypatch.setattr(dist, "is_mpi_available", lambda: False)
    with pytest.raises(UserError, match="this torch was built without MPI"), distributed.joined():
        pass
    for name, value in {"RANK": 3, "SIZE": 4, "LOCAL_RANK": 1, "LOCAL_SIZE": 2}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    assert ranks_here() == Ranks(3, 4, 1, 2)


def test_one_process_for_each_machine_is_assumed(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks_here() == Ranks()
    monkeypatch.setenv("LABBOOK_RENDEZVOUS", "tcp://node1:29500")
    assert ranks_here() == Ranks(1, 2, 0, 1)
