"""The proxy of the how-to, as typed there, before a running server."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from tests.deployment.conftest import Exported
from tests.deployment.web.conftest import Cells, Server, encode
from tests.deployment.web.test_access import TOKEN, certified

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "serve.md"


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_the_how_tos_nginx_passes_uploads_on(exported: Exported, cells: Cells, tmp_path: Path) -> None:
    cert, key = certified(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    server = Server(exported.onnx, {}, token_file=str(tmp_path / "token"), allow_hosts=["127.0.0.1"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    typed = re.search(r"```nginx\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
    changes = {"listen 443": f"listen 127.0.0.1:{port}", "127.0.0.1:8000": f"127.0.0.1:{server.port}"}
    changes |= {"/etc/ssl/cells.example.org/chain.pem": str(cert), "/etc/ssl/cells.example.org/key.pem": str(key)}
    for old, new in changes.items():
        assert old in typed
        typed = typed.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    config = "user root;" if os.geteuid() == 0 else ""  # its workers could not write to the test's folder
    config += f"daemon off; pid {tmp_path}/pid; error_log stderr;"
    config += f"events {{}} http {{ access_log off; {folders} {typed} }}"
    (tmp_path / "nginx.conf").write_text(config)
    proxy = subprocess.Popen(["nginx", "-e", "stderr", "-c", tmp_path / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        trusted = ssl.create_default_context(cafile=cert)
        body = encode(cells.kept[0]) + bytes(3 << 20)
        headers = {"Content-Type": "image/png", "Origin": f"https://127.0.0.1:{port}"}
        address = f"https://127.0.0.1:{port}/v1/predict"
        asked = urllib.request.Request(address, body, headers | {"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=60, context=trusted) as reply:
            assert reply.status == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=60, context=trusted)
    finally:
        proxy.terminate()
        proxy.wait()
        server.kill()
