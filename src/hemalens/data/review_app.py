"""A review in progress to a page and a few addresses for it: only this machine, only who holds the token.

Every address begins with a random token, names other than this machine's are refused (a foreign name that resolves to
127.0.0.1 would else get in), a request that changes something must come from the page itself, and the page may load and
ask nothing but this server. Needs FastAPI.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict
from starlette.middleware.trustedhost import TrustedHostMiddleware

from hemalens.core.errors import DecodeError, UserError
from hemalens.core.page import render_page
from hemalens.data.audit_page import meaning
from hemalens.data.checks.finding import ISSUES
from hemalens.data.review_session import LARGE, THUMBNAIL, ReviewSession, Show

__all__ = ["HOSTS", "review_app"]

HOSTS = ("127.0.0.1", "localhost")
"""The names under which the page may be asked for."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_BODY_BYTES = 1 << 20  # a decision has 40
_LOGGER = logging.getLogger(__name__)
_MERGE_SECONDS = 1.0  # how long issues.csv may lag behind the journal
_ASSETS = {
    "style.css": ("hemalens.core", "text/css"),
    "review.css": ("hemalens.data", "text/css"),
    "review.js": ("hemalens.data", "text/javascript"),
}


class _Decisions(BaseModel):
    """Decisions by place."""

    model_config = ConfigDict(extra="forbid")
    decisions: dict[int, str]


class _GroupDecision(BaseModel):
    """One decision on the members of a finding's group; ``only`` is kept whatever it is."""

    model_config = ConfigDict(extra="forbid")
    issue: str
    group: str
    decision: str
    only: int | None = None


def review_app(session: ReviewSession, token: str, *, stop: Callable[[], None]) -> FastAPI:
    """Return the application that shows a review; it closes the session when it is shut down.

    Args:
        session: the review in progress.
        token: what every path begins with; unguessable.
        stop: called when the person is done.
    """

    @asynccontextmanager
    async def merging(_: FastAPI) -> AsyncIterator[None]:
        async def merge_now_and_then() -> None:
            while True:
                await asyncio.sleep(_MERGE_SECONDS)
                try:
                    await asyncio.to_thread(session.merge)
                except UserError as error:  # a full disk may have room later; the journal holds everything till then
                    _LOGGER.warning("%s", error)

        task = asyncio.create_task(merge_now_and_then())
        try:
            yield
        finally:
            task.cancel()
            session.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=merging, max_body_size=_BODY_BYTES)
    app.include_router(_routes(session, stop), prefix=f"/{token}")

    @app.middleware("http")
    async def guard(request: Request, respond: Callable[[Request], Awaitable[Response]]) -> Response:
        refusal = _refusal(request, token)
        response = PlainTextResponse(refusal[1], refusal[0]) if refusal else await respond(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(UserError)
    async def explain(_: Request, error: UserError) -> Response:
        return JSONResponse({"error": str(error)}, 404 if isinstance(error, DecodeError) else 409)

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)
    return app


def _refusal(request: Request, token: str) -> tuple[int, str] | None:
    """Return status and text where a request does not come from the page itself."""
    first = request.url.path.split("/")[1]
    if not secrets.compare_digest(first.encode(), token.encode()):
        return 404, "nothing here: open the address that hemalens printed"
    if request.method in ("GET", "HEAD"):
        return None
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if origin is not None and origin != f"http://{host}":
        return 403, "the request comes from another site"
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return 403, "the request comes from another site"
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return 415, "the request must be application/json"
    return None


def _routes(session: ReviewSession, stop: Callable[[], None]) -> APIRouter:
    routes = APIRouter()

    @routes.get("/", response_class=HTMLResponse)
    def page() -> str:
        counts = session.counts()
        context = {
            "title": f"Review of {session.source.spec}",
            "audit": str(session.audit),
            "classes": session.source.classes,
            "issues": [(one, *meaning(one)) for one in ISSUES if one in counts["issues"]],
        }
        return render_page("review.html", "hemalens.data", context)

    @routes.get("/assets/{name}")
    def asset(name: str) -> Response:
        if name not in _ASSETS:
            return PlainTextResponse("no such file", 404)
        package, kind = _ASSETS[name]
        return Response(render_page(name, package, {}), media_type=kind)

    @routes.get("/api/findings")
    def findings(
        issue: str = "", show: Show = "all", start: Annotated[int, Query(ge=0)] = 0, backwards: bool = False
    ) -> dict[str, Any]:
        return session.view(issue, show, start=start, backwards=backwards)

    @routes.get("/picture/{place}")
    def picture(place: int, large: bool = False) -> Response:
        data, kind = session.thumbnail(place, LARGE if large else THUMBNAIL)
        return Response(data, media_type=kind)

    @routes.post("/api/decide")
    def decide(body: _Decisions) -> dict[str, Any]:
        return session.decide(body.decisions)

    @routes.post("/api/group")
    def decide_group(body: _GroupDecision) -> dict[str, Any]:
        return session.decide_group(body.issue, body.group, body.decision, only=body.only)

    @routes.post("/api/undo")
    def undo() -> dict[str, Any]:
        return session.undo()

    @routes.post("/api/finish")
    def finish() -> dict[str, Any]:
        session.merge()
        stop()
        return session.outcome()

    return routes
