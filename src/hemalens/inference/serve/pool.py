"""Images of many requests to batches, and batches to worker processes: a queue with an end, nobody waits for ever.

A process that dies or does not come back is replaced; what it was given is tried once more, one by one, and what ends
its process again is answered with an error. Needs the standard library only.
"""

import asyncio
import logging
import multiprocessing
import pickle
import signal
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from hemalens.core.errors import ConfigError, RequestError
from hemalens.data.reading.parallel import begin_worker
from hemalens.inference.serve.limits import Limits
from hemalens.inference.serve.metrics import Metrics
from hemalens.inference.serve.work import Answer, ImageTask, Task, Work, unreadable_row

__all__ = ["Pool"]

_READY = b"ready"
_START_SECONDS = 120.0  # for a process to import and open the model, on a busy machine
_STARTS = 3
_PAUSE_SECONDS = 5.0
_SIZE_BYTES, _BUFFER = 8, 1 << 20
_LOGGER = logging.getLogger(__name__)


class _LostError(Exception):
    """A worker process died or was ended."""


class _Waiting:
    """A task in the queue and the place where its answer is awaited."""

    __slots__ = ("answer", "cost", "task")

    def __init__(self, task: Task, answer: "asyncio.Future[Answer]") -> None:
        self.task, self.answer, self.cost = task, answer, task.cost


class _Process:
    """One worker process behind a socket that the event loop itself reads: no thread stands between."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")  # forks of a process with threads may hang
        self._ours, theirs = socket.socketpair()
        self._process = context.Process(target=_main, args=(theirs, work), daemon=True)
        with theirs:  # closed here, so that our end tells when the process is gone
            self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def start(self) -> None:
        """Wait until the model is open."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                self._answers, self._tasks = await asyncio.open_connection(sock=self._ours, limit=_BUFFER)
                ready = await self._receive()
        except TimeoutError as error:
            raise _LostError from error
        if ready != _READY:
            raise _LostError

    async def ask(self, tasks: Sequence[Task]) -> list[Answer]:
        try:
            self._tasks.writelines(_framed(tasks))
            await self._tasks.drain()
        except OSError as error:
            raise _LostError from error
        answers: list[Answer] = await self._receive()
        return answers

    async def _receive(self) -> Any:  # noqa: ANN401 - whatever was sent
        try:
            size = int.from_bytes(await self._answers.readexactly(_SIZE_BYTES))
            return pickle.loads(await self._answers.readexactly(size))  # noqa: S301 - of a process of our own
        except (EOFError, OSError) as error:
            raise _LostError from error

    def end(self) -> None:
        """Kill the process; an ``ask`` under way then raises _LostError."""
        self._process.kill()

    def close(self) -> None:
        """End the process and wait until it is gone; may be called from another thread."""
        self.end()
        self._process.join()
        self._process.close()

    def hang_up(self) -> None:
        """Let go of the socket; called in the event loop."""
        if hasattr(self, "_tasks"):
            self._tasks.close()
        else:
            self._ours.close()


def _framed(value: object) -> tuple[bytes, bytes]:
    """Return a value as it goes through the socket: the number of its bytes, and these."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(_SIZE_BYTES), data


def _main(theirs: socket.socket, work: Work) -> None:
    """Answer batches until the server goes; run in the worker process."""
    begin_worker()  # Ctrl-C reaches all of a terminal: the server drains first
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    work.open()
    with suppress(OSError), theirs, theirs.makefile("rb", buffering=_BUFFER) as tasks:
        theirs.sendall(b"".join(_framed(_READY)))
        while size := int.from_bytes(tasks.read(_SIZE_BYTES)):
            if len(data := tasks.read(size)) < size:  # the server is gone
                return
            batch = pickle.loads(data)  # noqa: S301 - of the server itself
            theirs.sendall(b"".join(_framed(work(batch))))


class Pool:
    """Worker processes behind one queue."""

    def __init__(self, work: Work, *, workers: int, limits: Limits, metrics: Metrics) -> None:
        self._work, self._count, self._limits, self._metrics = work, workers, limits, metrics
        self._queue: deque[_Waiting] = deque()
        self._filled = asyncio.Event()
        self._arriving = 0
        self._processes: dict[int, _Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        metrics.watch_queue(lambda: len(self._queue))

    @property
    def ready(self) -> bool:
        """Tell whether at least one process is up."""
        return bool(self._processes)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        return [process.pid for process in self._processes.values() if process.pid is not None]

    async def start(self) -> None:
        """Start the processes and wait until all have opened the model; raise ConfigError where they cannot."""
        starts = [self._new(place) for place in range(self._count)]
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(result, BaseException):
                await self.close()
                raise result
        self._tasks = [asyncio.create_task(self._serve(place)) for place in range(self._count)]

    async def close(self) -> None:
        """End all processes; what still waits is refused."""
        for task in self._tasks:
            task.cancel()
        for process in self._processes.values():
            process.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._processes.values():
            await asyncio.to_thread(process.close)
            process.hang_up()
        self._processes.clear()
        for waiting in self._queue:
            if not waiting.answer.done():
                waiting.answer.set_exception(_stopped())
        self._queue.clear()

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Tell the batches that a request is being received, for which it may be worth to wait a moment."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def check_room(self) -> None:
        """Raise RequestError (503) where the queue is full."""
        if len(self._queue) >= self._limits.waiting:
            rule = f"is full: {len(self._queue):,} images wait"
            raise RequestError(503, "queue", rule, "ask again in a moment", retry=1)

    async def ask(self, task: Task) -> Answer:
        """Return the answer to a task; raise RequestError (503) where the queue is full or the server stops."""
        self.check_room()
        waiting = _Waiting(task, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._filled.set()
        return await waiting.answer

    async def _serve(self, place: int) -> None:
        """Give one process batch after batch."""
        while True:
            batch = await self._collect()
            try:
                await self._run(place, batch)
            except _LostError:
                await self._replace(place)
                for one in batch:
                    await self._alone(place, one)
            finally:
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(_stopped())

    async def _alone(self, place: int, one: _Waiting) -> None:
        """Try a task of a batch that ended its process again, by itself."""
        if one.answer.done():
            return
        try:
            await self._run(place, [one])
        except _LostError:
            await self._replace(place)
            if not one.answer.done():
                one.answer.set_result(_killer(one.task))

    async def _collect(self) -> list[_Waiting]:
        """Wait for tasks and return a batch of them: as many as wait, or one that is large."""
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            if self._arriving and len(self._queue) < self._limits.batch:
                await asyncio.sleep(self._limits.window)
            batch: list[_Waiting] = []
            cost = 0
            while self._queue and len(batch) < self._limits.batch:
                if batch and cost + self._queue[0].cost > self._limits.batch_cost:
                    break
                one = self._queue.popleft()
                if not one.answer.done():  # its request may have ended meanwhile
                    batch.append(one)
                    cost += one.cost
            if batch:
                return batch

    async def _run(self, place: int, batch: list[_Waiting]) -> None:
        """Have a process answer a batch; raise _LostError where it dies or takes too long."""
        process = self._processes[place]
        try:
            async with asyncio.timeout(self._limits.batch_seconds):
                answers = await process.ask([one.task for one in batch])
        except TimeoutError as error:
            raise _LostError from error
        self._metrics.batch.observe(len(batch))
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)

    async def _replace(self, place: int) -> None:
        self._metrics.replaced.inc()
        dead = self._processes.pop(place)
        await asyncio.to_thread(dead.close)
        dead.hang_up()
        while place not in self._processes:
            try:
                await self._new(place)
            except ConfigError as error:  # the machine may have memory again later; the other processes go on
                _LOGGER.warning("%s", error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _new(self, place: int) -> None:
        """Start a process and wait until it is up, with as many tries as it takes to be sure that it never will."""
        for _ in range(_STARTS):
            process = await asyncio.to_thread(_Process, self._work)
            try:
                await process.start()
            except _LostError:
                await asyncio.to_thread(process.close)
                process.hang_up()
            else:
                self._processes[place] = process
                return
        rule = "cannot start (a script that starts them must be a file, and do so below if __name__ == '__main__')"
        raise ConfigError("worker processes", rule, "mend the script; is there memory for another process?")


def _killer(task: Task) -> Answer:
    """Return the answer to a task that ended its process twice."""
    rule, step = "ends the process that opens it, or keeps it too long", "save it anew with another program"
    if isinstance(task, ImageTask):
        error = RequestError(422, f"image {task.upload.name!r}", rule, step)
        return Answer(422, unreadable_row(task.upload.name, error), "unreadable", error)
    return Answer(422, error=RequestError(422, "request", rule, step))


def _stopped() -> RequestError:
    return RequestError(503, "server", "is stopping", "ask again when it is up", retry=5)
