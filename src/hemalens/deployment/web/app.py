"""The server's addresses: the page, ``/v1/predict``, the Open Inference Protocol, health and metrics.

Needs FastAPI; no torch. Bodies are read and limited in ``bodies``, pictures are answered by the processes of ``pool``.
"""

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from hemalens.core.errors import RequestError
from hemalens.core.page import render_page
from hemalens.core.provenance import version
from hemalens.deployment.sidecar import INTENDED_USE
from hemalens.deployment.web import schemas
from hemalens.deployment.web.bodies import Budget, Held, read_body, read_uploads
from hemalens.deployment.web.gate import error_body, refusal
from hemalens.deployment.web.limits import Limits
from hemalens.deployment.web.metrics import Metrics
from hemalens.deployment.web.pool import Pool
from hemalens.deployment.web.tensors import EXTENSIONS, HEAD_LENGTH, INPUT, OUTPUTS, read_framing
from hemalens.deployment.web.work import Answer, InferTask, PictureTask, UnpackTask, Upload, unreadable_row

__all__ = ["serving_app"]

_Result = TypeVar("_Result")
_PACKAGE = "hemalens.deployment.web"
_ASSETS = {
    "style.css": ("hemalens.core", "text/css"),
    "serve.css": (_PACKAGE, "text/css"),
    "serve.js": (_PACKAGE, "text/javascript"),
}
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_FLAGS = {"true": True, "false": False, "1": True, "0": False}
_COMMON = (400, 403, 421)


class _Service:
    """What the addresses share."""

    def __init__(self, pool: Pool, name: str, classes: Sequence[str], *, limits: Limits, metrics: Metrics) -> None:
        self.pool, self.name, self.classes = pool, name, list(classes)
        self.limits, self.metrics = limits, metrics
        self.budget = Budget(limits.held_bytes)

    async def predict(self, request: Request, *, heat_maps: bool) -> bytes:
        """Return the answer to a request with pictures, as JSON."""
        self.pool.check_room()
        with Held(self.budget) as held:
            with self.pool.arriving():
                uploads = await read_uploads(request.headers, request.receive, self.limits, held)
            answers = await self._in_time(self._answer(uploads, held, heat_maps=heat_maps))
            for answer in answers:
                if answer.kind:
                    self.metrics.pictures.labels(answer.kind).inc()
            if all(answer.error is not None for answer in answers) and answers[0].error is not None:
                raise answers[0].error
            rows = b",".join(answer.body for answer in answers)
        head = json.dumps({"model": self.name, "classes": self.classes, "intended_use": INTENDED_USE})
        return b'%s, "predictions": [%s]}' % (head[:-1].encode(), rows)

    async def infer(self, request: Request) -> Answer:
        """Return the answer to a tensor request."""
        self.pool.check_room()
        framing = read_framing(request.headers)
        with Held(self.budget) as held:
            chunks = read_body(request.headers, request.receive, self.limits, held, most=self.limits.infer_bytes)
            body = b"".join([chunk async for chunk in chunks])
            answer = await self._in_time(self.pool.ask(InferTask(body, framing)))
        if answer.error is not None:
            raise answer.error
        return answer

    async def _answer(self, uploads: list[Upload], held: Held, *, heat_maps: bool) -> list[Answer]:
        """Return an answer for each picture, those in zips too, in order."""
        found: list[Answer | PictureTask] = []
        for upload in uploads:
            found += await self._opened(upload, held, heat_maps=heat_maps)
            if len(found) > self.limits.pictures:
                rule = f"holds more than {self.limits.pictures:,} pictures"
                raise RequestError(413, "request", rule, "send fewer at a time, or use: hemalens predict")
        if len(found) == 1:  # the usual request, without the cost of a task
            return [await self._ask(found[0])]
        places = asyncio.Semaphore(self.limits.abreast)

        async def in_turn(one: Answer | PictureTask) -> Answer:
            async with places:
                return await self._ask(one)

        tasks = [asyncio.create_task(in_turn(one)) for one in found]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(self, one: Answer | PictureTask) -> Answer:
        return one if isinstance(one, Answer) else await self.pool.ask(one)

    async def _opened(self, upload: Upload, held: Held, *, heat_maps: bool) -> list[Answer | PictureTask]:
        """Return a picture as it is, a zip as its pictures, a zip that cannot be opened as its row."""
        if not upload.data.startswith(_ZIP):
            return [PictureTask(upload, heat_maps)]
        answer = await self.pool.ask(UnpackTask(upload))
        if answer.error is not None:
            row = unreadable_row(upload.name, answer.error)
            return [Answer(answer.status, row, "unreadable", answer.error)]
        held.take(sum(len(member.data) for member in answer.uploads))
        return [PictureTask(member, heat_maps) for member in answer.uploads]

    async def _in_time(self, work: Awaitable[_Result]) -> _Result:
        """Await work within the deadline; raise RequestError (503) where it takes longer."""
        try:
            async with asyncio.timeout(self.limits.work_seconds):
                return await work
        except TimeoutError as error:
            rule = f"took longer than {self.limits.work_seconds:g} s"
            raise RequestError(503, "request", rule, "send fewer pictures at a time", retry=5) from error


def serving_app(
    pool: Pool,
    name: str,
    classes: Sequence[str],
    *,
    limits: Limits,
    metrics: Metrics,
    show_metrics: bool = True,
) -> FastAPI:
    """Return the application, to be guarded by a ``Gate``.

    Args:
        pool: processes that do the work; started and ended by the caller.
        name: the model's.
        classes: the model's, in its order.
        limits: of requests.
        metrics: counters to use.
        show_metrics: whether to answer them at ``/metrics``.
    """
    service = _Service(pool, name, classes, limits=limits, metrics=metrics)
    app = FastAPI(
        title="hemalens",
        version=version(),
        description=f"Blood-cell pictures to classes. {INTENDED_USE}",
        docs_url=None,  # the interactive pages load their code from another server
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_predict(app, service)
    app.include_router(_page(service, show_metrics=show_metrics))
    app.include_router(_protocol(service))
    _explain_errors(app)
    return app


def _page(service: _Service, *, show_metrics: bool) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    context: dict[str, object] = {"title": "Classify blood cells", "name": service.name, "classes": service.classes}
    context |= {"limits": service.limits, "intended_use": INTENDED_USE}
    page = render_page("serve.html", _PACKAGE, context).encode()
    assets = {name: (render_page(name, package, {}).encode(), kind) for name, (package, kind) in _ASSETS.items()}

    @routes.get("/")
    async def show() -> Response:
        return Response(page, media_type="text/html")

    if show_metrics:

        @routes.get("/metrics")
        async def metrics() -> Response:
            return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @routes.get("/assets/{name}")
    async def asset(name: str) -> Response:
        if name not in assets:
            raise RequestError(404, f"file {name!r:.80}", "is not here", "open the page at /")
        return Response(assets[name][0], media_type=assets[name][1])

    return routes


def _add_predict(app: FastAPI, service: _Service) -> None:
    """Add ``/v1/predict`` as a plain route, described by hand: FastAPI's own way costs 0.15 ms of 0.5 a request."""

    async def predict(request: Request) -> Response:
        asked = request.query_params.getlist("heat_maps")
        if len(asked) > 1 or (asked and asked[0] not in _FLAGS):
            raise RequestError(422, f"heat_maps {asked!r:.60}", "must be true or false, once", "leave it out for false")
        heat_maps = bool(asked) and _FLAGS[asked[0]]
        return Response(await service.predict(request, heat_maps=heat_maps), media_type="application/json")

    app.add_route("/v1/predict", predict, methods=["POST"], include_in_schema=False)
    own = app.openapi

    def described() -> dict[str, Any]:
        found = own()  # made once and kept by FastAPI
        found["paths"] = {"/v1/predict": {"post": operation}, **found["paths"]}
        return found

    operation = schemas.predict_operation(service.classes, service.name)
    app.openapi = described  # type: ignore[method-assign]  # as FastAPI's manual has it


def _protocol(service: _Service) -> APIRouter:
    """Return the addresses of the Open Inference Protocol, version 2."""
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    tensors = {
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [
            {"name": name, "datatype": kind, "shape": [-1, len(service.classes)] if kind == "FP32" else [-1]}
            for name, kind in OUTPUTS.items()
        ],
    }
    tensors["outputs"][3]["shape"] = [-1]
    facts = {
        "name": service.name,
        "platform": "onnxruntime_onnx",
        **tensors,
        "parameters": {"classes": service.classes},
    }
    live = schemas.responses({"type": "object"}, {"live": True}, _COMMON)
    ready = schemas.responses({"type": "object"}, {"ready": True}, (*_COMMON, 503))

    def check(name: str) -> None:
        if name != service.name:
            raise RequestError(
                404, f"model {name!r:.80}", f"is not here: this server has {service.name!r}", "ask for it"
            )

    def check_ready() -> dict[str, bool]:
        if not service.pool.ready:
            raise RequestError(503, "server", "is not ready: no process is up", "ask again in a moment", retry=2)
        return {"ready": True}

    @routes.get("", summary="Name the server", responses=schemas.responses({"type": "object"}, {}, _COMMON))
    async def server() -> dict[str, Any]:
        return {"name": "hemalens", "version": version(), "extensions": list(EXTENSIONS)}

    @routes.get("/health/live", summary="Tell that the server is up", responses=live)
    async def is_live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready", summary="Tell whether requests would be answered", responses=ready)
    async def is_ready() -> dict[str, bool]:
        return check_ready()

    known = (*_COMMON, 404)

    @routes.get(
        "/models/{name}",
        summary="Describe the model",
        responses=schemas.responses(schemas.metadata_schema(), facts, known),
    )
    async def model(name: str) -> dict[str, Any]:
        check(name)
        return facts

    @routes.get(
        "/models/{name}/ready",
        summary="Tell whether the model would answer",
        responses=schemas.responses({"type": "object"}, {"ready": True}, (*known, 503)),
    )
    async def model_is_ready(name: str) -> dict[str, bool]:
        check(name)
        return check_ready()

    @routes.post(
        "/models/{name}/infer",
        summary="Answer a tensor of pictures",
        responses=schemas.infer_errors(service.classes, service.name),
        openapi_extra=schemas.infer_body(),
    )
    async def infer(name: str, request: Request) -> Response:
        check(name)
        answer = await service.infer(request)
        if answer.head is None:
            return Response(answer.body, media_type="application/json")
        return Response(answer.body, 200, {HEAD_LENGTH: str(answer.head)}, "application/octet-stream")

    return routes


def _explain_errors(app: FastAPI) -> None:
    """Answer every refusal as JSON, in the form ``what: rule; next step``."""

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        what = f"{first['loc'][-1]} {first.get('input')!r:.60}"
        return Response(error_body(f"{what}: {first['msg']}; see /openapi.json"), 422, None, "application/json")

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        text = f"{request.method} {request.url.path[:80]!r}: {error.detail}; see /openapi.json for what there is"
        return Response(error_body(text), error.status_code, error.headers, "application/json")
