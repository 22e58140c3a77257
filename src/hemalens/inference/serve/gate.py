"""Before and around the application: who may ask, what every answer carries, what is counted.

Names other than the server's are refused (a foreign name that resolves to this machine would else get in through the
browser), and so is a request that another site's page sends. No other site may read an answer (no CORS). Needs
Starlette.
"""

import ipaddress
import json
import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hemalens.inference.serve.metrics import Metrics

__all__ = ["Gate", "error_body"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_READING = ("GET", "HEAD")


def error_body(text: str) -> bytes:
    """Return the JSON of an error: ``{"error": text}``."""
    return json.dumps({"error": text}, ensure_ascii=False).encode()


class Gate:
    """Wraps the application.

    Args:
        app: what is guarded.
        hosts: names under which the server may be asked for, beside addresses and localhost.
        metrics: told about each request.
    """

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str], metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._hosts = frozenset({"localhost", *(host.lower() for host in hosts)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        refusal = self._refusal(scope)
        try:
            if refusal is None:
                await self._app(scope, receive, send_guarded)
            else:
                await _answer(send_guarded, *refusal)
        except ClientDisconnect:
            status = 499  # nobody is there to hear an answer; the number is nginx's
        finally:
            self._count(scope, status, time.perf_counter() - begin)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and error where a request must not get in."""
        names = [value for key, value in scope["headers"] if key == b"host"]
        host = names[0].decode("latin-1") if len(names) == 1 else ""
        if not host:
            return 400, f"host: must be given once, it is {len(names)} times; ask by the server's address"
        if not self._known(host):
            step = "ask by the server's address, or start it with --allow-host NAME"
            return 421, f"host {host!r:.80}: is none of this server's names; {step}"
        if scope["method"] not in _READING:
            headers = dict(scope["headers"])
            origin = headers.get(b"origin", b"").decode("latin-1")
            site = headers.get(b"sec-fetch-site", b"same-origin")
            if (origin and origin.partition("://")[2].lower() != host.lower()) or site not in (b"same-origin", b"none"):
                return 403, f"origin {origin!r:.80}: must be this server's own page; open the page itself"
        return None

    def _known(self, host: str) -> bool:
        """Tell whether a Host header names this server: an address cannot be rebound to another, a name can."""
        name = host.lower()
        name = name.partition("]")[0].lstrip("[") if name.startswith("[") else name.partition(":")[0]
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _count(self, scope: dict[str, Any] | Scope, status: int, seconds: float) -> None:
        # Few values, whatever is asked for: FastAPI names its routes, a plain one is its own path.
        plain = scope["path"] if "endpoint" in scope and not scope.get("path_params") else "other"
        path = getattr(scope.get("route"), "path", plain)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(path, method, str(status)).inc()
        self._metrics.seconds.labels(path).observe(seconds)


async def _answer(send: Send, status: int, error: str) -> None:
    body = error_body(error)
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
