"""Work in a forked child that may be killed: for scripts that fork before anything has started a thread."""

import os
import signal
from collections.abc import Callable

__all__ = ["ended", "forked"]


def forked(work: Callable[[], object]) -> int:
    """Do the work in a forked child; return its number for ``ended``."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:  # whatever happens, the child must not go on as the parent
            os._exit(code)
    return child


def ended(child: int) -> str:
    """Wait for a child and say how it ended."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    return "done" if status == 0 else f"failed with status {status}"
