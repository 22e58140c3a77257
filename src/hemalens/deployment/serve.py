"""A model to a page and an API: pictures come by HTTP, classes, probabilities, refusals and heat maps go back.

Nothing that is sent is kept. Needs FastAPI, Granian and onnxruntime; no torch, unless the model is a RUN not yet
exported. The parts are in ``web``.
"""

import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from hemalens.core.errors import ConfigError
from hemalens.core.server import HttpServer, reserved, resolved
from hemalens.data.parallel import available_cores
from hemalens.deployment.classifier import open_model
from hemalens.deployment.sidecar import EMBEDDED
from hemalens.deployment.web.access import Access, is_loopback, read_tls, read_token, split_address
from hemalens.deployment.web.app import serving_app
from hemalens.deployment.web.gate import Gate
from hemalens.deployment.web.limits import Limits
from hemalens.deployment.web.metrics import Metrics
from hemalens.deployment.web.pool import Pool
from hemalens.deployment.web.work import Work

__all__ = ["serve"]

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not chosen
_LOGGER = logging.getLogger(__name__)


def serve(
    model: str | Path = EMBEDDED,
    access: Access | None = None,
    *,
    workers: int | None = None,
    announce: Callable[[str], None],
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Serve a model until SIGINT or SIGTERM, finish what is under way, and return a summary.

    Args:
        model: ``embedded``, an .onnx file that ``hemalens export`` wrote, or a RUN directory.
        access: where the server is reached and by whom, ``Access()`` where None.
        workers: processes that decode and infer; None for one a core.
        announce: called with the page's address once it can be opened.
        limits: sizes and deadlines, ``Limits()`` where None.

    Raises:
        ArtifactError: the model is not there or damaged.
        ConfigError: an address, the token or the certificate cannot be used, or processes cannot start.
    """
    access, limits = access or Access(), limits or Limits()
    if workers is not None and workers < 1:
        raise ConfigError(f"workers {workers}", "must be 1 or more", "leave --workers out for one a core")
    token = None if access.token_file is None else read_token(access.token_file)
    tls = read_tls(access.tls_cert, access.tls_key)
    classifier = open_model(model)
    metrics, started = Metrics(), time.monotonic()
    pool = Pool(Work(classifier.path, limits), workers=workers or available_cores(), limits=limits, metrics=metrics)
    app = serving_app(
        pool,
        classifier.path.stem,
        classifier.sidecar.classes,
        limits=limits,
        metrics=metrics,
        show_metrics=access.metrics_address is None,
    )
    names = [*access.allow_hosts, *(() if access.host in _EVERYWHERE else (access.host,))]
    gate = Gate(app, names=names, limits=limits, metrics=metrics, token=token, per_minute=access.requests_per_minute)
    with ExitStack() as held:
        port = held.enter_context(reserved(access.host, access.port))
        address = f"{'https' if tls else 'http'}://{_shown(access.host)}:{port}/"
        if access.metrics_address is not None:
            held.enter_context(metrics.answered_at(*split_address(access.metrics_address)))
        if not is_loopback(resolved(access.host, port)[1]) and not (token and tls):
            lack = " and ".join(word for word, there in (("--token-file", token), ("--tls-cert", tls)) if not there)
            _LOGGER.warning(
                "%s: other machines can reach it; add %s, or put a proxy that has them before it", address, lack
            )
        HttpServer(gate, access.host, port, limits=limits, tls=tls).run(
            lambda: announce(address), during=_running(pool)
        )
    requests, pictures = metrics.total(metrics.requests), metrics.total(metrics.pictures)
    seconds = round(time.monotonic() - started, 2)
    return {"address": address, "model": str(model), "requests": requests, "pictures": pictures, "seconds": seconds}


@asynccontextmanager
async def _running(pool: Pool) -> AsyncIterator[None]:
    await pool.start()
    try:
        yield
    finally:
        await pool.close()


def _shown(host: str) -> str:
    return socket.gethostname() if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
