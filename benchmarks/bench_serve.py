"""Requests a second and waiting times of the server beside a plain FastAPI handler, and its health under attack.

The peer is what one writes in ten lines: a FastAPI handler in a thread that takes an ``UploadFile``, opens it by Pillow
and asks the same model by the same onnxruntime. Both run by uvicorn with uvloop and httptools where installed, in turn,
on the same cores as the client, which sends the same form with one JPEG of 216 px over connections kept alive. During
the attacks a client asks for ``/v2/health/live`` every 20 ms.

    python benchmarks/bench_serve.py MODEL.onnx [seconds a measurement]
"""

import asyncio
import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from conditions import embedded_model, real_data, record
from hemalens.data.reading.parallel import available_cores

CLIENTS = (1, 16, 64, 256)
ROUNDS = 3
OURS, PLAIN = "hemalens serve", "plain FastAPI"
BOUNDARY = "benchmarkboundary"
PLAIN_APP = """
import sys
from fastapi import FastAPI, UploadFile
from PIL import Image
import uvicorn
from hemalens import load

model = load(sys.argv[1])
app = FastAPI()


@app.post("/v1/predict")
def predict(files: UploadFile):
    shares = model.predict_proba(Image.open(files.file).convert("RGB"))[0]
    return {"predicted": str(model.classes_[shares.argmax()]), **dict(zip(model.classes_.tolist(), shares.tolist()))}


@app.get("/v2/health/live")
def live():
    return {"live": True}


print("serving", file=sys.stderr, flush=True)
uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
"""


@contextmanager
def served(way: str, model: str, port: int) -> Iterator[int]:
    """Start a server in a process of its own and end it; yield its process id."""
    ours = ["-m", "hemalens.cli", "serve", "--model", model, "--port", str(port)]
    command = [sys.executable, *(ours if way == OURS else ["-c", PLAIN_APP, model, str(port)])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        assert "serving" in process.stderr.readline()
        asyncio.run(until_up(port))
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def until_up(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with connected(port) as (reader, writer):
                await ask(reader, writer, request("GET", "/v2/health/live"))
                return
        await asyncio.sleep(0.1)
    raise TimeoutError


def jpegs(number: int) -> list[bytes]:
    """Return real cells as their files hold them."""
    with tarfile.open(real_data() / "pbc" / "train-000.tar") as tar:
        files = (member for member in tar if member.isreg())
        return [tar.extractfile(member).read() for member in islice(files, number)]


def request(method: str, path: str, body: bytes = b"", kind: str = "", extra: str = "") -> bytes:
    kinds = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n" if kind else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kinds}{extra}\r\n".encode() + body


def form(*files: bytes, name: str = "cell.jpg") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return b"".join(head + data + b"\r\n" for data in files) + f"--{BOUNDARY}--\r\n".encode()


def image_request(*files: bytes) -> bytes:
    return request("POST", "/v1/predict", form(*files), f"multipart/form-data; boundary={BOUNDARY}")


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> int:
    """Send a request, read its answer, return the status."""
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length[15:]))
    return int(head[9:12])


async def load(port: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Ask as so many clients without a pause; return requests a second and waiting times in ms."""
    waits: list[float] = []
    statuses: dict[int, int] = {}
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        choose = random.Random(number)
        async with connected(port) as (reader, writer):
            while time.perf_counter() < end:
                begin = time.perf_counter()
                status = await ask(reader, writer, choose.choice(requests))
                statuses[status] = statuses.get(status, 0) + 1
                waits.append(1000 * (time.perf_counter() - begin))

    await asyncio.gather(*(client(number) for number in range(clients)))
    p50, p99 = np.percentile(waits, [50, 99])
    rate = statuses.get(200, 0) / seconds
    return {
        "per_s": round(rate, 1),
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "not_200": len(waits) - statuses.get(200, 0),
    }


def throughput(model: str, seconds: float) -> dict[str, Any]:
    requests = [image_request(data) for data in jpegs(64)]
    found: dict[str, dict[str, list[Any]]] = {}
    for turn in range(ROUNDS):
        for way in (OURS, PLAIN):
            with served(way, model, 8301 + turn) as _:
                asyncio.run(load(8301 + turn, requests, 16, min(2.0, seconds)))  # warm
                for clients in CLIENTS:
                    row = asyncio.run(load(8301 + turn, requests, clients, seconds))
                    found.setdefault(way, {}).setdefault(str(clients), []).append(row)
                    print(way, clients, row, file=sys.stderr, flush=True)
    ratios = [round(a["per_s"] / b["per_s"], 2) for a, b in zip(found[OURS]["64"], found[PLAIN]["64"], strict=True)]
    return {"ways": found, "times_plain_at_64": ratios}


# ---------------------------------------------------------------- attacks


def bomb(side: int = 13_000) -> bytes:
    """Return a PNG of a few hundred kB that would unpack to half a gigabyte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    packed = zlib.compress(bytes((3 * side + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def zip_of(data: bytes, copies: int) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(copies):
            archive.writestr(f"{number}.bmp", data)
    return buffer.getvalue()


async def drip(port: int, start: bytes, drop: bytes) -> float:
    """Send a start and then a drop a second until the server hangs up; return after how many seconds it did."""
    begin = time.perf_counter()
    with contextlib.suppress(OSError):
        async with connected(port) as (reader, writer):
            writer.write(start)
            end = asyncio.create_task(reader.read())
            while not end.done() and time.perf_counter() - begin < 60:
                writer.write(drop)
                await asyncio.wait([end], timeout=1)
            end.cancel()
    return time.perf_counter() - begin


async def flood(port: int, start: bytes, piece: bytes, pieces: int) -> float:
    """Send as fast as it is taken."""
    with contextlib.suppress(OSError):
        async with connected(port) as (_, writer):
            writer.write(start)
            for _ in range(pieces):
                writer.write(piece)
                await writer.drain()
    return 0.0


async def repeat(port: int, data: bytes, seconds: float) -> float:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with connected(port) as (reader, writer):
                await asyncio.wait_for(ask(reader, writer, data), 60)
    return 0.0


def attacks(model: str, seconds: float) -> dict[str, Callable[[int], list[Awaitable[float]]]]:
    head = "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    sized = f"{head}Content-Type: image/png\r\nContent-Length: 1000000\r\n\r\n".encode()
    huge = f"{head}Content-Type: image/png\r\nContent-Length: {700 << 20}\r\n\r\n".encode()
    chunked = f"{head}Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    block = b"%x\r\n" % (64 << 10) + bytes(64 << 10) + b"\r\n"
    parts = image_request(*([b"x"] * 5000))
    bombs, flat = image_request(bomb()), b"BM" + bytes(3 << 20)
    zips = image_request(zip_of(flat, 60))
    deep = request("POST", f"/v2/models/{Path(model).stem}/infer", b"[" * (8 << 20), "application/json")
    return {
        "slow headers, 300 clients": lambda port: [drip(port, head.encode(), b"X: y\r\n") for _ in range(300)],
        "slow bodies, 300 clients": lambda port: [drip(port, sized, b"x") for _ in range(300)],
        "700 MB upload, 4 clients": lambda port: [flood(port, huge, bytes(64 << 10), 11_200) for _ in range(4)],
        "chunked without an end, 4 clients": lambda port: [flood(port, chunked, block, 11_200) for _ in range(4)],
        "5,000 parts, 8 clients": lambda port: [repeat(port, parts, seconds) for _ in range(8)],
        "bombs of 169 megapixels, 8 clients": lambda port: [repeat(port, bombs, seconds) for _ in range(8)],
        "zips of 180 MB unpacked, 4 clients": lambda port: [repeat(port, zips, seconds) for _ in range(4)],
        "deep JSON of 8 MB, 4 clients": lambda port: [repeat(port, deep, seconds) for _ in range(4)],
    }


async def health_during(port: int, attackers: list[Awaitable[float]]) -> dict[str, Any]:
    """Ask for health every 20 ms for as long as an attack lasts."""
    attack = asyncio.gather(*attackers)
    waits, wrong = [], 0
    while not attack.done():
        begin = time.perf_counter()
        async with connected(port) as (reader, writer):
            wrong += await ask(reader, writer, request("GET", "/v2/health/live")) != 200
        waits.append(1000 * (time.perf_counter() - begin))
        await asyncio.sleep(0.02)
    took = await attack
    row = {
        "health_p99_ms": round(float(np.percentile(waits, 99)), 1),
        "health_max_ms": round(max(waits), 1),
        "asked": len(waits),
    }
    return {**row, "not_200": wrong, **({"cut_after_s": round(max(took), 1)} if max(took) else {})}


def under_attack(model: str, seconds: float, port: int = 8401) -> dict[str, Any]:
    """Attack from a process of its own, so that the attackers' work is not the waiting time of the one who asks."""
    found = {}
    with served(OURS, model, port):
        for name in attacks(model, seconds):
            code = f"import asyncio, bench_serve as b; asyncio.run(b.attack({name!r}, {model!r}, {port}, {seconds}))"
            here = Path(__file__).parent
            attacker = subprocess.Popen([sys.executable, "-c", code], cwd=here, stdout=subprocess.PIPE, text=True)
            found[name] = asyncio.run(health_during(port, [ended(attacker)]))
            print(name, found[name], file=sys.stderr, flush=True)
        row = asyncio.run(load(port, [image_request(data) for data in jpegs(8)], 16, 2.0))
    return {"attacks": found, "afterwards_at_16": row}


async def ended(process: "subprocess.Popen[str]") -> float:
    await asyncio.to_thread(process.wait)
    assert process.stdout is not None
    return float(process.stdout.read())


async def attack(name: str, model: str, port: int, seconds: float) -> None:
    print(max(await asyncio.gather(*attacks(model, seconds)[name](port))))


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else str(embedded_model())
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    load_before = os.getloadavg()[0]
    figures = {**throughput(model, seconds), **under_attack(model, seconds)}
    record("serve", figures, cores=available_cores(), seconds=seconds, rounds=ROUNDS, load_before=round(load_before, 1))


if __name__ == "__main__":
    main()
