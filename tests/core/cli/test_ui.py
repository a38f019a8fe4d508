"""labbook ui: a real server over the real store, ended by Ctrl-C."""

import json
import re
import signal
import socket
import time
import urllib.request

import pytest

from core.cli.ui import main
from core.common.errors import UserError
from core.launch import Launch
from core.runs.train import train
from experiments.tiny import EXPERIMENT


@pytest.fixture
def recorded(home, monkeypatch):
    """A home in which a run is on record and in MLflow."""
    train(EXPERIMENT.but({"limit": 64, "epochs": 1}), Launch(threads=1), "tiny")
    return home


@pytest.mark.slow  # tests/test_mlflow_ui.py starts and stops it, too
def test_the_page_is_served_over_the_store_and_ctrl_c_ends_it(recorded, forge):
    process = forge.start("core", "ui", "--no-browser")
    end = time.monotonic() + 120
    while "press Ctrl-C to stop" not in process.text:
        assert time.monotonic() < end
        assert not process.ended, process.text
        time.sleep(0.1)
    address, page = re.search(r"(http://127\.0\.0\.1:\d+)/(\S+)", process.text).groups()
    assert re.fullmatch(
        r"#/experiments/\d+/runs\?compareRunsMode=CHART&workflowType=machine_learning&viewStateShareKey=labbook", page
    )
    question = json.dumps({"experiment_ids": [re.search(r"\d+", page)[0]]}).encode()
    asked = urllib.request.Request(
        f"{address}/api/2.0/mlflow/runs/search", question, {"Content-Type": "application/json"}
    )
    (run,) = json.load(urllib.request.urlopen(asked, timeout=30))["runs"]
    assert run["info"]["status"] == "FINISHED"
    process.kill(signal.SIGINT)
    assert process.wait(30) == 0, process.text
    with socket.socket() as after:
        assert after.connect_ex(("127.0.0.1", int(address.rpartition(":")[2])))


def test_it_is_not_shown_to_the_world(home):
    with pytest.raises(UserError, match=r"--host 0.0.0.0: anyone who reaches this address could .* basic-auth"):
        main(["--host", "0.0.0.0"])


def test_without_a_record_there_is_nothing_to_see(home):
    with pytest.raises(UserError, match="no run has been recorded"):
        main([])


@pytest.mark.parametrize("uri", ["./mlruns", "htp://lab:5000"])
def test_what_no_server_can_show_is_refused(uri, home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"ui: MLFLOW_TRACKING_URI=.*use http://"):
        main(["--no-browser"])


def test_a_port_that_is_taken_is_named(home):
    (home / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: the port is in use"):
            main(["--port", str(port)])


def test_of_a_server_elsewhere_the_address_is_opened(home, monkeypatch, capsys):
    opened = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@lab.example:5000")
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main([]) == 0
    assert opened == [capsys.readouterr().out.strip()]
    assert "lab.example:5000" in opened[0]
    assert "secret" not in opened[0]
