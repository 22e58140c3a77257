"""One server with the tiny exported model, in a process of its own, for all tests of the phase."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hemalens.deployment.classifier import Classifier
from tests.deployment.conftest import Exported

PATIENCE = 60.0  # s that a busy machine may take for an answer
CODE = """
import sys, json
from hemalens.console import announce_service
from hemalens.deployment.serve import serve
from hemalens.deployment.web.access import Access
from hemalens.deployment.web.limits import Limits
if __name__ == "__main__":
    limits, access = Limits(**json.loads(sys.argv[2])), Access(port=0, **json.loads(sys.argv[3]))
    print(json.dumps(serve(sys.argv[1], access, workers=2, announce=announce_service, limits=limits)))
"""
QUICK = {"header_seconds": 2.0, "body_seconds": 2.0, "write_seconds": 2.0, "body_bytes": 4 << 20, "pictures": 40}
QUICK |= {"unpacked_bytes": 8 << 20, "pixels": 4_000_000, "infer_bytes": 2 << 20}


@dataclass(frozen=True)
class Reply:
    """What a server said: status 0 where it hung up without a word."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json()["error"]


class Server:
    """`hemalens serve` in a process of its own."""

    def __init__(self, model: Path, limits: dict[str, Any], **access: Any) -> None:
        command = [sys.executable, "-c", CODE, str(model), json.dumps(limits), json.dumps(access)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        found = re.fullmatch(r"serving at (https?://127\.0\.0\.1:(\d+)/)\n", line)
        assert found, line + self.process.stderr.read()
        self.address, self.port = found[1], int(found[2])
        self.model = model.stem

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def raw(self, *pieces: bytes) -> Reply:
        """Send bytes as they are and read one answer."""
        with self.connect() as line:
            try:
                for piece in pieces:
                    line.sendall(piece)
            except OSError:
                pass  # it has answered already, or hung up
            return read_reply(line)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        given = {"Host": f"127.0.0.1:{self.port}"} | {name.replace("_", "-"): text for name, text in headers.items()}
        if body or method == "POST":
            given = {"Content-Length": str(len(body))} | given
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)

    def predict(self, *files: tuple[str, bytes], query: str = "") -> Reply:
        body, kind = form(*files)
        return self.ask("POST", f"/v1/predict{query}", body, Content_Type=kind)

    def healthy(self) -> bool:
        return self.process.poll() is None and self.ask("GET", "/v2/health/live").status == 200

    def end(self, sign: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(sign)
        out, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def read_reply(line: socket.socket) -> Reply:
    """Read one answer; what is not there is left out."""
    data = b""
    try:
        while b"\r\n\r\n" not in data and (got := line.recv(1 << 16)):
            data += got
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(one.lower().split(": ", 1) for one in lines[1:] if ": " in one)
        while len(body) < int(headers.get("content-length", 0)) and (got := line.recv(1 << 16)):
            body += got
    except ConnectionError:
        return Reply(0, {}, b"")
    return Reply(int(lines[0].split(" ")[1]) if lines[0] else 0, headers, body)


def form(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """Return a multipart body and its content type; names go in as they are."""
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode("utf-8", "surrogateescape"), data)
        for name, data in files
    ]
    return b"".join(parts) + b"--limit--\r\n", "multipart/form-data; boundary=limit"


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@dataclass(frozen=True)
class Cells:
    """Pictures of which the model claims something, and one of which it does not, as arrays (H, W, 3)."""

    kept: list[np.ndarray]
    refused: np.ndarray


@pytest.fixture(scope="session")
def cells(exported: Exported) -> Cells:
    random = np.random.default_rng(0)
    made = np.load(exported.source)["images"][:40]
    strange = [random.integers(0, 256, (24, 24, 3), np.uint8) for _ in range(8)]
    strange += [np.full((24, 24, 3), shade, np.uint8) for shade in range(0, 256, 15)]
    classifier = Classifier.open(exported.onnx, threads=1)
    refused = classifier.judge([*made, *strange]).abstained
    known = [picture for picture, no in zip(made, refused, strict=False) if not no]
    return Cells(known[:6], strange[int(np.flatnonzero(refused[len(made) :])[0])])


@pytest.fixture(scope="session")
def server(exported: Exported) -> Iterator[Server]:
    started = Server(exported.onnx, QUICK)
    yield started
    started.kill()
