"""The local page under load and at its end: stalled clients, many uploads, Ctrl-C, kill -9."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from steps import ROOT
from test_serve import send, serving
from xrays import png, xray

from cxr.steps.serve import connections
from cxr.steps.serve.uploads import UploadFolder

HALF_OPEN = 25
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
# A page whose network computes for a minute. It says its port.
BUSY_PAGE = """
import time
from cxr.steps.serve.connections import make_server
from cxr.steps.serve.serve import listen
from cxr.steps.serve.server import create_app

class Busy:
    sides = (8, 8)

    def predict(self, pictures):
        print("computes", flush=True)
        time.sleep(60)

with listen(0) as listening:
    print(listening.getsockname()[1], flush=True)
    try:
        make_server(create_app(Busy())).run(sockets=[listening])
    except KeyboardInterrupt:  # as run_step does
        raise SystemExit(130) from None
"""


class Answer(dict):
    def to_dict(self):
        return dict(self)


class Quick:
    """A predictor that finds nothing, and how many ask it at a time."""

    sides = (8, 8)

    def __init__(self):
        self.inside = 0
        self.at_a_time = []

    def predict(self, pictures):
        self.inside += 1
        self.at_a_time.append(self.inside)
        time.sleep(0.01)
        self.inside -= 1
        return [Answer() for _ in pictures]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.fixture
def content(tmp_path):
    return png(tmp_path / "a.png", xray()).read_bytes()


def open_clients(port, head, count=HALF_OPEN):
    """Connections that send `head` and nothing more."""
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port), 30)
        client.sendall(head)
        clients.append(client)
    return clients


def answer_of(client):
    """What arrives until the server closes the connection."""
    received = b""
    try:
        for chunk in iter(lambda: client.recv(4096), b""):
            received += chunk
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("head", [b"", b"GET / HT", HEAD])
def test_clients_without_headers_are_closed(content, monkeypatch, head):
    """Meanwhile the others are served; where there were too many, they are served afterwards."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1)
    with serving(Quick()) as port:
        clients = open_clients(port, head)
        assert send(port, content)[0] == 200
        start = time.monotonic()
        for client in clients:
            assert answer_of(client) == b""
        assert time.monotonic() - start < 20

    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    with serving(Quick()) as port:
        clients = open_clients(port, head)
        for client in clients:
            answer_of(client)
        assert send(port, content)[0] == 200


def test_headers_that_trickle_are_too_late(monkeypatch):
    """After an answer, too, where uvicorn's own limit ends with the first byte."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1)
    with serving(Quick()) as port, socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        start = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - start < 30:
                client.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - start < 20


def test_uploads_that_stall_do_not_hold_up_the_others(content):
    with serving(Quick(), stall_seconds=1) as port:
        clients = open_clients(port, HEAD + b"\r\nfirst")
        assert send(port, content)[0] == 200
        for client in clients:
            answer = answer_of(client)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"Nothing of this file arrived for 1 seconds." in answer


def test_fifty_uploads_at_once_are_served_in_turn(content, temporary):
    predictor = Quick()
    statuses = []
    with serving(predictor, most_uploads=5) as port:
        [folder] = temporary.iterdir()
        threads = []
        for _ in range(50):
            threads.append(threading.Thread(target=lambda: statuses.append(send(port, content)[0])))
            threads[-1].start()
        most = 0
        while any(thread.is_alive() for thread in threads):
            most = max(most, len(list(folder.glob("*/upload"))))
            time.sleep(0.005)
    assert statuses == [200] * 50
    assert predictor.at_a_time == [1] * 50
    assert 1 <= most <= 5
    assert not list(temporary.iterdir())


@contextmanager
def busy_page(content):
    """A page that computes for an upload: its process and port."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY_PAGE],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(process.stdout.readline())
        [client] = open_clients(port, upload_head(content), 1)
        client.sendall(content)
        assert process.stdout.readline() == "computes\n"
        yield SimpleNamespace(process=process, port=port)
    finally:
        process.kill()
        process.communicate()


def upload_head(content):
    return HEAD.replace(b"1000", b"%d" % len(content)) + b"\r\n"


def test_ctrl_c_ends_it_within_five_seconds(content, temporary):
    """While it computes, an upload waits, another stalls, and headers are on their way."""
    with busy_page(content) as page:
        clients = open_clients(page.port, upload_head(content) + content, 3)
        clients += open_clients(page.port, HEAD + b"\r\nfirst", 3)
        clients += open_clients(page.port, b"GET", 3)
        assert list(temporary.glob("*/*/upload"))
        page.process.send_signal(signal.SIGINT)
        start = time.monotonic()
        status = page.process.wait(20)
        assert time.monotonic() - start < 5
        assert status in (130, -signal.SIGINT)
        assert "Traceback" not in page.process.stderr.read()
    assert not list(temporary.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_the_next_start_deletes_what_a_killed_one_left(content, temporary):
    living = UploadFolder()
    other = temporary / "cxr-uploads-linked"
    other.symlink_to(living.path)
    with busy_page(content) as page:
        page.process.kill()
        page.process.wait()
    [upload] = [path for path in temporary.glob("*/*/upload") if path.parents[1] != living.path]
    folder = UploadFolder()
    assert not upload.exists()
    assert set(temporary.iterdir()) == {living.path, folder.path, other}
    for each in (living, folder):
        each.remove()
    other.unlink()
    assert not list(temporary.iterdir())


def test_two_servers_that_start_at_once(temporary, monkeypatch):
    """A new folder that another server takes for an abandoned one is given up."""
    original = FileLock.acquire
    taken = []

    def taken_first(lock, *args, **kwargs):
        path = Path(lock.lock_file).parent
        if not taken:
            taken.append(path)
            other = FileLock(path / ".lock", is_singleton=False)
            original(other, timeout=0)
            taken.append(other)
        return original(lock, *args, **kwargs)

    monkeypatch.setattr(FileLock, "acquire", taken_first)
    folder = UploadFolder()
    assert folder.path != taken[0]
    folder.remove()
