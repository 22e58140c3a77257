"""uvicorn's HTTP protocols with what they lack: deadlines for headers and for reading answers, an end to what is sent.

uvicorn waits for ever for the end of a request's headers, and for a client that reads nothing of its answer. Bodies are
timed where they are read (``bodies.read_body``). Needs uvicorn.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from hemalens.inference.serve.limits import Limits

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _Base
else:
    _Base = object

__all__ = ["timed_protocol"]


def timed_protocol(limits: Limits, base: type[asyncio.Protocol] | None = None) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, the faster one where its package is installed, held to ``limits``.

    Args:
        limits: seconds for headers and reading; bytes of headers and of what is sent though nobody reads it.
        base: uvicorn's protocol to build on; chosen where None.
    """
    if base is None:
        from uvicorn.protocols.http.auto import AutoHTTPProtocol

        base = AutoHTTPProtocol
    return type("TimedProtocol", (_Timed, base), {"limits": limits})


class _Timed(_Base):
    """Adds clocks to a protocol of uvicorn."""

    limits: Limits
    _clock: asyncio.TimerHandle | None = None
    _write_clock: asyncio.TimerHandle | None = None
    _active: Any = None  # the request that is being answered; with several ahead, ``cycle`` is the last of them
    _unread = 0  # bytes since a request was last given to the application

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for headers."""
        super().connection_made(transport)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Parse, and stop the clock where a request's headers are whole."""
        before = self.cycle
        super().data_received(data)
        if self.transport.is_closing():  # refused by the parser, which does not wait for what is unread either
            self._abort_soon()
            return
        wanted = self.cycle is not None and not self.cycle.response_complete and self.cycle.more_body
        if wanted or self.cycle is not before:
            self._unread = 0
            self._stop_clock()
            return
        # A header that is not whole yet, a body after its answer, or requests ahead of their turn.
        self._unread += len(data)
        refused = self.cycle is not None and self.cycle.response_complete and self.cycle.more_body
        if self._unread > (self.limits.body_bytes if refused else self.limits.header_bytes):
            self.transport.abort()
        elif self.cycle is None or self.cycle.response_complete:
            self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._stop_clock()
        for cycle in (self._active, *(ahead for ahead, _ in getattr(self, "pipeline", ()))):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the client a time to read what is written."""
        super().pause_writing()
        if self._write_clock is None:
            self._write_clock = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the clock: the client has read on."""
        if self._write_clock is not None:
            self._write_clock.cancel()
            self._write_clock = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Let a connection that is to be closed not wait for ever for its last bytes to be read."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_soon()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; what its client has not read by now it will not."""
        self.transport.abort()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:  # noqa: ANN401 - uvicorn's own, of two protocols
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _abort_soon(self) -> None:
        self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
