"""Work in a forked child that may be killed: for scripts that fork before anything has started a thread."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["ENVIRONMENT", "ended", "forked", "said_by"]

# A script finds the tests' modules, and whatever the process that starts it finds.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}


def said_by(script: Path, *words: object) -> Any:
    """Run a script and return the JSON that it prints."""
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
