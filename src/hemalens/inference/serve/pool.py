"""Images of many requests to batches, and batches to worker processes: a queue with an end, nobody waits for ever.

A process that dies or does not come back is replaced. What it was given is tried once more, each by itself; what was
alone, and then ends its process, is answered with an error and given to no other. Needs the standard library only.
"""

import asyncio
import io
import logging
import multiprocessing
import pickle
import signal
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from hemalens.core.errors import ConfigError, RequestError
from hemalens.data.reading.parallel import begin_worker
from hemalens.inference.serve.limits import Limits
from hemalens.inference.serve.metrics import Metrics
from hemalens.inference.serve.work import Answer, Task, Work, limit_memory, refuse, too_much

__all__ = ["Pool"]

_READY = b"ready"
_START_SECONDS = 120.0  # for a process to import and open the model, on a busy machine
_STARTS = 3
_LAST_SECONDS = 1.0
_PAUSE_SECONDS = 5.0
_SIZE_BYTES, _BUFFER = 8, 1 << 20
_KILLER = ("ends the process that opens it, or keeps it too long", "save it anew with another program")
_LOGGER = logging.getLogger(__name__)


class _LostError(Exception):
    """A worker process died or was ended; ``late`` where it was ended for keeping its tasks too long."""

    late = False


class _Waiting:
    """A task in the queue, the place where its answer is awaited, and whether it must be alone in its batch."""

    __slots__ = ("alone", "answer", "cost", "task")

    def __init__(self, task: Task, answer: "asyncio.Future[Answer]") -> None:
        self.task, self.answer, self.cost, self.alone = task, answer, task.cost, False


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

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def killed(self) -> bool:
        """Tell whether it was killed outright, as by an outsider or for want of memory, and did not end by itself."""
        return self._process.exitcode == -signal.SIGKILL

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

    def reap(self) -> None:
        """Wait until a process that is lost is gone; may be called from another thread."""
        self._process.join(_LAST_SECONDS)  # it may be ending by itself, which is not to be mistaken for being killed
        self.end()
        self._process.join()

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
    limit_memory(work.limits.worker_bytes)  # here: it holds for the whole process
    with suppress(OSError), theirs, theirs.makefile("rb", buffering=_BUFFER) as tasks:
        for piece in _framed(_READY):
            theirs.sendall(piece)
        while size := int.from_bytes(tasks.read(_SIZE_BYTES)):
            data = bytearray(size)
            if cast("io.BufferedReader", tasks).readinto(data) < size:  # the server is gone
                return
            batch = pickle.loads(data)  # noqa: S301 - of the server itself
            del data  # nothing is kept twice
            for piece in _answered(work, batch):
                theirs.sendall(piece)


def _answered(work: Work, batch: Sequence[Task]) -> tuple[bytes, bytes]:
    """Return the answers as they go through the socket; where even these take too much memory, refusals."""
    try:
        return _framed(work(batch))
    except MemoryError:
        return _framed([refuse(task, too_much()) for task in batch])


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
            await _finish(process)
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
            if not self._processes[place].alive:  # ended by somebody else while it had nothing to do
                self._return(batch)
                await self._replace(place)
                continue
            try:
                await self._run(place, batch)
            except _LostError as lost:
                dead = self._processes[place]
                await asyncio.to_thread(dead.reap)
                self._blame(batch, lost, killed=dead.killed)
                await self._replace(place)
            except asyncio.CancelledError:
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(_stopped())
                raise

    def _blame(self, batch: Sequence[_Waiting], lost: _LostError, *, killed: bool) -> None:
        """Answer what was alone when its process was lost; give back what was not, to be tried by itself."""
        if len(batch) > 1:
            for one in batch:
                one.alone = True
            self._return(batch)
        elif not batch[0].answer.done():
            error = _lost() if killed and not lost.late else RequestError(422, "request", *_KILLER)
            batch[0].answer.set_result(refuse(batch[0].task, error))

    def _return(self, batch: Sequence[_Waiting]) -> None:
        """Put tasks back where they came from."""
        self._queue.extendleft(reversed(batch))
        self._filled.set()

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
                following = self._queue[0]
                if batch and (following.alone or cost + following.cost > self._limits.batch_cost):
                    break
                one = self._queue.popleft()
                if one.answer.done():  # its request may have ended meanwhile
                    continue
                batch.append(one)
                cost += one.cost
                if one.alone:
                    break
            if batch:
                return batch

    async def _run(self, place: int, batch: list[_Waiting]) -> None:
        """Have a process answer a batch; raise _LostError where it dies or takes too long."""
        process = self._processes[place]
        try:
            async with asyncio.timeout(self._limits.batch_seconds):
                answers = await process.ask([one.task for one in batch])
        except TimeoutError as error:
            process.end()
            late = _LostError()
            late.late = True
            raise late from error
        self._metrics.batch.observe(len(batch))
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)

    async def _replace(self, place: int) -> None:
        self._metrics.replaced.inc()
        await _finish(self._processes.pop(place))
        while place not in self._processes:
            try:
                await self._new(place)
            except ConfigError as error:  # the machine may have memory again later; the other processes go on
                _LOGGER.warning("%s", error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _new(self, place: int) -> None:
        """Start a process and wait until it is up, with as many tries as it takes to be sure that it never will."""
        for _ in range(_STARTS):
            starting = asyncio.create_task(asyncio.to_thread(_Process, self._work))
            try:
                process = await asyncio.shield(starting)
                await process.start()
            except _LostError:
                await _finish(process)
            except asyncio.CancelledError:  # the pool closes, and does not know of this process yet
                await _finish(await starting)
                raise
            else:
                self._processes[place] = process
                return
        rule = "cannot start (a script that starts them must be a file, and do so below if __name__ == '__main__')"
        raise ConfigError("worker processes", rule, "mend the script; is there memory for another process?")


async def _finish(process: _Process) -> None:
    """End a process and let go of it, even where this is cancelled meanwhile."""
    try:
        await asyncio.shield(asyncio.to_thread(process.close))
    finally:
        process.hang_up()


def _lost() -> RequestError:
    return RequestError(503, "process", "was ended while it worked on this", "ask again in a moment", retry=2)


def _stopped() -> RequestError:
    return RequestError(503, "server", "is stopping", "ask again when it is up", retry=5)
