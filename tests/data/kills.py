"""Stages that are killed on purpose: run as a script, which forks before polars has started a thread.

Prints one JSON object; every child is ended by SIGKILL or by the end of its work, never by an error.
"""

import io
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hemalens.data.audit.audit as auditing
from hemalens.core.artifacts import is_marker
from hemalens.core.errors import ArtifactError, SourceError
from hemalens.core.provenance import sha256_file
from hemalens.core.recorded import open_record
from hemalens.data.clean import clean
from hemalens.data.sources import open_source
from hemalens.data.split import split
from tests.data.hostile import cell, encode
from tests.forking import ended, forked

# What a stage calls of the system when it writes; a kill falls before one of these.
_CALLS = frozenset({"open", "write", "fsync", "replace", "unlink", "mkdir", "chmod", "close", "flush", "scandir"})
_VOLATILE = frozenset({"time", "argv", "seconds", "outputs"})


def sources(folder: Path) -> None:
    """Write a folder of images, two of them bad, one of them twice; and an array of them."""
    for number in range(10):
        path = folder / "cells" / ("ig" if number % 2 else "platelet") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(cell(8, number % 9))[: None if number != 4 else 60])
    np.savez(folder / "cells.npz", images=np.stack([cell(8, n % 9) for n in range(10)]), labels=np.arange(10) % 2)


def stages(folder: Path, out: Path) -> dict[str, tuple[Path, Callable[[bool], object]]]:
    """Return stage -> (what it writes, how to run it; True to overwrite)."""
    cells, packed = folder / "cells", folder / "cells.npz"
    done = folder / "audited"

    def audited(overwrite: bool) -> object:
        return auditing.audit(cells, out / "audit", workers=0, overwrite=overwrite)

    return {
        "audit": (out / "audit", audited),
        "clean": (out / "clean", lambda again: clean(cells, out / "clean", audit=done, overwrite=again)),
        "clean.npz": (
            out / "clean.npz",
            lambda again: clean(packed, out / "clean.npz", audit=folder / "audited.npz", overwrite=again),
        ),
        "split": (out / "splits.csv", lambda again: split(cells, out / "splits.csv", overwrite=again)),
    }


def prepared(folder: Path) -> None:
    """Write the sources and the audits that clean reads, in a child: the parent must start no thread."""

    def work() -> None:
        sources(folder)
        auditing.audit(folder / "cells", folder / "audited", workers=0)
        auditing.audit(folder / "cells.npz", folder / "audited.npz", workers=0)

    assert ended(forked(work)) == "done"


def counted(work: Callable[[], object], kill: int | None) -> int:
    """Run work; before its ``kill``-th call of the system that writes, pull the plug. Return how many there were."""
    calls = 0

    def watch(_frame: object, event: str, called: Any) -> None:
        nonlocal calls
        if event == "c_call" and called.__name__ in _CALLS:
            home = getattr(called, "__self__", None)
            if isinstance(home, io.IOBase) or getattr(called, "__module__", "") in ("posix", "_io", "io"):
                if calls == kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def contents(out: Path) -> dict[str, Any]:
    """Return what an output holds, but for times: relative name -> SHA-256, or the JSON object."""
    found: dict[str, Any] = {}
    for path in sorted(out.parent.rglob("*")):
        if path.is_file() and not is_marker(path):  # a lock that its process left behind binds nobody
            name = path.relative_to(out.parent).as_posix()
            if name.endswith((".json", "audit.html")):
                value = json.loads(path.read_text()) if name.endswith(".json") else {}
                found[name] = {key: part for key, part in value.items() if key not in _VOLATILE}
            else:
                found[name] = sha256_file(path)
    return found


def accepted(stage: str, out: Path) -> bool:
    """Tell whether a later stage would take an output for whole."""
    if stage == "audit":
        try:
            open_record(out, "audit")
        except ArtifactError:
            return False
        return True
    if stage == "split":
        return out.exists()
    try:
        open_source(out)
    except SourceError:
        return False
    return True


def kills(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill each stage at so many moments, and run it again."""
    prepared(folder)
    auditing.render_audit = lambda view, summary: "<html></html>"  # 0.3 s otherwise, at each of a hundred moments
    moments = random.Random(seed)
    outcome: dict[str, Any] = {"wrong": [], "killed": 0, "calls": {}}
    for stage in stages(folder, folder):
        calls, wanted = whole(folder, stage)
        outcome["calls"][stage] = calls
        for kill in sorted(moments.sample(range(calls), min(count, calls))):
            outcome["wrong"] += killed(folder, stage, kill, wanted)
            outcome["killed"] += 1
    return outcome


def whole(folder: Path, stage: str) -> tuple[int, dict[str, Any]]:
    """Run a stage to its end; return how many calls it made and what it wrote."""
    home = folder / "whole" / stage
    home.mkdir(parents=True)
    target, run = stages(folder, home)[stage]
    reading, writing = os.pipe()
    assert ended(forked(lambda: os.write(writing, str(counted(lambda: run(False), None)).encode()))) == "done"
    return int(os.read(reading, 20)), contents(target)


def killed(folder: Path, stage: str, kill: int, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Kill a stage before a call, look at what it left, run it again; return what was wrong with any of it."""
    home = folder / "killed"
    home.mkdir()
    target, run = stages(folder, home)[stage]
    end = ended(forked(lambda: counted(lambda: run(False), kill)))
    taken, left = accepted_in_a_child(stage, target), contents(target)
    # A single file that a later stage takes must be whole, a directory must hold all its files as well.
    partial = taken and (left[target.name] != wanted[target.name] if target.is_file() else left != wanted)
    # What is there whole may be replaced when asked; anything else is written anew without a word.
    again = ended(forked(lambda: run(taken)))
    found = contents(target)
    shutil.rmtree(home)
    if end == "killed" and not partial and again == "done" and found == wanted:
        return []
    return [
        {"stage": stage, "kill": kill, "end": end, "partial": partial, "again": again, "left": left, "found": found}
    ]


def accepted_in_a_child(stage: str, out: Path) -> bool:
    return ended(forked(lambda: None if accepted(stage, out) else os._exit(3))) == "done"


if __name__ == "__main__":
    print(json.dumps(kills(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
