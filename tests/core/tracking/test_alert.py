"""An alert says how a run or a search has ended; one that fails is a line, and its URL is not on record."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from core.launch import Launch
from core.record import provenance
from core.runs.seeds import train_seeds
from core.runs.train import train
from core.tracking import alert
from experiments.tiny import EXPERIMENT
from tests.support.mlflow_server import begin

SECRET = "".join(["XYZ", "ZY42"])  # not in this file, of which the record has a copy as long as it is not committed
SMALL = EXPERIMENT.but({"epochs": 1, "limit": 64})


def launch(to):
    return Launch(mlflow=False, threads=1, notify=to)


@pytest.fixture
def server():
    """A server on 127.0.0.1, and what was posted to it: (path, type, facts). It refuses /refused, and /slow is slow."""
    posted, done = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            posted.append((self.path, self.headers["Content-Type"], content))
            if self.path == "/slow":
                done.wait(20)
            self.send_response(403 if self.path == "/refused" else 204)
            self.end_headers()

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}", posted
        done.set()
        serving.shutdown()
        thread.join()


def test_a_run_that_ends_is_posted_and_the_url_is_not_on_record(home, server, monkeypatch):
    url, posted = server
    monkeypatch.setattr(sys, "argv", ["train", "tiny", "--notify", f"{url}/{SECRET}", f"--notify=curl {url}/{SECRET}"])
    run = train(SMALL, launch(f"{url}/{SECRET}"), "tiny")
    ((path, kind, found),) = posted
    assert (path, kind) == (f"/{SECRET}", "application/json")
    assert (found["run"], found["experiment"], found["status"], found["error"]) == (run.id, "tiny", "FINISHED", None)
    assert found["metrics"]["test/accuracy"] == run.metrics["test/accuracy"]
    assert found["text"].startswith(f"{run.id} FINISHED after ")
    assert f"test/accuracy {run.metrics['test/accuracy']:.2%}" in found["text"]
    assert found["folder"] == str(run.folder)
    assert provenance.command().count("***") == 2
    for file in run.folder.rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes(), file


def test_several_seeds_are_one_alert_and_a_command_gets_the_facts(home, tmp_path):
    seeds = train_seeds(SMALL, 2, launch(f"cat >> {tmp_path}/facts"), "tiny")
    found = json.loads((tmp_path / "facts").read_text())
    assert (found["run"], found["parent"], found["status"]) == (seeds.parent.id, None, "FINISHED")


def test_a_run_that_fails_says_why(home, server, monkeypatch):
    url, posted = server
    monkeypatch.setenv("LABBOOK_NOTIFY", url)
    monkeypatch.setattr("core.runs.trainer._record", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(SMALL, launch(None), "tiny")
    ((_, _, found),) = posted
    assert found["status"] == "FAILED"
    assert found["error"].startswith("ZeroDivisionError")
    assert found["error"] in found["text"]


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("{url}/refused", "HTTPError: HTTP Error 403: Forbidden"),
        ("{url}/slow", "TimeoutError: timed out"),
        ("http://127.0.0.1:1/{secret}", "URLError: <urlopen error [Errno 111] Connection refused>"),
        ("http://[bad/{secret}", "ValueError: "),
        ("no-such-command", "CalledProcessError: Command 'no-such-command' returned non-zero exit status 127"),
        ("sleep 60 | cat", "TimeoutExpired: Command 'sleep 60 | cat' timed out"),
        ("exec true", ""),  # which does not read its input
    ],
)
def test_a_failed_alert_is_one_line(home, server, monkeypatch, capsys, to, reason):
    monkeypatch.setattr(alert, "TIMEOUT", 0.3)
    log = begin("ended")
    log.metrics(0, {"val/accuracy": 0.5, "bad": float("nan")})
    log.close("FINISHED")
    alerts = alert.Alerts(to.format(url=server[0], secret=SECRET))
    alerts.follow(log.folder)
    alerts.send()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == bool(reason)
    for line in lines:
        assert line.startswith(f"the alert for ended was not sent: {reason}")
        assert SECRET not in line


def test_without_an_address_nothing_is_sent(home, monkeypatch):
    monkeypatch.setattr(alert, "notify", lambda to, content: pytest.fail("sent"))
    log = begin("ended")
    log.close("FINISHED")
    alerts = alert.Alerts(None)
    alerts.follow(log.folder)
    alerts.send()
