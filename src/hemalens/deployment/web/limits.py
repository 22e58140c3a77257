"""What the server takes and how long it waits: every number of it in one place.

Needs the server; no torch.
"""

from dataclasses import dataclass

from hemalens.core.server import ServerLimits

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(ServerLimits):
    """Limits of the server, beside those of its connections; seconds, bytes and counts.

    Attributes:
        body_seconds: without progress; each ``body_rate`` bytes that arrive buy one second more.
        body_rate: bytes a second a client must reach on the average.
        longest_body_seconds: for any body, however it progresses.
        work_seconds: for all pictures of one request.
        batch_seconds: for one batch in one process, which is ended then.
        body_bytes: of one request.
        infer_bytes: of one tensor request.
        json_bytes: of the JSON of one, which takes up to 15 times as much memory.
        held_bytes: of all requests under way.
        unpacked_bytes: of all members of a zip.
        pictures: in one request, zips unpacked.
        pixels: of one picture, checked before it is decoded; less by what a pixel of its kind costs (headers: weight).
        waiting: pictures that wait for a process before further requests are turned away.
        abreast: pictures of one request in the queue at a time, so that a large request does not hold up the others.
        batch: pictures in one batch.
        batch_cost: pixels in one batch of several pictures.
        window: seconds that a batch waits for pictures of requests that are arriving.
        members: in a zip, counted before its directory is read.
        worker_bytes: of address space that a worker may take above what it has when it is ready.
    """

    body_seconds: float = 10.0
    body_rate: int = 32 << 10
    longest_body_seconds: float = 120.0
    work_seconds: float = 30.0
    batch_seconds: float = 20.0
    body_bytes: int = 64 << 20
    infer_bytes: int = 16 << 20
    json_bytes: int = 8 << 20
    held_bytes: int = 512 << 20
    unpacked_bytes: int = 64 << 20
    pictures: int = 512
    pixels: int = 16_000_000
    waiting: int = 1024
    abreast: int = 32
    batch: int = 16
    batch_cost: int = 8_000_000
    window: float = 0.002
    members: int = 4096
    worker_bytes: int = 448 << 20
