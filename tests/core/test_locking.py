"""One process writes an output at a time, and a killed one leaves nothing in the way."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hemalens.core.artifacts import is_complete, output_directory, output_file, read_provenance
from hemalens.core.errors import ArtifactError
from hemalens.core.locking import LOCK, locked

HOLD = """
import sys
from pathlib import Path
from hemalens.core.artifacts import output_directory, output_file
guard = output_directory if sys.argv[1] == "directory" else output_file
with guard(Path(sys.argv[2]), "audit") as out:
    (out / "a.txt" if sys.argv[1] == "directory" else out).write_text("x")
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(kind: str, out: Path) -> subprocess.Popen[str]:
    """Start a process that writes an output until its input ends."""
    words = [sys.executable, "-c", HOLD, kind, str(out)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path, kind: str) -> None:
    guard, out = (output_directory if kind == "directory" else output_file), tmp_path / "out"
    first = hold(kind, out)
    try:
        words = rf"is being written by process {first.pid} \(hemalens audit, since 20\S+\); wait until it has ended"
        for more in ({}, {"overwrite": True}):
            told = words if more or kind == "directory" else "exists and was not written to its end"
            with pytest.raises(ArtifactError, match=told), guard(out, "audit", **more):
                pass
    finally:
        first.communicate("")
    assert first.returncode == 0
    assert read_provenance(out) is not None
    assert is_complete(out, options={}, inputs={})
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(LOCK)]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_killed_writer_is_in_nobodys_way(tmp_path: Path, kind: str) -> None:
    guard, out = (output_directory if kind == "directory" else output_file), tmp_path / "out"
    first = hold(kind, out)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert [path for path in tmp_path.rglob("*") if path.name.endswith(LOCK)]
    assert not is_complete(out, options={}, inputs={})
    with guard(out, "audit", **({} if kind == "directory" else {"overwrite": True})) as again:
        (again / "b.txt" if kind == "directory" else again).write_text("y")
    record = read_provenance(out)
    assert record is not None
    assert set(record["outputs"]) == ({"a.txt", "b.txt"} if kind == "directory" else {"out"})
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(LOCK)]


def test_a_directory_with_a_left_lock_alone_is_vacant(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("")
    with output_directory(tmp_path, "audit") as out:
        (out / "a").write_text("x")
    assert set((read_provenance(tmp_path) or {})["outputs"]) == {"a"}


def test_of_many_threads_one_holds_it(tmp_path: Path) -> None:
    held, most, refused = [], [], []
    ready = threading.Barrier(8)

    def work() -> None:
        ready.wait()
        for _ in range(50):
            try:
                with locked(tmp_path, "audit"):
                    held.append(1)
                    most.append(len(held))
                    held.pop()
            except ArtifactError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(refused) == 400
    assert not (tmp_path / LOCK).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_outlives_its_parent_does_not_hold_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom hemalens.core.locking import locked\n"
        "with locked(Path(sys.argv[1]), 'audit'):\n"
        "    child = os.fork()\n    if child == 0:\n        os.close(1)\n        time.sleep(60)\n        os._exit(0)\n"
        "    print(child, flush=True)\n    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=False, stdout=subprocess.PIPE)
    child = int(done.stdout)
    try:
        with locked(tmp_path, "audit"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_that_says_nothing_readable_is_somebodys(tmp_path: Path) -> None:
    with locked(tmp_path, "audit"):
        (tmp_path / LOCK).write_text("[" * 100_000)
        with pytest.raises(ArtifactError, match="is being written by another process"), locked(tmp_path, "audit"):
            pass
