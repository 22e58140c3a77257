"""Every upload is answered, and attacks stop nobody: ordinary clients over real sockets beside an attack list.

Uploads of 60 KB to 60 MB are sent by curl, urllib, requests, Chromium and as chunked bodies cut at random places,
some of them over a relay that passes 1 Mbit/s. Then each attack runs while an honest client asks again and again,
workers are killed and stopped under 256 clients, and 20,000 requests show whether memory and files stay flat.

    python benchmarks/bench_uploads.py [requests of the last part]
"""

import asyncio
import base64
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench_serve import attacks, connected, drip, request
from conditions import embedded_model, record
from hemalens.data.parallel import available_cores

LIMIT = 60 << 20
Send = Callable[[str, bytes], int]


def picture(size: int) -> bytes:
    """Return a PNG of noise of about so many bytes, one that the limit of pixels lets in; more is padding after it."""
    side = min(int((size / 3) ** 0.5), 1400)
    noise = np.random.default_rng(size).integers(0, 256, (side, side, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue() + bytes(max(0, size - buffer.tell()))


# ---------------------------------------------------------------- clients


def by_curl(address: str, data: bytes) -> int:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(data)
        file.flush()
        command = ["curl", "-s", "-m", "900", "-o", "/dev/null", "-w", "%{http_code}", "-F", f"files=@{file.name}"]
        return int(subprocess.run([*command, address], check=False, capture_output=True, text=True).stdout or 0)


def by_urllib(address: str, data: bytes) -> int:
    asked = urllib.request.Request(address, data, {"Content-Type": "image/png"})
    try:
        with urllib.request.urlopen(asked, timeout=900) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def by_requests(address: str, data: bytes) -> int:
    import requests

    try:
        return requests.post(address, files={"files": ("a.png", data)}, timeout=900).status_code
    except requests.RequestException:
        return 0


def chunked(address: str, data: bytes) -> int:
    host, port = re.search(r"//([\d.]+):(\d+)", address).groups()
    cuts = sorted(random.Random(len(data)).sample(range(1, len(data)), 200))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    try:
        with socket.create_connection((host, int(port)), timeout=900) as line:
            line.sendall(head.encode())
            for piece in pieces:
                line.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            line.sendall(b"0\r\n\r\n")
            return int(line.recv(1 << 16)[9:12] or 0)
    except OSError:
        return 0


@contextmanager
def chromium() -> Iterator[Send | None]:
    """Yield a way to send by a real browser, from the server's own page; None where there is none."""
    found = shutil.which("chromium")
    if found is None or find_spec("playwright") is None:
        yield None
        return
    from playwright.sync_api import sync_playwright

    script = """async ([text, size]) => {
      const start = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
      const form = new FormData();
      form.append("files", new Blob([start, new Uint8Array(size - start.length)], { type: "image/png" }), "a.png");
      try { return (await fetch("v1/predict", { method: "POST", body: form })).status; } catch { return 0; }
    }"""
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--headless=new"]).new_page()
        page.set_default_timeout(900_000)

        def send(address: str, data: bytes) -> int:
            page.goto(address.removesuffix("v1/predict"))
            start = data.rstrip(b"\0")  # the padding is made there
            return int(page.evaluate(script, [base64.b64encode(start).decode(), len(data)]))

        yield send


@contextmanager
def relay(port: int, rate: float) -> Iterator[int]:
    """Listen on a port that passes connections on, so many bytes a second each way."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                time.sleep(len(data) / rate)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def both(near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=pump, args=(far, near))
            back.start()
            pump(near, far)
            back.join()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=both, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


# ---------------------------------------------------------------- the server


class Served:
    """`hemalens serve` in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "hemalens.cli", "serve", "--port", "0", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.port = int(re.search(r":(\d+)/", self.process.stderr.readline())[1])
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def workers(self) -> list[int]:
        """Return the process ids of the workers that are there."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()  # each thread has its own children
        found = [int(one) for task in tasks for one in (task / "children").read_text().split()]
        return [one for one in found if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text()]

    def state(self) -> dict[str, int]:
        """Return resident memory in MB of the server and of its largest worker, and the server's open files."""
        memory = {}
        for pid in (self.process.pid, *self.workers()):
            with contextlib.suppress(OSError):
                memory[pid] = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) // 1024
        server = memory.pop(self.process.pid)
        files = len([*Path(f"/proc/{self.process.pid}/fd").iterdir()])
        return {"server_mb": server, "largest_worker_mb": max(memory.values(), default=0), "files": files}

    def end(self) -> dict[str, Any]:
        """Stop it and return its exit status and summary."""
        begin = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=60)
        return {
            "exit": self.process.returncode,
            "stopped_in_s": round(time.perf_counter() - begin, 1),
            **json.loads(out),
        }


# ---------------------------------------------------------------- what is measured


def uploads(served: Served) -> dict[str, Any]:
    """Send 20 sizes each way in turn, then some over the slow line; return the statuses, 0 for no answer."""
    found: dict[str, Any] = {}
    address = f"http://127.0.0.1:{served.port}/v1/predict"
    sizes = [round(size) for size in np.geomspace(60_000, LIMIT, 20)]
    with chromium() as browser:
        ways: dict[str, Send | None] = {"curl": by_curl if shutil.which("curl") else None, "urllib": by_urllib}
        ways |= {"requests": by_requests if find_spec("requests") else None, "chunked": chunked, "chromium": browser}
        for name, send in ways.items():
            if send is not None:
                found[name] = dict(Counter(send(address, picture(size)) for size in sizes))
                print(name, found[name], file=sys.stderr, flush=True)
        with relay(served.port, 125_000) as slow:
            for name, send in ways.items():
                if send is not None:
                    place = f"http://127.0.0.1:{slow}/v1/predict"
                    found[f"{name}, 1 Mbit/s"] = dict(Counter(send(place, picture(size)) for size in sizes[:9:2]))
                    print(name, "slow", found[f"{name}, 1 Mbit/s"], file=sys.stderr, flush=True)
    return found


def unread(port: int) -> list[socket.socket]:
    """Ask for much on 100 connections and read nothing."""
    lines = []
    for _ in range(100):
        line = socket.create_connection(("127.0.0.1", port))
        line.settimeout(0.05)
        with contextlib.suppress(OSError):
            line.sendall(request("GET", "/assets/serve.js") * 400)
        lines.append(line)
    return lines


SHAPES = [b"", b"\0" * 100, b"GET", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00" + bytes(90), b"\r\n" * 999]


def garbage(port: int, number: int = 150) -> Counter[int]:
    """Send so many shapes that are no request; return the statuses, 0 for a connection that is ended."""
    found: Counter[int] = Counter()
    good = request("POST", "/v1/predict", b"abc", "image/png")
    for seed in range(number):
        choose = random.Random(seed)
        data = bytearray(SHAPES[seed] if seed < len(SHAPES) else good)
        for _ in range(choose.randint(1, 12) if seed >= len(SHAPES) else 0):
            place = choose.randrange(len(data))
            data[place : place + choose.randint(0, 3)] = choose.randbytes(choose.randint(0, 9))
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=15) as line:
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            said = line.recv(1 << 16)
            found[int(said[9:12]) if said[9:12].isdigit() else 0] += 1
    return found


class Honest:
    """A client that asks for an answer ten times a second until it is told to stop."""

    def __init__(self, port: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.longest, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(f"http://127.0.0.1:{port}/v1/predict", picture(60_000)))

    def _ask(self, address: str, data: bytes) -> None:
        while not self._stop.wait(0.1):
            begin = time.perf_counter()
            self.statuses[by_urllib(address, data)] += 1
            self.longest = max(self.longest, time.perf_counter() - begin)

    def __enter__(self) -> "Honest":
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, once the last answer is here."""
        self._stop.set()
        self._thread.join()

    def row(self) -> dict[str, Any]:
        """Return what it was answered, and its longest wait."""
        return {"honest": dict(self.statuses), "longest_s": round(self.longest, 2)}


async def crowd(served: Served, clients: int, seconds: float) -> Counter[int]:
    """Ask as so many clients while workers are killed and stopped; return the statuses, 0 where there was none."""
    found: Counter[int] = Counter()
    data, end = request("POST", "/v1/predict", picture(60_000), "image/png"), time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < end:
            try:
                async with connected(served.port) as (reader, writer):
                    writer.write(data)
                    head = await reader.readuntil(b"\r\n\r\n")
                    found[int(head[9:12])] += 1
            except (OSError, asyncio.IncompleteReadError):
                found[0] += 1

    async def harm() -> None:
        for turn in range(int(seconds // 5)):
            await asyncio.sleep(4)
            for pid in served.workers()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP if turn % 2 else signal.SIGKILL)

    await asyncio.gather(harm(), *(client() for _ in range(clients)))
    return found


def under_attack(served: Served, model: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    head = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"

    def gather(name: str, make: Callable[[], Any]) -> None:
        with Honest(served.port) as honest:
            said = make()
        found[name] = {
            **honest.row(),
            **served.state(),
            **({"attack": dict(said)} if isinstance(said, Counter) else {}),
        }
        print(name, found[name], file=sys.stderr, flush=True)

    for name, make in attacks(model, 5.0).items():

        async def attack(make: Callable[[int], Any] = make) -> None:
            await asyncio.gather(*make(served.port))

        gather(name, lambda attack=attack: asyncio.run(attack()))

    async def silent() -> None:
        await asyncio.gather(*(drip(served.port, head[: choose % 40], b"") for choose in range(300)))

    gather("silent connections, 300 clients", lambda: asyncio.run(silent()))

    def unread_until_cut() -> None:
        lines = unread(served.port)
        time.sleep(20)
        for line in lines:
            line.close()

    gather("answers never read, 100 clients", unread_until_cut)
    gather("150 shapes of garbage", lambda: garbage(served.port))
    gather("256 clients, workers killed and stopped", lambda: asyncio.run(crowd(served, 256, 30)))
    return found


def steady(served: Served, number: int) -> list[dict[str, int]]:
    """Return memory and files after each tenth of so many requests."""
    data, found = request("POST", "/v1/predict", picture(60_000), "image/png"), []

    async def some(count: int) -> None:
        async def client() -> None:
            async with connected(served.port) as (reader, writer):
                for _ in range(count // 16):
                    writer.write(data)
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head[9:12] == b"200", head
                    await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1]))

        await asyncio.gather(*(client() for _ in range(16)))

    for _ in range(10):
        asyncio.run(some(number // 10))
        found.append(served.state())
        print(found[-1], file=sys.stderr, flush=True)
    return found


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    load_before = os.getloadavg()[0]
    served = Served()
    try:
        figures = {"idle": served.state(), "uploads": uploads(served)}
        figures |= {"attacks": under_attack(served, str(embedded_model())), "steady": steady(served, number)}
        figures["end"] = served.end()
    finally:
        served.process.kill()
    record("uploads", figures, cores=available_cores(), requests=number, load_before=round(load_before, 1))


if __name__ == "__main__":
    main()
