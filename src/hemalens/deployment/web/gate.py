"""Before and around the application: who may ask, what every answer carries, what is counted.

Names other than the server's are refused (a foreign name that resolves to this machine would else get in through the
browser), and so is a request that another site's page sends. No other site may read an answer (no CORS). Needs
Starlette.
"""

import asyncio
import json
import time
from collections.abc import Sequence

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hemalens.core.errors import RequestError
from hemalens.deployment.web.access import Names, Rate, same_token
from hemalens.deployment.web.limits import Limits
from hemalens.deployment.web.metrics import Metrics

__all__ = ["Gate", "error_body", "refusal"]

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
    (b"server", b"hemalens"),  # in place of the server's own name
]
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_READING = ("GET", "HEAD")
_LIVE = "/v2/health/live"  # for whoever starts and ends servers: neither counted nor asked for a token


def error_body(text: str) -> bytes:
    """Return the JSON of an error: ``{"error": text}``."""
    return json.dumps({"error": text}, ensure_ascii=False).encode()


def refusal(error: RequestError) -> Response:
    """Return an error as an answer."""
    headers = {} if error.retry is None else {"Retry-After": str(error.retry)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 408:
        headers["Connection"] = "close"
    return Response(error_body(str(error)), error.status, headers, "application/json")


class Gate:
    """Wraps the application.

    Args:
        app: what is guarded.
        names: under which the server may be asked for, beside addresses and localhost.
        limits: of the bodies of requests that are refused.
        metrics: told about each request.
        token: that requests must bring; None for no token.
        per_minute: requests of one client; None for no limit.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Sequence[str],
        limits: Limits,
        metrics: Metrics,
        token: str | None = None,
        per_minute: int | None = None,
    ) -> None:
        self._app, self._limits, self._metrics, self._token = app, limits, metrics, token
        self._names = Names(names)
        self._rate = None if per_minute is None else Rate(per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begin = time.perf_counter()
        status = 0
        more = True  # of the body is to come

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        async def receive_on() -> Message:
            nonlocal more
            message = await receive()
            more = message["type"] == "http.request" and message.get("more_body", False)
            return message

        try:
            self._check(scope)
        except RequestError as error:
            app: ASGIApp = refusal(error)
        else:
            app = self._app
        try:
            await app(scope, receive_on, send_guarded)
        except ClientDisconnect:
            status = 499  # nobody is there to hear an answer; the number is nginx's
        finally:
            self._count(scope, status, time.perf_counter() - begin)
        if more and status not in (408, 499) and scope["method"] not in _READING:
            await self._throw_away(receive)

    async def _throw_away(self, receive: Receive) -> None:
        """Read what is still sent after the answer, within limits: most clients read no answer before all is sent."""
        left = self._limits.body_bytes
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    def _check(self, scope: Scope) -> None:
        """Raise RequestError where a request must not get in."""
        path, client = scope["path"], scope.get("client")
        wait = 0 if self._rate is None or path == _LIVE else self._rate.wait(client[0] if client else "")
        if wait:
            raise RequestError(429, "requests", "are too many in a minute", f"wait {wait} s", retry=wait)
        names = [value for key, value in scope["headers"] if key == b"host"]
        host = names[0].decode("latin-1") if len(names) == 1 else ""
        if not host:
            rule = f"must be given once, it is {len(names)} times"
            raise RequestError(400, "host", rule, "ask by the server's address")
        if host not in self._names:
            step = "ask by the server's address, or start it with --allow-host NAME"
            raise RequestError(421, f"host {host!r:.80}", "is none of this server's names", step)
        headers = dict(scope["headers"])
        if scope["method"] not in _READING:
            origin = headers.get(b"origin", b"").decode("latin-1")
            site = headers.get(b"sec-fetch-site", b"same-origin")
            if (origin and origin.partition("://")[2].lower() != host.lower()) or site not in (b"same-origin", b"none"):
                raise RequestError(
                    403, f"origin {origin!r:.80}", "must be this server's own page", "open the page itself"
                )
        open_to_all = path in ("/", _LIVE) or path.startswith("/assets/")
        if self._token and not open_to_all and not same_token(headers.get(b"authorization", b""), self._token):
            raise RequestError(401, "token", "is missing or wrong", "send the header Authorization: Bearer TOKEN")

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # Few values, whatever is asked for: FastAPI names its routes, a plain one is its own path.
        plain = scope["path"] if "endpoint" in scope and not scope.get("path_params") else "other"
        path = getattr(scope.get("route"), "path", plain)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(path, method, str(status)).inc()
        self._metrics.seconds.labels(path).observe(seconds)
