"""Fetching the public record, from a server of our own."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from hemalens.core.errors import SourceError
from hemalens.data.sources import fetch as fetching
from hemalens.data.sources import open_source
from hemalens.data.sources.fetch import default_cache, fetch, fetch_bloodmnist

CONTENT = np.random.default_rng(0).bytes(600_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(HTTPServer):
    """Serves CONTENT; the tests choose how well."""

    ranges = True
    cut = None
    asked: list

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        start = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.server.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_is_fetched_checked_and_then_taken_from_the_cache(server, tmp_path):
    seen = []
    target = tmp_path / "new" / "file.bin"
    url = f"{server.url}/file.bin"
    assert fetch(url, target, md5=MD5, progress=lambda what, done, total: seen.append((done, total))) == target
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(url, target, md5=MD5) == target
    assert server.asked == [("/file.bin", None)]
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_a_broken_download_is_kept_and_resumed(server, tmp_path):
    server.cut = 250_000
    with pytest.raises(SourceError, match=r"broke after 250,000 of 600,000 bytes; what arrived is kept"):
        fetch(f"{server.url}/f", tmp_path / "f", md5=MD5)
    assert (tmp_path / "f.part").stat().st_size == 250_000
    server.cut = None
    fetch(f"{server.url}/f", tmp_path / "f", md5=MD5)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.asked == [("/f", None), ("/f", "bytes=250000-")]


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, tmp_path):
    server.ranges = False
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    fetch(f"{server.url}/f", tmp_path / "f", md5=MD5)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT + b"more")
    fetch(f"{server.url}/f", tmp_path / "f", md5=MD5)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_another_hash_is_an_error_and_nothing_is_kept(server, tmp_path):
    with pytest.raises(SourceError, match=f"has the MD5 {MD5}, not 0000"):
        fetch(f"{server.url}/f", tmp_path / "f", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_cached_file_with_another_hash_is_named_and_left_alone(server, tmp_path):
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(SourceError, match="delete it"):
        fetch(f"{server.url}/f", tmp_path / "f", md5=MD5)
    assert (tmp_path / "f").read_bytes() == b"mine"
    assert server.asked == []


def test_without_a_network_the_message_says_what_to_put_where(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(SourceError) as caught:
        fetch_bloodmnist("bloodmnist:64", cache=tmp_path, base_url=server.url)
    text = str(caught.value)
    assert "refused" in text
    assert f"download {server.url}/bloodmnist_64.npz by any means and put it at {tmp_path}/bloodmnist_64.npz" in text


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_only_the_web_is_fetched(url, tmp_path):
    with pytest.raises(SourceError, match="only http and https"):
        fetch(url, tmp_path / "f", md5=MD5)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("bloodmnist", "bloodmnist.npz"),
        ("bloodmnist:28", "bloodmnist.npz"),
        ("bloodmnist:64", "bloodmnist_64.npz"),
        ("bloodmnist:128", "bloodmnist_128.npz"),
        ("bloodmnist:224", "bloodmnist_224.npz"),
    ],
)
def test_each_side_has_its_file(server, tmp_path, name, file):
    with pytest.raises(SourceError, match=r"has the MD5 .*, not"):
        fetch_bloodmnist(name, cache=tmp_path, base_url=server.url)
    assert server.asked == [(f"/{file}", None)]


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("HEMALENS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "hemalens"


def test_the_record_opens_as_medmnist_from_the_cache(tmp_path, monkeypatch):
    images = np.zeros((2, 28, 28, 3), np.uint8)
    np.savez(tmp_path / "bloodmnist.npz", train_images=images, train_labels=[[3], [7]])
    digest = hashlib.md5((tmp_path / "bloodmnist.npz").read_bytes()).hexdigest()
    monkeypatch.setitem(fetching._FILES, 28, ("bloodmnist.npz", digest))
    source = open_source("bloodmnist", cache=tmp_path)
    assert (source.kind, source.spec) == ("medmnist", "bloodmnist")
    assert [sample.label for sample in source.samples] == ["ig", "platelet"]
