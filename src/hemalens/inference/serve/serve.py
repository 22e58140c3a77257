"""A model to a page and an API: images come by HTTP, classes, probabilities, refusals and heat maps go back.

Nothing that is sent is kept. Needs FastAPI, uvicorn and onnxruntime; no torch, unless the model is a RUN not yet
exported. The parts are in ``web``.
"""

import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from hemalens.core.errors import ConfigError
from hemalens.data.reading.parallel import available_cores
from hemalens.inference.model import Model
from hemalens.inference.serve.app import serving_app
from hemalens.inference.serve.limits import Limits
from hemalens.inference.serve.metrics import Metrics
from hemalens.inference.serve.protocol import timed_protocol
from hemalens.inference.serve.work import Work
from hemalens.inference.sidecar import EMBEDDED

__all__ = ["serve"]

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not chosen


def serve(
    model: str | Path = EMBEDDED,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: Sequence[str] = (),
    workers: int | None = None,
    announce: Callable[[str], None],
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Serve a model until SIGINT or SIGTERM, finish what is under way, and return a summary.

    Args:
        model: ``embedded``, or an .onnx file that ``hemalens export`` wrote.
        host: address or name to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; any that is free where 0.
        allow_hosts: names under which the server may be asked for, beside addresses, localhost and ``host``.
        workers: processes that decode and infer; None for one a core.
        announce: called with the page's address once it can be opened.
        limits: sizes and deadlines, ``Limits()`` where None.

    Raises:
        ArtifactError: the model is not there or damaged.
        ConfigError: host or port cannot be used, or processes cannot start.
    """
    limits = limits or Limits()
    if workers is not None and workers < 1:
        raise ConfigError(f"workers {workers}", "must be 1 or more", "leave --workers out for one a core")
    classifier = Model.open(model)
    metrics, started = Metrics(), time.monotonic()
    names = [*allow_hosts, *(() if host in _EVERYWHERE else (host,))]
    with closing(_listen(host, port)) as listener:
        address = _address(host, listener.getsockname()[1])
        _allow_connections(limits.connections)
        app = serving_app(
            Work(classifier.path, limits),
            classifier.sidecar.classes,
            workers=workers or available_cores(),
            hosts=names,
            limits=limits,
            metrics=metrics,
            started=lambda: announce(address),
        )
        config = uvicorn.Config(
            app,
            http=timed_protocol(limits),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.connections,
            h11_max_incomplete_event_size=limits.header_bytes,
            timeout_graceful_shutdown=limits.drain_seconds,
        )
        _run(uvicorn.Server(config), listener)
    requests, images = metrics.total(metrics.requests), metrics.total(metrics.images)
    seconds = round(time.monotonic() - started, 2)
    return {"address": address, "model": str(model), "requests": requests, "images": images, "seconds": seconds}


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Run until a signal; uvicorn drains, then sends itself the signal again, which is not to end this process."""

    def nothing(number: int, frame: FrameType | None) -> None: ...

    before = signal.signal(signal.SIGTERM, nothing)
    try:
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(host: str, port: int) -> socket.socket:
    listener = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(2048)
    except (OSError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        rule = f"cannot be used ({getattr(error, 'strerror', None) or error})"
        raise ConfigError(f"address {host}:{port}", rule, "choose another --host or --port") from error
    return listener


def _address(host: str, port: int) -> str:
    shown = socket.gethostname() if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


def _allow_connections(number: int) -> None:
    """Raise the limit of open files as far as connections need it and the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
