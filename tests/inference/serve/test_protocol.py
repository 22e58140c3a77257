"""The clocks on connections, with both of uvicorn's parsers."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hemalens.inference.serve.limits import Limits
from hemalens.inference.serve.protocol import timed_protocol

BODY = bytes(1 << 20)


async def app(scope, receive, send) -> None:
    if scope["path"] == "/refuse":
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(BODY))]})
    await send({"type": "http.response.body", "body": BODY})


def bases() -> list[type]:
    found = [H11Protocol]
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ModuleNotFoundError:
        return found
    return [*found, HttpToolsProtocol]


@pytest.fixture(scope="module", params=bases(), ids=lambda base: base.__name__)
def port(request) -> Iterator[int]:
    limits = Limits(header_seconds=0.5, write_seconds=0.5, body_bytes=1 << 20, header_bytes=1 << 16)
    config = uvicorn.Config(
        app, http=timed_protocol(limits, request.param), ws="none", lifespan="off", log_level="critical"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def ended(line: socket.socket) -> bool:
    """Read to the end; False where it does not come within the timeout."""
    try:
        while line.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_headers_that_do_not_end_are_cut(port: int, start: bytes) -> None:
    with connect(port) as line:
        line.sendall(start)
        assert ended(line)


def test_whole_requests_are_answered_one_after_the_other_on_one_connection(port: int) -> None:
    with connect(port) as line:
        for _ in range(3):
            line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            got = 0
            while got < len(BODY):
                got += len(line.recv(1 << 20))
            time.sleep(0.1)


def test_second_headers_that_do_not_end_are_cut_too(port: int) -> None:
    with connect(port) as line:
        line.sendall(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 413")
        line.sendall(b"GET / HT")
        assert ended(line)


def test_answers_that_nobody_reads_end(port: int) -> None:
    with connect(port) as line:
        line.settimeout(0.2)
        for _ in range(100):
            try:
                line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
                time.sleep(0.05)
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("it waits for ever")


def test_a_refused_body_is_thrown_away_within_limits(port: int) -> None:
    with connect(port) as line:
        line.sendall(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 413"), "the answer comes before the body"
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 1_000_000_000:
                sent += line.send(bytes(1 << 16))
        assert sent < 100_000_000
