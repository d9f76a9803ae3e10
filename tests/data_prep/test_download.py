"""Downloads from a server on this machine that misbehaves in the ways that servers do."""

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from data_prep import download
from mbh_jax.errors import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `answer(handler, start)` decides how, `starts` lists what was asked for."""

    answer: Callable[[BaseHTTPRequestHandler, int], None]
    starts: list[int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/label_192.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        self.server.starts.append(start)
        self.server.answer(self, start)

    def log_message(self, *args: object) -> None:
        pass


def send(handler, start, *, content=CONTENT, status=None, length=None, cut=None):
    """Sends content from `start` on, with a `length` that may be a lie and a `cut` after it."""
    body = content[start:]
    if start >= len(content) and start:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.end_headers()
        return
    handler.send_response(status or (206 if start else 200))
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body[:cut])


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "_RETRY_WAIT_S", 0.01)
    server = Server(("127.0.0.1", 0), Handler)
    server.answer, server.starts = send, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "raw" / "label_192.zip"


def part_of(target):
    return target.with_name("label_192.zip.part")


def test_a_whole_file(server, target):
    assert download.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_a_good_file_is_left_alone(server, target):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    before = target.stat().st_mtime_ns
    assert not download.download(server.url, target, SHA256)
    assert target.stat().st_mtime_ns == before
    assert server.starts == []


def test_another_file_of_that_name_is_not_replaced(server, target):
    target.parent.mkdir()
    target.write_bytes(b"my own")
    with pytest.raises(UserError, match=r"label_192\.zip: is there, but not the published file"):
        download.download(server.url, target, SHA256)
    assert target.read_bytes() == b"my own"


def test_goes_on_where_it_broke_off(server, target):
    server.answer = lambda handler, start: send(handler, start, cut=60_000)
    assert download.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == [0, 60_000, 120_000, 180_000, 240_000]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(server, target):
    part_of(target).parent.mkdir()
    part_of(target).write_bytes(CONTENT[:123_456])
    assert download.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == [123_456]


def test_a_whole_part_is_only_checked(server, target):
    part_of(target).parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    assert download.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server, target):
    part_of(target).parent.mkdir()
    part_of(target).write_bytes(CONTENT + b"more")
    assert download.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.starts == [len(CONTENT) + 4, 0]


@pytest.mark.parametrize("held", [1000, len(CONTENT) + 4])
def test_a_server_that_ignores_range(server, target, held):
    part_of(target).parent.mkdir()
    part_of(target).write_bytes(b"x" * held)
    server.answer = lambda handler, start: send(handler, 0)
    assert download.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_server_that_sends_another_range(server, target):
    part_of(target).parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1000])
    server.answer = lambda handler, start: send(handler, start + 500)
    with pytest.raises(UserError, match=r"broke off .* \(the server sent another range"):
        download.download(server.url, target, SHA256)
    assert part_of(target).read_bytes() == CONTENT[:1000]


def test_a_server_that_does_not_say_how_long_the_file_is(server, target):
    part_of(target).parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1000])

    def answer(handler, start):
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/*")
        handler.end_headers()
        handler.wfile.write(CONTENT[start:])

    server.answer = answer
    assert download.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_server_that_promises_more_than_it_has(server, target):
    def answer(handler, start):
        if start:
            send(handler, 0, status=200, length=len(CONTENT) + 500)
        else:
            send(handler, 0, length=len(CONTENT) + 500)

    server.answer = answer
    with pytest.raises(UserError, match=r"broke off after 0\.3 MB \(.*\): run again to go on"):
        download.download(server.url, target, SHA256)
    assert not target.exists()


def test_a_server_that_promises_less_than_it_has(server, target):
    server.answer = lambda handler, start: send(handler, start, length=1000)
    with pytest.raises(UserError, match="not the published file"):
        download.download(server.url, target, SHA256)
    assert list(target.parent.iterdir()) == []


def test_a_wrong_file_is_removed(server, target):
    server.answer = lambda handler, start: send(handler, start, content=b"<html>not found</html>")
    with pytest.raises(UserError, match=r"not the published file \(SHA-256 .* removed: try again"):
        download.download(server.url, target, SHA256)
    assert list(target.parent.iterdir()) == []


def test_no_such_file(server, target):
    server.answer = lambda handler, start: handler.send_error(404)
    with pytest.raises(UserError, match=r"HTTP 404 Not Found: give another --url"):
        download.download(server.url, target, SHA256)
    assert server.starts == [0]


def test_a_server_in_trouble_is_tried_again(server, target):
    def answer(handler, start):
        if len(server.starts) < 3:
            handler.send_error(429 if len(server.starts) == 1 else 503)
        else:
            send(handler, start)

    server.answer = answer
    assert download.download(server.url, target, SHA256)
    server.answer = lambda handler, start: handler.send_error(503)
    with pytest.raises(UserError, match=r"broke off .* \(HTTP 503"):
        download.download(server.url, target.with_name("other.zip"), SHA256)


def test_a_silent_server_is_not_waited_for_forever(server, target, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.1)
    released = threading.Event()
    server.answer = lambda handler, start: released.wait(10)
    try:
        with pytest.raises(UserError, match="timed out"):
            download.download(server.url, target, SHA256)
    finally:
        released.set()


def test_a_disk_that_is_too_small(server, target, monkeypatch):
    usage = download.shutil.disk_usage(".")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=200_000))
    with pytest.raises(UserError, match=r"raw: 0 MB are needed and 0 MB free: make room"):
        download.download(server.url, target, SHA256)
    part_of(target).write_bytes(CONTENT[:150_000])
    assert download.download(server.url, target, SHA256)


def test_offline_is_one_line(target):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(UserError, match=r"127\.0\.0\.1:\d+ cannot be reached \(.*refused"):
        download.download(f"http://127.0.0.1:{port}/x.zip", target, SHA256)


@pytest.mark.parametrize(
    "url",
    ["/home/me/label_192.zip", "ftp://a/b", "https://", "http://a mirror/b", "http://a:port/b"],
)
def test_what_is_no_address_is_refused_at_once(target, url):
    with pytest.raises(UserError, match=re.escape(f"--url {url}: ")):
        download.download(url, target, SHA256)


def test_command(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "SHA256", SHA256)
    arguments = ["--output", str(tmp_path), "--url", server.url]
    download.main(arguments)
    download.main(arguments)
    out = capsys.readouterr().out
    assert f"written to {tmp_path}/label_192.zip, SHA-256 as published" in out
    assert "is there already" in out
    assert f"--source {tmp_path}/label_192.zip --output data/bhsd" in out
    (tmp_path / "label_192.zip").unlink()
    monkeypatch.setattr(download, "SHA256", "0" * 64)
    with pytest.raises(SystemExit) as exit_:
        download.main(arguments)
    assert exit_.value.code == 1
    assert capsys.readouterr().err.startswith("error: http://127.0.0.1")
