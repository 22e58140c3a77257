"""Hostile requests against a running server: an answer that says what is wrong, or an end; never a crash."""

import io
import json
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.deployment.web.conftest import QUICK, Cells, Reply, Server, encode, form, read_reply

Case = Callable[[Server], Reply]
GOOD = encode(np.zeros((8, 8, 3), np.uint8))
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CUT = 0  # the server hangs up without a word


def png(width: int, height: int, data: bytes, *extra: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def raw(data: bytes, kind: str = "image/png") -> Case:
    return lambda server: server.ask("POST", "/v1/predict", data, Content_Type=kind)


def named(name: str) -> Case:
    """A good picture under a bad name: it is answered, and the name harms nobody."""

    def attack(server: Server) -> Reply:
        reply = server.predict((name, GOOD))
        (row,) = reply.json()["predictions"]
        assert row["sample_id"].isprintable()
        assert not set("/\\") & set(row["sample_id"].replace("\\x", "").replace("\\u", ""))
        assert len(row["sample_id"]) <= 255
        return reply

    return attack


def multipart(body: bytes, kind: str = "multipart/form-data; boundary=limit") -> Case:
    return raw(body, kind)


def sent(*pieces: bytes) -> Case:
    return lambda server: server.raw(*pieces)


def infer(value: object) -> Case:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda server: server.ask("POST", f"/v2/models/{server.model}/infer", data, Content_Type="application/json")


def get(path: str, **headers: str) -> Case:
    return lambda server: server.ask("GET", path, **headers)


def slowly(start: bytes, drop: bytes) -> Case:
    """Send a start, then a drop now and then for as long as the server lets us."""

    def attack(server: Server) -> Reply:
        with server.connect() as line:
            line.sendall(start)
            line.settimeout(0.2)
            for _ in range(150):
                try:
                    line.sendall(drop)
                    if not line.recv(1, socket.MSG_PEEK):
                        return Reply(CUT, {}, b"")
                    return read_reply(line)
                except TimeoutError:
                    continue
                except ConnectionError:
                    return Reply(CUT, {}, b"")
            raise AssertionError("the server still waits after 30 s")

    return attack


def unread(server: Server) -> Reply:
    """Ask for the page over and over on one line without reading an answer."""
    asked = b"GET /assets/serve.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200
    with server.connect() as line:
        line.settimeout(0.2)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                line.sendall(asked)
                time.sleep(0.05)
            except TimeoutError:
                continue
            except ConnectionError:
                return Reply(CUT, {}, b"")
        raise AssertionError("the server still waits after 30 s")


def flood(server: Server) -> Reply:
    """Announce 700 MB and send them for as long as they are taken."""
    with server.connect() as line:
        line.sendall(HEAD + b"Content-Type: image/png\r\nContent-Length: 734003200\r\n\r\n")
        reply = read_reply(line)
        sent_bytes = 0
        try:
            while sent_bytes < 734003200:
                sent_bytes += line.send(bytes(1 << 16))
        except OSError:
            pass
        assert sent_bytes < 64 << 20, "it is not let in"
        return reply


def chunks(server: Server) -> Reply:
    block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    return server.raw(HEAD + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n", *([block] * 200))


def tensor(**changed: object) -> dict[str, object]:
    one = {"name": "pictures", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3], **changed}
    return {"inputs": [one]}


HUGE = png(60_000, 60_000, zlib.compress(bytes(1000)))
TIFF_HEAD = b"II*\x00\x08\x00\x00\x00"
CASES: dict[str, tuple[Case, set[int]]] = {
    # slow, endless, too large
    "slow headers": (slowly(HEAD, b"X: y\r\n"), {CUT}),
    "slow request line": (slowly(b"G", b"E"), {CUT, 400}),
    "no byte at all": (slowly(b"", b""), {CUT}),
    "slow body": (slowly(HEAD + b"Content-Type: image/png\r\nContent-Length: 9999\r\n\r\n", b"x"), {408}),
    "slow chunks": (
        slowly(HEAD + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        {408},
    ),
    "answers never read": (unread, {CUT}),
    "endless header": (sent(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", *([b"y" * 50_000] * 100)), {CUT, 400, 431}),
    "100,000 headers": (sent(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 100_000), {CUT, 400, 431}),
    "endless request line": (sent(b"GET /" + b"a" * 5_000_000), {CUT, 400, 431}),
    "upload of 700 MB": (flood, {413}),
    "chunked without length": (chunks, {413}),
    "body shorter than announced": (sent(HEAD + b"Content-Length: 100\r\n\r\nabc"), {408}),
    "5,000 parts": (lambda server: server.predict(*[("a.png", b"x")] * 5000), {413}),
    "41 pictures": (lambda server: server.predict(*[("a.png", GOOD)] * 41), {413}),
    # pictures that are none, or too much
    "bomb by its header": (raw(HUGE), {413}),
    "bomb that unpacks": (raw(png(3000, 3000, zlib.compress(bytes(9001 * 3000), 9))), {413}),
    "truncated JPEG": (raw(encode(np.zeros((64, 64, 3), np.uint8), "JPEG")[:300]), {422}),
    "truncated PNG": (raw(GOOD[:40]), {422}),
    "GIF of no size": (raw(b"GIF89a" + bytes(7)), {422}),
    "TIFF that points to itself": (raw(TIFF_HEAD + b"\x01\x00" + b"\xff" * 12 + b"\x08\x00\x00\x00"), {422}),
    "SVG as image": (raw(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "image/svg+xml"), {415}),
    "HTML as image": (raw(b"<html><script>alert(1)</script>"), {415}),
    "PDF as image": (raw(b"%PDF-1.7"), {415}),
    "empty body": (raw(b""), {400}),
    "one zero byte": (raw(b"\0"), {415}),
    # names
    "NUL in a name": (named("a\0b.png"), {200}),
    "traversal in a name": (named("../../etc/passwd.png"), {200}),
    "Windows path in a name": (named("C:\\\\evil\\\\a.png"), {200}),
    "script in a name": (named("<script>alert(1)<script>.png"), {200}),
    "formula in a name": (named("=HYPERLINK(1).png"), {200}),
    "right-to-left mark in a name": (named("\u202egnp.exe"), {200}),
    "name of 5,000 signs": (named("a" * 3000 + ".png"), {200}),
    "name that is no UTF-8": (named("caf\udce9.png"), {200}),
    # zips
    "zip slip": (raw(zipped(("../../a.png", GOOD)), "application/zip"), {422}),
    "zip of absolute paths": (raw(zipped(("/etc/a.png", GOOD)), "application/zip"), {422}),
    "zip bomb": (raw(zipped(*[(f"{n}.bmp", b"BM" + bytes(1 << 20)) for n in range(20)]), "application/zip"), {413}),
    "zip of 5,000 members": (raw(zipped(*[(f"{n}.png", b"") for n in range(5000)]), "application/zip"), {413}),
    "zip in a zip": (raw(zipped(("a.zip", zipped(("a.png", GOOD)))), "application/zip"), {415}),
    "zip cut short": (raw(zipped(("a.png", GOOD))[:60], "application/zip"), {422}),
    "zip of nothing": (raw(zipped(), "application/zip"), {422}),
    # multipart
    "no boundary": (multipart(b"x", "multipart/form-data"), {400}),
    "boundary of 1,000 signs": (multipart(b"x", "multipart/form-data; boundary=" + "b" * 1000), {400}),
    "no last boundary": (multipart(form(("a.png", GOOD))[0][:-12]), {400}),
    "garbage as multipart": (multipart(b"\r\n" * 50_000 + b"garbage"), {400}),
    "part of 10,000 headers": (multipart(b"--limit\r\n" + b"X: y\r\n" * 10_000), {400}),
    "field without a file name": (
        multipart(b'--limit\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--limit--\r\n'),
        {422},
    ),
    "no part": (multipart(b"--limit--\r\n"), {400}),
    # HTTP
    "gzip": (
        lambda s: s.ask("POST", "/v1/predict", zlib.compress(bytes(99)), Content_Encoding="gzip"),
        {415},
    ),
    "JSON for a picture": (raw(b"{}", "application/json"), {415}),
    "foreign host": (get("/", Host="evil.example"), {421}),
    "foreign host that begins like ours": (get("/", Host="localhost.evil.example:8000"), {421}),
    "no host": (sent(b"GET / HTTP/1.1\r\n\r\n"), {400}),
    "two hosts": (sent(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"), {400}),
    "foreign origin": (
        lambda s: s.ask("POST", "/v1/predict", GOOD, Content_Type="image/png", Origin="http://evil.example"),
        {403},
    ),
    "origin of a sandbox": (
        lambda s: s.ask("POST", "/v1/predict", GOOD, Content_Type="image/png", Origin="null"),
        {403},
    ),
    "form of another site": (
        lambda s: s.ask("POST", "/v1/predict", GOOD, Content_Type="image/png", Sec_Fetch_Site="cross-site"),
        {403},
    ),
    "preflight": (
        lambda s: s.ask("OPTIONS", "/v1/predict", Origin="http://evil.example", Access_Control_Request_Method="POST"),
        {403},
    ),
    "range bomb": (get("/assets/serve.js", Range="bytes=" + ",".join(f"{n}-" for n in range(5000))), {200}),
    "path that leads out": (get("/assets/../../../../etc/passwd"), {404}),
    "encoded path that leads out": (get("/assets/..%2f..%2f..%2fetc%2fpasswd"), {404}),
    "NUL in a path": (get("/assets/%00"), {404}),
    "no HTTP": (sent(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)), {CUT, 400}),
    "two lengths": (sent(HEAD + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde"), {CUT, 400}),
    "length and chunks": (
        sent(HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        {CUT, 400},
    ),
    "negative length": (sent(HEAD + b"Content-Length: -3\r\n\r\nabc"), {CUT, 400}),
    "websocket": (get("/", Connection="upgrade", Upgrade="websocket", Sec_WebSocket_Key="x"), {200, 400, CUT}),
    "unknown method": (sent(b"BREW / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"), {CUT, 400, 405}),
    "wrong parameter": (lambda s: s.predict(("a.png", GOOD), query="?heat_maps=%3Cscript%3E"), {422}),
    # tensors
    "deep JSON": (infer(b"[" * 100_000), {400}),
    "no JSON": (infer(b"\xff\xfe"), {400}),
    "JSON of another form": (infer([1, 2]), {400}),
    "tensor of no pictures": (infer(tensor(shape=[0, 1, 1, 3], data=[])), {400}),
    "tensor larger than it is": (infer(tensor(shape=[1 << 30, 1 << 30, 1 << 30, 3])), {400}),
    "tensor smaller than it is": (infer(tensor(data=[1] * 6)), {400}),
    "ragged tensor": (infer(tensor(data=[[1, 2], [3]])), {400}),
    "values over 255": (infer(tensor(data=[1, 2, 256])), {400}),
    "values of 300 digits": (infer(tensor(data=[1, 2, 10**300])), {400}),
    "values that are no numbers": (infer(tensor(data=["a", None, {}])), {400}),
    "another model": (
        lambda s: s.ask("POST", "/v2/models/..%2Fx/infer", b"{}", Content_Type="application/json"),
        {404},
    ),
    "a text among 50,000 numbers": (infer(tensor(shape=[1, 1, 50_001, 3], data=["x" * 30_000, *[1] * 50_000])), {400}),
    "10,000 empty lists": (infer(tensor(data=[[]] * 10_000)), {400}),
    "numbers of 4,000 digits": (infer(tensor(shape=[1, 1, 9, 3], data=[10**3999] * 27)), {400}),
    "10,000 pictures of one pixel": (infer(tensor(shape=[10_000, 1, 1, 3], data=[1] * 30_000)), {413}),
    "one pixel wide": (raw(png(1, 4_000_000, zlib.compress(bytes(4 * 4_000_000)))), {413}),
    "JSON of 3 MB": (infer(b" " * (3 << 20)), {413}),
}


def test_the_list_is_long_enough() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_attacks_are_answered_or_cut_and_the_server_goes_on(server: Server, name: str) -> None:
    attack, allowed = CASES[name]
    reply = attack(server)
    assert reply.status in allowed, reply
    if reply.status >= 400 and reply.headers.get("content-type") == "application/json":
        what, _, rest = reply.error.partition(": ")
        assert what
        assert rest, "what: rule; next step"
    assert server.healthy()


def test_pictures_of_many_frames_and_formulas_survive_nothing_of_it(server: Server, cells: Cells) -> None:
    buffer = io.BytesIO()
    frames = [Image.fromarray(one) for one in cells.kept[:3]]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    reply = server.ask("POST", "/v1/predict", buffer.getvalue(), Content_Type="image/gif")
    assert reply.status == 422
    assert "frames" in reply.error


def test_a_hundred_attackers_leave_room_for_the_others(server: Server, cells: Cells) -> None:
    lines = [server.connect() for _ in range(100)]
    try:
        for place, line in enumerate(lines):
            line.sendall(HEAD if place % 2 else HEAD + b"Content-Type: image/png\r\nContent-Length: 500\r\n\r\nx")
        assert server.healthy()
        assert server.predict(("a.png", encode(cells.kept[0]))).status == 200
    finally:
        for line in lines:
            line.close()


def test_limits_of_the_tests_are_those_of_the_server_but_smaller() -> None:
    from hemalens.deployment.web.limits import Limits

    usual = Limits()
    for name, value in QUICK.items():
        assert value <= getattr(usual, name)
    assert usual.header_seconds + usual.body_seconds <= 20
    assert max(usual.header_seconds, usual.body_seconds, usual.write_seconds) < 15, "slow clients are cut within 15 s"
