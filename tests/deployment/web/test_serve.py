"""The command's function: addresses, errors, drain and end; no torch."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

from hemalens.cli import app
from hemalens.core.errors import ConfigError
from hemalens.deployment.serve import serve
from hemalens.deployment.web.access import Access
from tests.deployment.conftest import Exported
from tests.deployment.web.conftest import Cells, Server, encode, form, read_reply


def test_sigterm_finishes_what_is_under_way_and_says_what_was_done(exported: Exported, cells: Cells) -> None:
    server = Server(exported.onnx, {})
    try:
        body, kind = form(("a.png", encode(cells.kept[0])))
        head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with server.connect() as line:
            line.sendall(head.encode() + body[:-10])
            time.sleep(0.3)
            ending = threading.Thread(target=lambda: results.append(server.end(signal.SIGTERM)))
            results: list[tuple[int, str]] = []
            ending.start()
            time.sleep(0.5)
            line.sendall(body[-10:])
            reply = read_reply(line)
        ending.join()
        assert reply.status == 200
        code, out = results[0]
        assert code == 0
        assert json.loads(out)["pictures"] == 1
        with pytest.raises(OSError, match="refused"):
            server.connect()
    finally:
        server.kill()


def test_it_starts_and_answers_without_torch(exported: Exported) -> None:
    code = "import sys, hemalens.deployment.serve, hemalens.deployment.web.work; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_port_that_is_taken_and_a_host_that_is_none_are_named(exported: Exported) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"address 127.0.0.1:{port}: cannot be used"):
            serve(exported.onnx, Access(port=port), announce=print)
    with pytest.raises(ConfigError, match=r"address 256\.0\.0\.1:0: cannot be used"):
        serve(exported.onnx, Access(host="256.0.0.1", port=0), announce=print)
    with pytest.raises(ConfigError, match="workers 0"):
        serve(exported.onnx, workers=0, announce=print)


def test_the_command_serves_until_it_is_interrupted(exported: Exported) -> None:
    command = [sys.executable, "-m", "hemalens.cli", "serve", "--model", str(exported.onnx), "--port", "0", "--json"]
    process = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr.readline().startswith("serving at http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(out)["requests"] == 0
    finally:
        process.kill()
        process.communicate()
    result = CliRunner().invoke(app, ["serve", "--help"])
    assert "--allow-host" in result.output


def test_a_request_that_does_not_end_holds_the_server_no_longer_than_it_drains(exported: Exported) -> None:
    server = Server(exported.onnx, {"drain_seconds": 1, "body_seconds": 100})
    try:
        with server.connect() as line:
            line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
            time.sleep(0.3)
            begin = time.monotonic()
            assert server.end(signal.SIGTERM)[0] == 0
            assert time.monotonic() - begin < 50
    finally:
        server.kill()


def test_a_signal_while_it_starts_ends_it(exported: Exported) -> None:
    code = "import signal, os, threading; threading.Timer(5, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
    code += "from contextlib import asynccontextmanager; import asyncio\n"
    code += "from hemalens.core.server import HttpServer, ServerLimits, reserved\n"
    code += "@asynccontextmanager\nasync def slow():\n    await asyncio.sleep(600)\n    yield\n"
    code += "with reserved('127.0.0.1', 0) as port:\n"
    code += "    HttpServer(print, '127.0.0.1', port, limits=ServerLimits()).run(print, during=slow())\n"
    code += "print('ended')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
