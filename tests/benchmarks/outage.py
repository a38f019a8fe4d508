"""What an MLflow server that is down, or answers after 2 s, costs the training thread.

    python -m tests.benchmarks.outage

A step of a tiny MLP with a metric per step, journalled, mirrored to: a database (healthy), a port that nobody listens
on, a server that takes 2 s for each answer. CPU time of the training thread and how often it waited (voluntary context
switches), a step. To reach: the same as healthy.
"""

import http.server
import os
import resource
import socket
import tempfile
import threading
import time
from pathlib import Path

os.environ["LABBOOK_HOME"] = tempfile.mkdtemp()

import torch

from core.launch import Launch
from core.record.journal import Journal
from core.tracking.api import Mirror
from core.training.assemble import assemble
from core.training.loop import fit
from tests.benchmarks.common import in_turn, show
from tests.benchmarks.loop import EXPERIMENT, STEPS

ROUNDS = 15


class Slow(http.server.BaseHTTPRequestHandler):
    """Two seconds for an error."""

    def do_GET(self) -> None:
        time.sleep(2)
        self.send_error(503)

    do_POST = do_GET

    def log_message(self, *_) -> None:
        pass


def main() -> None:
    torch.set_num_threads(1)
    slow = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = probe.getsockname()[1]
    stores = {
        "healthy": "",
        "down": f"http://127.0.0.1:{nobody}",
        "2 s slow": f"http://127.0.0.1:{slow.server_address[1]}",
    }
    waits: dict[str, list[int]] = {name: [] for name in stores}
    mirrors = {name: _mirror(uri) for name, uri in stores.items()}

    def measured(name: str) -> float:
        journal = Journal(Path(tempfile.mkdtemp(dir=os.environ["LABBOOK_HOME"])))
        journal.write("run", id=journal.folder.name, experiment="outage", name=name, description="", parent=None, pid=0)
        mirrors[name].follow(journal.folder)
        parts = assemble(EXPERIMENT, EXPERIMENT.data.load(), Launch(log_every=1, device="cpu"))
        began, before = time.thread_time(), resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for event in fit(parts.setup, parts.state, parts.train, parts.val):
            journal.metrics(event.step, event.metrics)
            if event.step == STEPS:
                break
        waits[name].append(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before)
        figure = (time.thread_time() - began) / STEPS
        journal.close("FINISHED")
        return figure

    figures = in_turn({name: lambda name=name: measured(name) for name in stores}, ROUNDS)
    show("CPU time of the training thread, a step", figures, "healthy", "us", 1e6)
    for name, counts in waits.items():
        print(f"  {name:<20} waited {sum(counts) / len(counts) / STEPS:.3f} times a step")
    for mirror in mirrors.values():
        mirror.finish(5)


def _mirror(uri: str) -> Mirror:
    if uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri
    mirror = Mirror()
    mirror.start()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return mirror


if __name__ == "__main__":
    main()
