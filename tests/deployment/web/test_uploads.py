"""Ordinary uploads over real sockets: every one is answered, whatever its size, its client and the cuts on its way."""

import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.deployment.web.conftest import Reply, Server, encode, form, read_reply

SIDES = [145, 200, 256, 300, 370, 450, 500, 640, 800, 1000, 1150]  # 63 kB to 4 MB as noise


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (SIDES[-1], SIDES[-1], 3), np.uint8)
    return [encode(noise[:side, :side]) for side in SIDES]


def answered(reply: Reply) -> bool:
    return reply.status == 200 and reply.json()["predictions"][0]["predicted"] is not None


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_is_answered(server: Server, pictures: list[bytes], tmp_path: Path) -> None:
    for number, data in enumerate(pictures):
        path = tmp_path / f"{number}.png"
        path.write_bytes(data)
        for given_as in (["-F", f"files=@{path}"], ["-H", "Content-Type: image/png", "--data-binary", f"@{path}"]):
            command = ["curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", *given_as]
            done = subprocess.run([*command, f"{server.address}v1/predict"], capture_output=True, text=True)
            assert done.stdout == "200", (len(data), done)


def test_urllib_is_answered(server: Server, pictures: list[bytes]) -> None:
    for data in pictures:
        asked = urllib.request.Request(f"{server.address}v1/predict", data, {"Content-Type": "image/png"})
        with urllib.request.urlopen(asked, timeout=60) as reply:
            assert reply.status == 200


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.sampled_from(range(7)), st.booleans())
def test_bodies_cut_anywhere_are_answered(
    server: Server, pictures: list[bytes], seed: int, number: int, chunked: bool
) -> None:
    random_ = random.Random(seed)
    body, kind = form(("a.png", pictures[number]))
    cuts = sorted(random_.sample(range(1, len(body)), random_.randint(1, 60)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    if chunked:
        pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
    head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n{length}\r\n\r\n".encode()
    with server.connect() as line:
        for _ in range(2):  # a second one over the same connection
            line.sendall(head)
            for piece in pieces:
                line.sendall(piece)
                if random_.random() < 0.1:
                    time.sleep(0.002)
            assert answered(read_reply(line))


@contextmanager
def relay(port: int, bytes_per_second: float) -> Iterator[int]:
    """Listen on a port that passes one connection on to another, so many bytes a second each way."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                time.sleep(len(data) / bytes_per_second)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError), listener.accept()[0] as near, socket.create_connection(("127.0.0.1", port)) as far:
                back = threading.Thread(target=pump, args=(far, near))
                back.start()
                pump(near, far)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
    thread.join()


def test_an_upload_over_a_slow_line_is_answered(server: Server, pictures: list[bytes]) -> None:
    """1 Mbit/s: 600 kB take 5 s, longer than the tests' server gives a body that makes no progress."""
    data = pictures[5]
    assert len(data) > 500_000
    with relay(server.port, 125_000) as port:
        headers = {"Content-Type": "image/png", "Connection": "close"}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predict", data, headers)
        begin = time.monotonic()
        with urllib.request.urlopen(asked, timeout=60) as reply:
            assert reply.status == 200
        assert time.monotonic() - begin > 3
