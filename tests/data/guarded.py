"""An audit under guard: run as a script with SOURCE, OUT and a number of workers, prints what it did as JSON.

Every opening for writing outside OUT, every socket and every strange process is written down; what is left running and
how much memory was taken is measured at the end.
"""

import json
import multiprocessing
import os
import resource
import sys
from pathlib import Path
from typing import Any

from hemalens.data.audit.audit import audit

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = frozenset(
    {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod", "os.utime"}
)
_ASKED = frozenset({"git", "uname", "lscpu"})
"""What is asked for the provenance, and by scikit-learn for the number of cores."""
_SOCKETS = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"})


class Guard:
    """An audit hook: it cannot be taken off, and sees what any library does."""

    def __init__(self, out: Path) -> None:
        # Python's own caches, the null device and, of workers, the semaphores' names are no output.
        self.allowed = (str(out), os.devnull, "/dev/shm", str(Path.home() / ".cache"))
        self.seen: list[str] = []

    def __call__(self, event: str, words: tuple[Any, ...]) -> None:
        if (event == "open" and isinstance(words[2], int) and words[2] & _WRITES) or event in _CHANGES:
            self.note(event, words[0])
        elif event in _SOCKETS or event.startswith(("os.exec", "os.system", "os.fork")):
            self.seen.append(f"{event} {words!r}")
        elif event == "subprocess.Popen" and words[1][0] not in _ASKED:
            self.seen.append(f"{event} {words[1]!r}")

    def note(self, event: str, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike) and not os.fsdecode(path).startswith(self.allowed):
            self.seen.append(f"{event} {path!r}")


def own_peak() -> int:
    """Return the most KiB that this process held; by rusage the kernel counts from its parent's size on."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def main() -> None:
    source, out, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
    guard = Guard(out)
    sys.addaudithook(guard)
    summary = audit(source, out, workers=workers)
    print(
        json.dumps(
            {
                "summary": summary.to_json(),
                "seen": guard.seen,
                "children": len(multiprocessing.active_children()),
                "mib": max(own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
