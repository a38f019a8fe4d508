"""labbook doctor: what a run would fail of is found before it, on real sockets, files and processes."""

import http.server
import json
import shutil
import socket
import sqlite3
import threading
import time
from collections import namedtuple
from email.utils import formatdate

import pytest

from core.cli.doctor import main
from core.common.errors import UserError
from core.diagnostics import doctor
from core.tracking.reach import reach
from tests.support.processes import free_port


@pytest.fixture
def server(monkeypatch):
    """A server that answers as MLflow does. seconds: by which its clock is ahead.  status: of its answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        seconds, status = 0.0, 200

        def do_POST(self):
            self.send_response_only(self.status)
            self.send_header("Date", formatdate(time.time() + self.seconds, usegmt=True))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *words):
            pass

    opened = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=opened.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{opened.server_port}")
    yield Handler
    opened.shutdown()
    opened.server_close()


def results(capsys):
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)}


def test_every_failure_is_found_with_its_fix_and_processes_really_add_up(home, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("RANK", "1")  # of a job around it, which its own processes must not take for theirs
    monkeypatch.setenv("WORLD_SIZE", "4")
    words = ["--json", "--need_gb", "1e6", "--address", "no-such-host.invalid:29500"]
    assert main(words) == 1
    found = results(capsys)
    failed = {name for name, one in found.items() if one["state"] == "fail"}
    assert {"disk home", "disk temp", "mlflow", "rendezvous"} <= failed
    assert all(found[name]["fix"] for name in failed)
    assert "less than 1e+06 GB" in found["disk home"]["found"]
    assert "does not answer" in found["mlflow"]["found"]
    assert "labbook sync" in found["mlflow"]["fix"]
    assert "name is not known" in found["rendezvous"]["found"]
    assert found["gloo"] == {"name": "gloo", "state": "ok", "found": "all-reduce over 2 processes", "fix": ""}
    assert list(home.iterdir()) == []


def test_a_machine_that_can_train_has_status_0(home, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "all_reduce", lambda backend, ranks, seconds: doctor.Check(backend, "ok", ""))
    assert main(["--need_gb", "0"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "nothing would fail"
    assert "fix:" not in text


@pytest.mark.slow
def test_an_interface_that_does_not_exist_is_found_by_trying(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "absent0")
    found = doctor.all_reduce("gloo", 2, 60)
    assert found.state == "fail"
    assert "GLOO_SOCKET_IFNAME" in found.fix
    found = doctor.all_reduce("gloo", 2, 0.05)
    assert "no answer within 0.05 s" in found.found


def test_little_shared_memory_is_a_failure(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    assert doctor.shared_memory(tmp_path).state == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(64 << 20, 0, 64 << 20))  # as in a container of Docker
    found = doctor.shared_memory(tmp_path)
    assert found.state == "fail"
    assert "64.0 MB free" in found.found
    assert "--shm-size" in found.fix
    assert doctor.shared_memory(tmp_path / "absent").state == "none"


def test_a_folder_that_cannot_be_written_is_found_by_writing():
    found = doctor.disk("disk home", doctor.Path("/proc/labbook"), 0, "LABBOOK_HOME")
    assert found.state == "fail"
    assert "cannot be written" in found.found
    assert "LABBOOK_HOME" in found.fix


def test_a_check_that_breaks_is_a_failure_and_the_others_follow(home, monkeypatch):
    monkeypatch.setattr(doctor, "all_reduce", lambda backend, ranks, seconds: doctor.Check(backend, "ok", ""))
    monkeypatch.setattr(doctor, "_torch", lambda: (_ for _ in ()).throw(ImportError("libcudart.so.13: not found")))
    found = {check.name: check for check in doctor.checks(doctor.Asked(need_gb=0))}
    assert found["torch"].state == "fail"
    assert found["torch"].found == "ImportError: libcudart.so.13: not found"
    assert "install torch" in found["torch"].fix
    assert found["mlflow"].state == "ok"


def test_the_clock_of_the_server_and_its_refusals(home, server):
    found = reach()
    assert found.wrong == ""
    assert doctor.clock(found.ahead).state == "ok"
    server.seconds = 90
    late = doctor.clock(reach().ahead)
    assert late.state == "fail"
    assert "behind that of the MLflow server" in late.found
    assert 85 < float(late.found.split()[0]) < 95
    server.status = 401
    assert "refuses the login" in reach().wrong
    server.status = 500
    assert "not as MLflow (500)" in reach().wrong


def test_a_store_of_an_older_mlflow_is_named(home):
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("create table alembic_version (version_num)")
        database.execute("insert into alembic_version values ('451aebb31d03')")
    assert "written by an older MLflow" in reach().wrong


def test_the_rendezvous(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        found = doctor.rendezvous(f"127.0.0.1:{port}", 5)
        assert (found.state, found.found) == ("ok", f"--address 127.0.0.1:{port} answers")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert doctor.rendezvous(None, 5).state == "fail"
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    assert "free port of this machine" in doctor.rendezvous(None, 5).found

    def refused(*words, **options):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refused)
    elsewhere = doctor.rendezvous("192.0.2.1:29500", 5)  # an address of no machine (RFC 5737)
    assert (elsewhere.state, elsewhere.fix) == ("fail", "start rank 0 there first")


@pytest.mark.parametrize("words", [["--timeout", "0"], ["--need_gb", "-1"], ["--need_gb", "nan"]])
def test_mistakes(words):
    with pytest.raises(UserError, match=words[0]):
        main(words)
