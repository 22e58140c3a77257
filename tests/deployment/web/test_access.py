"""Who may ask: Host headers, the token, certificates, requests a minute, metrics at an address of their own."""

import asyncio
import ipaddress
import re
import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.core.errors import ConfigError, RequestError
from hemalens.deployment.serve import serve
from hemalens.deployment.web.access import Access, Names, Rate, read_tls, read_token, same_token, split_address
from hemalens.deployment.web.bodies import Budget, Held, read_body
from hemalens.deployment.web.limits import Limits
from tests.deployment.conftest import Exported
from tests.deployment.web.conftest import Cells, Server, encode, form, read_reply

NAMES = Names(["cells.example.org"])
TOKEN = "0123456789abcdef-Token"
GOOD = ["localhost", "127.0.0.1", "cells.example.org", "CELLS.example.org", "[::1]", "[2001:db8::7]", "10.1.2.3"]


@given(st.sampled_from(GOOD), st.none() | st.integers(0, 65_535))
def test_the_servers_own_names_and_addresses_are_known(host: str, port: int | None) -> None:
    assert (host if port is None else f"{host}:{port}") in NAMES


@given(st.sampled_from(GOOD), st.sampled_from(GOOD), st.text("ab.:@/[]%\\ \t0e1x-_,#?\x00é", min_size=1))
def test_nothing_may_stand_before_or_after_a_host(host: str, other: str, text: str) -> None:
    """What a browser would look up, the whole name, is one of ours only where it is one of ours as a whole."""
    for tried in (host + text, text + host, host + text + other, f"{host}:80{text}", f"[{text}]{host}"):
        if tried in NAMES:
            name = re.sub(r":\d*$", "", tried) if not tried.endswith("]") else tried
            bare = name.strip("[]")
            known = bare.lower() in ("localhost", "cells.example.org")
            if not known:
                ipaddress.ip_address(bare)
            assert ("[" in name) == (":" in bare)


@pytest.mark.parametrize(
    "host",
    ["[::1]evil.com", "[::1]:80evil", "[::1", "::1", "127.0.0.1.evil.com", "evil.com", "localhost:", "localhost:99999",
     "localhost:8\n0", "user@localhost", "localhost/", "[127.0.0.1]", "[localhost]", "", " localhost", "127.0.0.1:+80"],
)  # fmt: skip
def test_hosts_of_others_are_refused(host: str) -> None:
    assert host not in NAMES


@given(st.text(max_size=40) | st.integers(0).map(str) | st.integers(1, 9000).map(lambda n: "9" * n))
def test_no_content_length_is_a_defect(announced: str) -> None:
    """Whatever a server lets through: the body is read, or refused as too large."""

    async def read() -> bytes:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"abc", "more_body": False}

        with Held(Budget(100)) as held:
            chunks = read_body({"content-length": announced}, receive, Limits(), held, most=10)
            return b"".join([chunk async for chunk in chunks])

    if announced.isascii() and announced.isdigit() and len(announced.lstrip("0")) > 1 and announced.lstrip("0") != "10":
        with pytest.raises(RequestError, match="the limit is 10"):
            asyncio.run(read())
    else:
        assert asyncio.run(read()) == b"abc"


@pytest.mark.parametrize("length", [b"9" * 5000, b"0" * 5000 + b"9" * 30, b"9" * 19, b"1e9", b"+3", b"3, 3", b"\xb2"])
def test_odd_lengths_are_the_clients_fault(server: Server, length: bytes) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %s\r\n\r\nabc"
    assert server.raw(head % length).status in (400, 413, 415)


@given(st.lists(st.floats(0, 120), max_size=200), st.integers(1, 50))
def test_no_client_gets_more_than_its_requests_in_any_minute(pauses: list[float], most: int) -> None:
    rate, now, let_in = Rate(most), 0.0, []
    for pause in pauses:
        now += pause / most
        wait = rate.wait("10.0.0.1", now)
        if not wait:
            let_in.append(now)
        else:
            assert 1 <= wait <= 61
    for begin in let_in:
        assert sum(begin <= one < begin + 60 for one in let_in) <= 2 * most  # a full bucket, and what flows in
    assert rate.wait("10.0.0.2", now) == 0, "another client has its own"


def test_a_client_of_ipv6_is_its_network() -> None:
    rate = Rate(1)
    assert rate.wait("2001:db8::1", 0.0) == 0
    assert rate.wait("2001:db8::2", 0.0) == 60
    assert rate.wait("2001:db8:0:1::1", 0.0) == 0
    assert rate.wait("::ffff:10.0.0.1", 0.0) == 0
    assert rate.wait("10.0.0.1", 1.0) == 59


@given(st.binary(max_size=60))
def test_only_the_token_is_the_token(header: bytes) -> None:
    assert not same_token(header, TOKEN)
    assert same_token(b"Bearer " + TOKEN.encode(), TOKEN)
    assert not same_token(b"Basic " + TOKEN.encode(), TOKEN)
    assert not same_token(b"Bearer " + TOKEN.encode() + header.strip() + b"x", TOKEN)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for text in (b"", b"short", b"two words of a token", TOKEN.encode() * 300, b"\xff" * 40):
        (tmp_path / "token").write_bytes(text)
        with pytest.raises(ConfigError, match=r"token file .*: must hold one line of 16 or more"):
            read_token(tmp_path / "token")
    with pytest.raises(ConfigError, match=r"token file .*: cannot be read \(No such file"):
        read_token(tmp_path / "none")
    with pytest.raises(ConfigError, match="TLS: needs a certificate and its key"):
        read_tls(tmp_path / "token", None)
    with pytest.raises(ConfigError, match=r"certificate .*: cannot be used"):
        read_tls(tmp_path / "token", tmp_path / "token")
    with pytest.raises(ConfigError, match=r"certificate .*: cannot be used"):
        read_tls(tmp_path / "none", tmp_path / "none")
    for text in ("", "9100", ":9100", "localhost", "localhost:http", "localhost:99999", "localhost:²"):
        with pytest.raises(ConfigError, match="must be HOST:PORT"):
            split_address(text)
    assert split_address("[::1]:9100") == ("::1", 9100)


def certified(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1."""
    pytest.importorskip("cryptography", reason="needs cryptography to make a certificate")
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cells")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = made.add_extension(place, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    locked = serialization.BestAvailableEncryption(b"secret")
    (folder / "locked.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, locked))
    return folder / "cert.pem", folder / "key.pem"


def test_token_tls_and_a_limit_of_requests_hold_together(exported: Exported, cells: Cells, tmp_path: Path) -> None:
    cert, key = certified(tmp_path)
    with pytest.raises(ConfigError, match=r"certificate .* cannot be used"):
        read_tls(cert, tmp_path / "locked.pem")
    (tmp_path / "token").write_text(TOKEN + "\n")
    access = {"token_file": str(tmp_path / "token"), "tls_cert": str(cert), "tls_key": str(key)}
    server = Server(exported.onnx, {}, **access, requests_per_minute=30)
    try:
        assert server.address.startswith("https://")
        trusted = ssl.create_default_context(cafile=cert)

        def ask(path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
            asked = urllib.request.Request(server.address + path, body, headers)
            try:
                with urllib.request.urlopen(asked, timeout=60, context=trusted) as reply:
                    return reply.status, dict(reply.headers), reply.read()
            except urllib.error.HTTPError as error:
                return error.code, dict(error.headers), error.read()

        bearer = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("", "assets/serve.js", "v2/health/live"):
            assert ask(path)[0] == 200, path
        for path in ("metrics", "openapi.json", "v2", "v2/health/ready", "v2/models/m", "nothing", "assets"):
            status, headers, _ = ask(path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer"), path
            assert ask(path, Authorization="Bearer wrong")[0] == 401
        assert ask("v1/predict", encode(cells.kept[0]))[0] == 401
        assert ask("metrics", **bearer)[0] == 200
        kind = {"Content-Type": "image/png"}
        assert ask("v1/predict", encode(cells.kept[0]), **kind, **bearer)[0] == 200
        found = [ask("v2", **bearer) for _ in range(30)]
        assert found[-1][0] == 429
        assert 1 <= int(found[-1][1]["retry-after"]) <= 60
        assert ask("v2/health/live")[0] == 200
        with server.connect() as line:  # plain HTTP to the port of HTTPS
            line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"HTTP/1.1 200" not in line.recv(1 << 16)
        code, _ = server.end()
        assert code == 0
    finally:
        server.kill()


def test_metrics_have_an_address_of_their_own(exported: Exported) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    server = Server(exported.onnx, {}, metrics_address=f"127.0.0.1:{port}")
    try:
        assert server.ask("GET", "/metrics").status == 404
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
            assert b"hemalens_requests_total" in reply.read()
    finally:
        server.kill()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = Access(port=0, metrics_address=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ConfigError, match=r"metrics address .* cannot be"):
            serve(exported.onnx, place, announce=print)


def test_refused_bodies_are_read_so_that_the_refusal_is_seen(server: Server) -> None:
    """A client that sends all before it reads anything gets its answer, and may go on over the same connection."""
    body, kind = form(("a.png", bytes(3 << 20)))
    head = f"POST /v1/predict HTTP/1.1\r\nHost: evil.example\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with server.connect() as line:
        for _ in range(2):
            line.sendall(head.encode() + body)
            assert read_reply(line).status == 421


def test_the_command_warns_where_others_can_reach_it_and_names_files_it_cannot_use(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "hemalens.cli", "serve", "--port", "0"]
    for words in (["--token-file", str(tmp_path / "none")], ["--tls-cert", "a.pem"], ["--metrics-address", "x"]):
        done = subprocess.run([*run, *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
