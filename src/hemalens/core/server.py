"""An application to an address: the one HTTP server behind every page and API, with its limits and its end.

Granian speaks HTTP and TLS; it ends slow headers and idle connections and bounds what is buffered. The system ends
clients that read nothing of their answers. The application times the bodies of requests, where it reads them.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server as Granian

from hemalens.core.errors import ConfigError

__all__ = ["Application", "HttpServer", "ServerLimits", "reserved", "resolved"]

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048
_START_SECONDS = 20.0  # from the call to the open port, which takes milliseconds
_SPARE_FILES = 256  # open at the same time as all connections
# Only the server's faults are told, by the root logger; whatever else is set up for logging stays as it is.
_LOGGING = {"incremental": True, "formatters": {}, "handlers": {}, "loggers": {"_granian": {"propagate": True}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Limits of every connection; seconds, bytes and counts.

    Attributes:
        header_seconds: for a request's line and headers, and for a connection on which nothing is asked.
        header_bytes: of a request's line and headers, and of what is read ahead of the application.
        write_seconds: a client may leave an answer unread, where the system can tell (Linux).
        drain_seconds: for the requests under way when the server is told to stop.
        connections: open at a time; others wait in the system's queue.
    """

    header_seconds: float = 10.0
    header_bytes: int = 64 << 10
    write_seconds: float = 12.0
    drain_seconds: float = 30.0
    connections: int = 4096


def resolved(host: str, port: int) -> tuple[int, str]:
    """Return the family and the address of a host; raise ConfigError where there is none."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise _unusable(host, port, error) from error
    return family, str(place[0])


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Hold a port, one that is free where 0, until the end; only this process's server can listen on it meanwhile."""
    family, address = resolved(host, port)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:  # refused where somebody listens already
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            port = probe.getsockname()[1]
        held = socket.socket(family, socket.SOCK_STREAM)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            held.setsockopt(socket.SOL_SOCKET, option, 1)
        held.bind((address, port))
    except OSError as error:
        raise _unusable(host, port, error) from error
    with held:
        yield port


class HttpServer:
    """A server of one application.

    Args:
        app: what answers.
        host: address or name to listen on.
        port: to listen on; see ``reserved`` for one that is free.
        limits: of connections.
        tls: files of a certificate chain and its key; None for plain HTTP.
    """

    def __init__(
        self, app: Application, host: str, port: int, *, limits: ServerLimits, tls: tuple[Path, Path] | None = None
    ) -> None:
        self._place, self._limits = (host, port), limits
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving = False
        _allow_connections(limits.connections)
        headers = HTTP1Settings(round(1000 * limits.header_seconds), max_buffer_size=limits.header_bytes)
        self._server = Granian(
            app,
            resolved(host, port)[1],
            port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            backlog=_BACKLOG,
            backpressure=limits.connections,
            http1_settings=headers,
            log_level=LogLevels.error,
            log_dictconfig=_LOGGING,
            ssl_cert=tls and tls[0],
            ssl_key=tls and tls[1],
            ssl_protocol_min=SSLProtocols.tls12,
        )

    def run(self, ready: Callable[[], None], *, during: AbstractAsyncContextManager[object] | None = None) -> None:
        """Serve until ``stop``, SIGINT or SIGTERM, and finish what is under way; a second signal ends it at once.

        Args:
            ready: called once requests are answered.
            during: entered before the first request and left after the last.

        Raises:
            ConfigError: the address cannot be used.
        """
        with suppress(asyncio.CancelledError), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._run(ready, during or nullcontext()))

    def stop(self) -> None:
        """End it; may be called from any thread, also from a request."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _run(self, ready: Callable[[], None], during: AbstractAsyncContextManager[object]) -> None:
        self._loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def ended() -> None:
            if self._serving and not self._stopping.is_set():
                self._stopping.set()
            elif task is not None:
                task.cancel()

        with suppress(RuntimeError, ValueError):  # in another thread than the main one there are no signals
            for sign in _SIGNALS:
                self._loop.add_signal_handler(sign, ended)
        async with during, self._listening() as serving:
            self._serving = True
            ready()
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[asyncio.Task[None]]:
        """Open the port; at the end finish what is under way, for as long as the limit allows."""
        serving = asyncio.create_task(self._server.serve())
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not self._bound_reading():
                    if serving.done():
                        raise _unusable(*self._place, OSError("it cannot be listened on"))
                    await asyncio.sleep(0.005)
            yield serving
            self._server.stop()  # type: ignore[no-untyped-call]  # of Granian's, without types
            await asyncio.wait({serving}, timeout=self._limits.drain_seconds)
        finally:
            if not serving.done():  # what is cut off now is no fault to tell of
                logging.getLogger("_granian").setLevel(logging.CRITICAL + 1)
                asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            serving.cancel()
            await asyncio.wait({serving})

    def _bound_reading(self) -> bool:
        """Tell whether the port is open; have the system end connections whose client does not read."""
        for number in Path("/dev/fd").iterdir():
            with suppress(OSError), socket.socket(fileno=os.dup(int(number.name))) as one:
                listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and one.family != socket.AF_UNIX and one.getsockname()[1] == self._place[1]:
                    if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it
                        wait = round(1000 * self._limits.write_seconds)
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, wait)
                    return True
        return False


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _allow_connections(number: int) -> None:
    """Raise the limit of open files as far as connections need it and the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _unusable(host: str, port: int, error: OSError | UnicodeError) -> ConfigError:
    rule = f"cannot be used ({getattr(error, 'strerror', None) or error})"
    return ConfigError(f"address {host}:{port}", rule, "choose another host or port")
