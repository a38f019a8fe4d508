"""A real PostgreSQL server in a folder of its own, for the tests that need one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Server:
    """PostgreSQL on 127.0.0.1; its user is labbook. password: what it asks for; none: it trusts everybody."""

    programs: Path
    folder: Path
    port: int
    password: str | None = None

    def call(self, program: str, *words: str | Path) -> None:
        user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
        environment = os.environ | ({"PGPASSWORD": self.password} if self.password else {})
        command = [self.programs / program, *words]
        subprocess.run(command, user=user, check=True, capture_output=True, cwd=self.folder, env=environment)

    def create(self) -> None:
        """Before the first start."""
        words = ["-D", self.folder / "data", "-U", "labbook", "--no-sync"]
        if self.password:
            file = self.folder / "password"
            file.write_text(self.password)
            file.chmod(0o644)
            self.call("initdb", *words, "--auth", "scram-sha-256", f"--pwfile={file}")
        else:
            self.call("initdb", *words, "--auth", "trust")

    def start(self) -> None:
        settings = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self.call("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", "-o", settings, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")


@contextmanager
def served(database: str, password: str | None = None, kind: type[Server] = Server) -> Iterator[Server]:
    """A server with an empty database; skips the test where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="labbook-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = kind(found[-1], folder, port, password)
    server.create()
    server.start()
    try:
        server.call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "labbook", database)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
