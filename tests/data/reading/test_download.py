import hashlib
import http.server
import socket
import subprocess
import sys
import threading
import time

import pytest

from core.common.errors import DataError
from data.reading import download as module
from data.reading.download import download
from tests.support.samples import ROOT

CONTENT = bytes(range(256)) * 4000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        start = 0
        if (wanted := self.headers.get("Range")) and server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if self.path == "/absent":
            return self.send_error(404)
        if start and start >= len(CONTENT):
            return self.send_error(416)
        body = bytes(len(CONTENT)) if self.path == "/wrong" else CONTENT
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.path == "/truncated":
            self.wfile.write(body[start : start + 5000])
        elif self.path == "/stalled":
            self.wfile.write(body[:5000])
            self.wfile.flush()
            server.released.wait(20)
        else:
            time.sleep(0.3 if self.path == "/slow" else 0)
            self.wfile.write(body[start:])
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.ranges, made.released = [], True, threading.Event()
    made.url = f"http://127.0.0.1:{made.server_address[1]}"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.released.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "store" / "file.bin"


def part_of(target):
    return target.with_name("file.bin.part")


def complaint(url, target, sha256=SHA):
    with pytest.raises(DataError) as caught:
        download(url, target, sha256)
    assert not target.exists()
    said = "\n".join(caught.value.lines)
    assert url in said
    assert str(target) in said
    assert "--root PATH" in said
    return said


def test_a_file_comes_whole(server, target, capsys):
    download(f"{server.url}/good", target, SHA)
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()
    assert capsys.readouterr().err.splitlines() == [f"downloading {server.url}/good", f"downloaded {target}"]


def test_what_is_there_is_not_fetched_again(server, target):
    download(f"{server.url}/good", target, SHA)
    download(f"{server.url}/good", target, SHA)
    assert len(server.asked) == 1


def test_a_truncated_transfer_is_reported_and_continued(server, target):
    said = complaint(f"{server.url}/truncated", target)
    assert "expected 1,024,000 bytes, got 5,000" in said
    assert part_of(target).stat().st_size == 5000
    download(f"{server.url}/good", target, SHA)
    assert server.asked[-1] == ("/good", "bytes=5000-")
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server, target):
    server.ranges = False
    complaint(f"{server.url}/truncated", target)
    download(f"{server.url}/good", target, SHA)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize("old", [b"x" * 700, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 9)])
def test_a_part_of_something_else_is_dropped(old, server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(old)
    download(f"{server.url}/good", target, SHA)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_complete_needs_no_server(target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    download("http://127.0.0.1:9/none", target, SHA)
    assert target.read_bytes() == CONTENT


def test_wrong_contents_are_refused_and_leave_nothing(server, target):
    said = complaint(f"{server.url}/wrong", target)
    assert f"sha256 expected {SHA}, got {hashlib.sha256(bytes(len(CONTENT))).hexdigest()}" in said
    assert not part_of(target).exists()


def test_a_stall_ends(server, target, monkeypatch):
    monkeypatch.setattr(module, "STALL_SECONDS", 0.5)
    began = time.monotonic()
    assert "no data received for 0.5 s" in complaint(f"{server.url}/stalled", target)
    assert time.monotonic() - began < 15
    assert part_of(target).stat().st_size == 5000


def test_an_answer_of_the_server_is_reported(server, target):
    assert "the server responded 404" in complaint(f"{server.url}/absent", target)


def test_nobody_listens(target):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert "no connection" in complaint(f"http://127.0.0.1:{port}/good", target)


def test_a_name_server_that_never_answers_is_not_waited_for(target, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: ended.wait(20))
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.5)
    began = time.monotonic()
    assert "no response within 0.5 s" in complaint("http://labbook.invalid/good", target)
    assert time.monotonic() - began < 15
    ended.set()


def test_a_server_that_accepts_and_says_nothing_is_not_waited_for(target, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no response within 0.5 s" in complaint(f"http://127.0.0.1:{silent.getsockname()[1]}/good", target)


def test_the_deadlines_that_are_promised():
    assert module.CONNECT_SECONDS < 15
    assert module.STALL_SECONDS == 20


@pytest.mark.parametrize("url", ["no url", "ftp:/x", "http://"])
def test_a_url_that_is_none_is_reported(url, target):
    assert "no connection" in complaint(url, target)


def test_two_processes_fetch_once(server, target):
    code = (
        "import sys, pathlib; from data.reading.download import download; "
        "download(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3])"
    )
    command = [sys.executable, "-c", code, f"{server.url}/slow", str(target), SHA]
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(30) for process in both] == [0, 0]
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_terminal_shows_a_bar_with_size_and_speed(server, target, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    download(f"{server.url}/good", target, SHA)
    shown = capsys.readouterr().err
    assert "1.0/1.0 MB" in shown
    assert "/s" in shown


def test_a_place_that_cannot_be_written_is_reported(server, target):
    target.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(DataError, match="store"):
        download(f"{server.url}/good", target, SHA)


def test_a_part_that_cannot_be_written_is_reported(server, target):
    part_of(target).mkdir(parents=True)
    with pytest.raises(DataError, match="directory"):
        download(f"{server.url}/good", target, SHA)
