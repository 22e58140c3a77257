"""A submission's process, started in a sandbox and spoken to by pipes: bytes out, exactly so many bytes back.

It is watched from outside: time, memory of all its processes together, their number, what it prints. POSIX only.
"""

import contextlib
import json
import os
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.deployment.check_process import ANSWER
from hemalens.deployment.sandbox import NAMESPACES, PYTHON, SANDBOXES, Shut, end, held, python_binds

__all__ = ["Place", "Talk", "started"]

_PROCESSES = 512
_SAID_BYTES = 64 << 20
_WATCH_SECONDS = 0.2
_BLOCK = 1 << 20
_SCRIPT = Path(__file__).with_name("check_process.py")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Place:
    """A submission unpacked below a directory of its own, what it may import, and its limits."""

    submission: Path
    home: Path
    packages: dict[str, Path]
    seconds: float
    memory_gb: float

    def refuse(self, rule: str, step: str) -> NoReturn:
        """Raise ArtifactError about the submission."""
        raise ArtifactError(f"submission {self.submission}", rule, step)


@dataclass(slots=True)
class Talk:
    """The parent's side of the pipes; every refusal raises ArtifactError."""

    place: Place
    process: subprocess.Popen[bytes]
    pipes: tuple[int, int, int]
    deadline: float
    doing: str = "starting"
    most_bytes: int = 0
    said_bytes: int = 0
    said: bytes = b""
    _heard: bytearray = field(default_factory=bytearray)
    _watched: float = 0.0

    def exchange(self, size: int, *parts: bytes | memoryview) -> bytes:
        """Send the parts and return the next bytes of what comes back; more of them than that are refused."""
        stdin, stdout, stderr = self.pipes
        unsent: list[memoryview] = [memoryview(part) for part in parts if len(part)]
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            if unsent:
                selector.register(stdin, selectors.EVENT_WRITE)
            while unsent or len(self._heard) < size:
                ended, before = self.process.poll() is not None, len(self._heard)
                ready = {key.fd for key, _ in selector.select(0 if ended else _WATCH_SECONDS)}
                if stdin in ready and not self._send(unsent):
                    selector.unregister(stdin)
                if stderr in ready and not self._listen():
                    selector.unregister(stderr)
                if stdout in ready:
                    self._heard += (block := _read(stdout) or b"")
                    ended = ended or block == b""
                if unsent and self._heard:
                    self.meddles()  # before it has seen the last picture
                if ended and len(self._heard) == before:
                    self._ended()
                if time.monotonic() > self._watched + _WATCH_SECONDS:
                    self.watch()
        answer = bytes(self._heard[:size])
        del self._heard[:size]
        return answer

    def idle(self) -> None:
        """Refuse what nobody asked for, and listen to the last that was printed."""
        self._heard += _read(self.pipes[1]) or b""
        if self._heard:
            self.meddles()
        while self._listen():
            continue

    def meddles(self) -> NoReturn:
        """Refuse what writes answers itself."""
        self.place.refuse(f"writes into the channel of answers while {self.doing}", "return labels, do nothing else")

    def _send(self, unsent: list[memoryview]) -> bool:
        try:
            unsent[0] = unsent[0][os.write(self.pipes[0], unsent[0][:_BLOCK]) :]
        except BrokenPipeError:  # it ended: the other pipe tells how
            unsent.clear()
        if unsent and not unsent[0].nbytes:
            del unsent[0]
        return bool(unsent)

    def _listen(self) -> bool:
        """Count what it prints and keep the end; return whether there was something."""
        block = _read(self.pipes[2])
        self.said_bytes += len(block or b"")
        self.said = (self.said + (block or b""))[-2000:]
        if self.said_bytes > _SAID_BYTES:
            self.place.refuse(f"prints more than {_SAID_BYTES >> 20} MB while {self.doing}", "print less")
        return bool(block)

    def watch(self) -> None:
        """Refuse what goes on for too long, or takes too much for all its processes together."""
        self._watched = time.monotonic()
        if self._watched > self.deadline:
            self._too_slow()
        processes, now, most = held(self.process)
        self.most_bytes = max(self.most_bytes, most)
        if len(processes) > _PROCESSES:
            self.place.refuse(f"starts more than {_PROCESSES} processes while {self.doing}", "start fewer")
        if now > self.place.memory_gb * (1 << 30):
            rule = f"needs more than {self.place.memory_gb:g} GB of memory while {self.doing}"
            self.place.refuse(rule, "predict in smaller batches, or raise --memory-gb")

    def _ended(self) -> NoReturn:
        try:
            code = self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.meddles()  # it closed the pipe and goes on
        while self._listen():
            continue
        code = 128 - code if code < 0 else code  # of a shell and of bubblewrap: 128 and the signal
        if code == 128 + signal.SIGXCPU:
            self._too_slow()
        signals = {128 + one.value: f"by signal {one.name}" for one in signal.Signals}
        rule = f"ends the process {signals.get(code, f'with exit code {code}')} while {self.doing}"
        step = f"the limit of memory is {self.place.memory_gb:g} GB: raise --memory-gb if it was met"
        self.place.refuse(rule, step)

    def _too_slow(self) -> NoReturn:
        rule = f"is too slow: stopped after {self.place.seconds:g} s while {self.doing}"
        self.place.refuse(rule, "make it faster, or raise --seconds")


def _read(descriptor: int) -> bytes | None:
    """Return what is there, nothing at the end, None where nothing is there yet."""
    try:
        return os.read(descriptor, _BLOCK)
    except BlockingIOError:
        return None


@contextlib.contextmanager
def started(place: Place, *, trust: bool) -> Iterator[tuple[Talk, str]]:
    """Start a submission's process in the first sandbox that holds, and end all that it started behind the block.

    Yields the talk with it and the sandbox's name. Where none holds it runs with all rights if ``trust`` says so, else
    ConfigError is raised.
    """
    reasons = []
    for name, shut in [*SANDBOXES.items(), *([("not isolated", None)] if trust else [])]:
        with contextlib.ExitStack() as stack:
            try:
                talk = _start(place, shut)
                stack.callback(_close, talk)
                _, kind, *_, detail = ANSWER.unpack(talk.exchange(ANSWER.size))
            except (ArtifactError, OSError) as error:
                lines = talk.said.decode("utf-8", "replace").split("\n") if isinstance(error, ArtifactError) else []
                reasons.append(f"{name}: {' '.join(lines).strip() or error}")
                continue
            if kind == b".":
                yield talk, name
                return
            reasons.append(f"{name}: leaves open {detail.rstrip(bytes(1)).decode()}")
    rule = f"not isolated, since no sandbox works here ({'; '.join(reasons)})"
    raise ConfigError(f"submission {place.submission}", rule, "install bubblewrap, or --trust it with all your rights")


def _close(talk: Talk) -> None:
    end(talk.process)
    for stream in (talk.process.stdin, talk.process.stdout, talk.process.stderr):
        if stream is not None:
            stream.close()
    if not Path("/proc/self/status").exists():  # a system without it can be trusted with little more
        talk.most_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def _start(place: Place, shut: Shut | None) -> Talk:
    """Start the process; without a sandbox it sees the packages by links."""
    limits = {"AS": int(place.memory_gb * (1 << 30)), "CPU": int(place.seconds * (os.cpu_count() or 1)) + 5}
    limits |= {"FSIZE": 1 << 30, "CORE": 0, "NOFILE": 4096}
    facts: dict[str, Any] = {"limits": limits, "namespaces": {}}
    if shut is None:
        root, scratch, script = str(place.home), str(place.home / "scratch"), str(_SCRIPT)
        (place.home / "packages").mkdir()
        for name, path in place.packages.items():
            (place.home / "packages" / name).symlink_to(path)
    else:
        root, scratch, script = "", "/tmp", "/check_process.py"  # noqa: S108  # inside
        binds = python_binds() | {"/submission": place.home / "submission", script: _SCRIPT}
        binds |= {f"/packages/{name}": path for name, path in place.packages.items()}
        facts["namespaces"] = {kind: str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in NAMESPACES}
        facts["roots"] = sorted({path.split("/")[1] for path in binds} | {"proc", "dev", "tmp", ".old", "setpriv"})
        limits["NPROC"] = 4 * _PROCESSES  # of threads; before Linux 5.14 it counts those outside too
    facts |= {"submission": f"{root}/submission", "packages": f"{root}/packages"}
    words = [PYTHON, "-I", "-S", "-B", "-u", script, json.dumps(facts)]
    environment = {"PATH": os.defpath, "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8", "USER": "submission"}
    environment |= {"PYTHONPATH": facts["packages"]}  # for what it starts itself
    environment |= {name: os.environ[name] for name in _THREADS if name in os.environ}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        words if shut is None else shut(binds, words),
        cwd=place.home / "elsewhere",
        env=environment,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        bufsize=0,
        start_new_session=True,
    )
    stdin, stdout, stderr = (one.fileno() for one in (process.stdin, process.stdout, process.stderr) if one)
    for descriptor in (stdin, stdout, stderr):
        os.set_blocking(descriptor, False)
    return Talk(place, process, (stdin, stdout, stderr), time.monotonic() + place.seconds)
