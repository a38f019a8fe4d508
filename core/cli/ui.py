"""labbook ui: open MLflow's pages on the runs of this record in the browser, for this machine only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from core.common import paths
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell
from core.tracking.api import public_uri, run_url, store_problem, tracking_uri

HERE = ("127.0.0.1", "localhost", "::1")
PATIENCE, GRACE = 120.0, 5.0  # s that the server may take to start, and to stop


def main(words: Sequence[str]) -> int:
    """Serve until Ctrl-C. Returns the exit status 0. Raises UserError."""
    parser = VerbParser("ui", __doc__)
    parser.add_argument("--port", type=int, help="port; default: a free one")
    parser.add_argument(
        "--host",
        default=HERE[0],
        help="address of this machine; others are rejected, because the pages require no password",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")
    given = parser.parse_args(list(words))
    if wrong := store_problem():
        raise UserError([f"ui: {wrong}"])
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        _show(f"{public_uri()}/{_page()}", given.no_browser)
        return 0
    _refuse(given.host, given.port, uri)
    port = given.port or _free_port(given.host)
    log = paths.runs().parent / "ui.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", given.host,
             "--port", str(port), "--workers", "1"],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=paths.home(), start_new_session=True,
            # no job execution: its eight processes serve generative AI only; other users can see a command line
            env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
            | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_BACKEND_STORE_URI": uri},
        )  # fmt: skip
    # SIGINT too: a process that a shell starts in the background ignores it
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        address = f"http://{given.host}:{port}"
        _wait(server, f"{address}/health", log)
        _show(f"{address}/{_page()}", given.no_browser)
        tell("press Ctrl-C to stop the server")
        server.wait()
        raise UserError([f"ui: the server stopped; see {log}"])
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Stop the server and its worker processes. Otherwise, it would wait until browsers close their connections."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if server.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                os.killpg(server.pid, number)
                server.wait(GRACE)


def _refuse(host: str, port: int | None, uri: str) -> None:
    if host not in HERE:
        safe = "to serve other machines with a login, run `mlflow server --app-name basic-auth --host ...`"
        raise UserError(
            [f"--host {host}: anyone who reaches this address could read, change and delete every run; {safe}"]
        )
    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).exists():
        raise UserError([f"ui: {file} does not exist yet; no run has been recorded"])
    if port is not None:
        with socket.socket() as taken:
            if not taken.connect_ex((HERE[0], port)):
                raise UserError([f"--port {port}: the port is in use; without --port, a free port is chosen"])


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        return int(free.getsockname()[1])


def _page() -> str:
    """The page with the curves of the latest experiment, which is opened instead of MLflow's start page."""
    for folder in sorted(paths.runs().glob("*"), key=lambda folder: folder.stat().st_mtime, reverse=True):
        if url := run_url(folder):
            return url
    return ""


def _wait(server: subprocess.Popen[bytes], health: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    raise UserError([f"ui: the server did not start; see {log}"])


def _show(address: str, quiet: bool) -> None:
    tell(address)
    if not quiet:
        webbrowser.open(address)
