"""A request's body to files in memory, within limits of size, number and time; nothing is written to disk.

Needs python-multipart and Starlette.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from hemalens.core.errors import RequestError
from hemalens.data.sources.entries import escape, number_repeats
from hemalens.deployment.web.limits import Limits
from hemalens.deployment.web.work import Upload

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # not there at run time

__all__ = ["Budget", "Held", "read_body", "read_uploads"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_LONGEST_NAME = 255
_LONGEST_NUMBER = 19  # digits
_MULTIPART = "multipart/form-data"
_RAW = ("application/octet-stream", "application/zip", "application/x-zip-compressed")
_TYPES = "send multipart/form-data with one or more files, or one picture as image/jpeg, image/png, ..."


class Budget:
    """Bytes that all requests under way may hold together."""

    def __init__(self, total: int) -> None:
        self.total, self.held = total, 0


class Held:
    """What one request holds of the budget; given back at its end."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._bytes = budget, 0

    def take(self, number: int) -> None:
        """Add bytes; raise RequestError (503) where too many requests hold too much already."""
        if self._budget.held + number > self._budget.total:
            rule = f"holds {self._budget.held:,} bytes of requests, the limit is {self._budget.total:,}"
            raise RequestError(503, "server", rule, "ask again in a moment", retry=2)
        self._bytes += number
        self._budget.held += number

    def __enter__(self) -> Self:
        """Begin with nothing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give everything back."""
        self._budget.held -= self._bytes
        self._bytes = 0


async def read_uploads(headers: Mapping[str, str], receive: Receive, limits: Limits, held: Held) -> list[Upload]:
    """Return the files of a request: those of a multipart form, or the body itself.

    Raises:
        RequestError: too large (413), of no type that is taken (415), malformed (400), too slow (408), or there is no
            room for it now (503).
        ClientDisconnect: the client went away.
    """
    kind, options = parse_options_header(headers.get("content-type"))
    media = kind.decode("latin-1").lower()
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        rule = "is not taken: files are sent as they are"
        raise RequestError(415, f"content-encoding {headers['content-encoding']!r:.60}", rule, "leave it out")
    chunks = read_body(headers, receive, limits, held, most=limits.body_bytes)
    if media == _MULTIPART:
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise RequestError(400, "content-type multipart/form-data", "lacks its boundary", "let the client set it")
        return await _read_form(boundary, chunks, limits)
    if media and media not in _RAW and not media.startswith("image/"):
        raise RequestError(415, f"content-type {media!r:.80}", "is none that is taken", _TYPES)
    body = b"".join([chunk async for chunk in chunks])
    if not body:
        raise RequestError(400, "body", "is empty", _TYPES)
    return [Upload("picture", body)]


async def read_body(
    headers: Mapping[str, str], receive: Receive, limits: Limits, held: Held, *, most: int
) -> AsyncIterator[bytes]:
    """Yield a body as it arrives; raise as ``read_uploads`` does."""
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdigit():
        digits = announced.lstrip("0")[
            :_LONGEST_NUMBER
        ]  # Python refuses to read thousands, and more is too large anyway
        if int(digits or 0) > most:
            raise _too_large(int(digits), most)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    received, more = 0, True
    while more:
        allowed = min(limits.body_seconds + received / limits.body_rate, limits.longest_body_seconds)
        try:
            async with asyncio.timeout_at(begin + allowed):
                message = await receive()
        except TimeoutError as error:
            rule = f"came too slowly: {received:,} bytes in {loop.time() - begin:.0f} s"
            raise RequestError(408, "body", rule, "send less at a time, or over a faster line") from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        received += len(chunk)
        if received > most:
            raise _too_large(received, most)
        held.take(len(chunk))
        if chunk:
            yield chunk


async def _read_form(boundary: bytes, chunks: AsyncIterator[bytes], limits: Limits) -> list[Upload]:
    form = _Form(limits.pictures)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise RequestError(400, "multipart body", f"is malformed ({error})"[:200], "let the client build it") from error
    if not form.complete:
        raise RequestError(400, "multipart body", "ends before its last boundary", "let the client build it")
    if not form.parts:
        raise RequestError(400, "multipart body", "holds no file", "add one or more: -F files=@cell.jpg")
    names, _ = number_repeats([name for name, _ in form.parts])
    return [Upload(name, bytes(data)) for name, (_, data) in zip(names, form.parts, strict=True)]


class _Form:
    """Collects the files of a form as the parser meets them.

    Attributes:
        parts: name and bytes of each.
        complete: True once the last boundary was seen.
    """

    def __init__(self, most: int) -> None:
        self.parts: list[tuple[str, bytearray]] = []
        self.complete = False
        self._most = most
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> "MultipartCallbacks":
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": lambda data, start, end: self.parts[-1][1].extend(data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._most:
            rule = f"holds more than {self._most:,} files"
            raise RequestError(413, "multipart body", rule, "send them in several requests, or in a zip")
        self._headers = {}

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        raw = options.get(b"filename")
        if raw is None:
            field = options.get(b"name", b"").decode("utf-8", "replace")
            raise RequestError(
                422,
                f"field {field!r:.80}",
                "is no file",
                "send pictures only, each with a file name: -F files=@cell.jpg",
            )
        self.parts.append((_plain_name(raw, len(self.parts) + 1), bytearray()))

    def _end(self) -> None:
        self.complete = True


def _plain_name(raw: bytes, number: int) -> str:
    """Return a file's name without folders, on one line and not too long; it is only ever shown."""
    text = raw.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return escape(text)[:_LONGEST_NAME] or f"picture-{number}"


def _too_large(size: int, most: int) -> RequestError:
    rule = f"has {size:,} bytes or more, the limit is {most:,}"
    return RequestError(413, "body", rule, "send fewer or smaller files at a time")
