"""Processes that are killed on purpose: run as a script, which forks before torch has started a thread.

Prints one JSON object; every child is ended by SIGKILL or by the end of its work, never by an error.
"""

import contextlib
import io
import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hemalens.core.provenance import sha256_file
from hemalens.training import checkpoint
from hemalens.training import train as stage
from hemalens.training.loop import perturb
from tests.forking import ended, forked

torch.set_num_threads(1)


def pull_the_plug() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def warnings_of(logger: logging.Logger) -> Iterator[list[str]]:
    """Collect what a logger says inside."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


# Saving


def state_of(epoch: int, size: int = 100_000) -> dict[str, torch.Tensor]:
    """Return tensors that tell which epoch they are of, all over."""
    return {"module.weight": torch.full((size,), float(epoch)), "optimizer.0.momentum": torch.full((size,), -epoch)}


def found_in(folder: Path) -> tuple[int, list[str]]:
    """Return the epoch of the newest checkpoint, 0 for none and -1 for one of mixed content, and the warnings."""
    with warnings_of(logging.getLogger("hemalens.training.checkpoint")) as said:
        found = checkpoint.latest_checkpoint(folder)
    if found is None:
        return 0, said
    epoch = found[1]["epoch"]
    wanted = state_of(epoch)
    whole = found[0].keys() == wanted.keys() and all(torch.equal(found[0][name], wanted[name]) for name in wanted)
    return (epoch if whole else -1), said


def kills_while_saving(folder: Path, count: int) -> dict[str, Any]:
    """Kill a writer of checkpoints ``count`` times, a seeded while after a save; the next goes on after it."""
    moments = random.Random(0)
    outcome: dict[str, Any] = {"wrong": [], "warnings": [], "most_left": 0, "ends": {}}
    for number in range(count):
        begun, _ = found_in(folder)
        reading, writing = os.pipe()

        def write(begun: int = begun, writing: int = writing) -> None:
            os.write(writing, begun.to_bytes(8, "little"))
            for epoch in range(begun + 1, begun + 1_000_000):
                checkpoint.save_checkpoint(folder, state_of(epoch), {"epoch": epoch}, epoch=epoch)
                os.write(writing, epoch.to_bytes(8, "little"))

        child = forked(write)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read(8 * moments.randrange(1, 4))  # waits for so many words, however busy the machine is
            time.sleep(moments.uniform(0.0, 0.01))
            os.kill(child, signal.SIGKILL)
            end = ended(child)
            told += pipe.read()
        last = int.from_bytes(told[-8:], "little")
        found, warnings = found_in(folder)
        outcome["ends"][end] = outcome["ends"].get(end, 0) + 1
        outcome["warnings"] += warnings
        outcome["most_left"] = max(outcome["most_left"], len(list(folder.glob(".*"))))
        # Between the rename and the word through the pipe the file is there and nobody has been told.
        if found not in (last, last + 1):
            outcome["wrong"].append({"kill": number, "told": last, "found": found})
    checkpoint.save_checkpoint(folder, state_of(10**6), {"epoch": 10**6}, epoch=10**6)
    return outcome | {"files_after": len(list(folder.iterdir()))}


def kills_at_every_call(folder: Path) -> dict[str, Any]:
    """Kill a writer before its first, second, ... call of the system inside one save, until a save gets through."""
    outcome: dict[str, Any] = {"wrong": [], "warnings": [], "kills": 0, "most_left": 0}
    for epoch in (1, 2, 3):
        checkpoint.save_checkpoint(folder, state_of(epoch, 10), {"epoch": epoch}, epoch=epoch)
    while True:
        moment = outcome["kills"]

        def write(moment: int = moment) -> None:
            left = moment

            def watch(_frame: object, event: str, called: object) -> None:
                nonlocal left
                reached = getattr(called, "__module__", "") == "posix"
                if event == "c_call" and (reached or isinstance(getattr(called, "__self__", None), io.IOBase)):
                    left -= 1
                    if left < 0:
                        pull_the_plug()

            tensors = state_of(4, 10)
            sys.setprofile(watch)
            checkpoint.save_checkpoint(folder, tensors, {"epoch": 4}, epoch=4)
            sys.setprofile(None)

        end = ended(forked(write))
        with warnings_of(logging.getLogger("hemalens.training.checkpoint")) as said:
            found = checkpoint.latest_checkpoint(folder)
        epoch = None if found is None else found[1]["epoch"]
        outcome["warnings"] += said
        outcome["most_left"] = max(outcome["most_left"], len(list(folder.glob(".*"))))
        if end == "done":
            return outcome | {"files_after": len(list(folder.iterdir())), "last": epoch}
        outcome["kills"] += 1
        if end != "killed" or epoch not in (3, 4):
            outcome["wrong"].append({"kill": moment, "end": end, "found": epoch})


# Training


def train(source: Path, run: Path, settings: list[str], *, workers: int, kill: int | None) -> None:
    """Train or go on; with ``kill`` pull the plug when progress is told for the so-manieth time."""
    told = 0

    def progress(_what: str, _done: int, _total: int) -> None:
        nonlocal told
        if told == kill:
            pull_the_plug()
        told += 1
        (run.parent / f"{run.name}.told").write_text(str(told))

    if workers:
        load = stage.load_images
        stage.load_images = lambda *words, **options: load(*words, workers=workers, **options)
    stage.train(source, run, settings=settings, resume=True, progress=progress)


def kills_while_training(folder: Path, settings: list[str], workers: int, kills: list[int]) -> dict[str, Any]:
    """Train once whole; then once for every moment (all where none is named), killed and resumed with workers."""
    source = folder / "cells.npz"
    # What every run would do anew in its first second; on one thread, so that forking stays safe.
    torch.use_deterministic_algorithms(True, warn_only=True)
    perturb(torch.zeros((1, 16, 16, 3), dtype=torch.uint8))

    def attempt(run: Path, kill: int | None, workers: int = 0) -> str:
        return ended(forked(lambda: train(source, run, settings, workers=workers, kill=kill)))

    whole = folder / "whole"
    ends = {"whole": attempt(whole, None)}
    moments = int((folder / "whole.told").read_text())
    wanted = result(whole)
    wrong = []
    for kill in kills or range(moments):
        run = folder / f"killed-{kill}"
        ends[f"{kill}"] = f"{attempt(run, kill)}, {attempt(run, None, workers)}"
        if result(run) != wanted:
            wrong.append({"kill": kill, "wanted": wanted, "found": result(run)})
    return {"moments": moments, "ends": ends, "wrong": wrong, "best_epoch": wanted.get("best_epoch")}


def result(run: Path) -> dict[str, Any]:
    """Return what must be the same: the hash of the weights, the history but for seconds, the best epoch."""
    if not (run / "provenance.json").is_file():
        return {}
    history = (run / "history.csv").read_text().splitlines()
    seconds = history[0].split(",").index("seconds")
    rows = [[cell for place, cell in enumerate(row.split(",")) if place != seconds] for row in history]
    names = ("model.safetensors", "validation.safetensors")
    best = json.loads((run / "model.json").read_text())["best_epoch"]
    return {"history": rows, "best_epoch": best, **{name: sha256_file(run / name) for name in names}}


def write_source(folder: Path) -> None:
    """Write 42 pictures of three classes, colours under noise, as ``cells.npz`` with splits of its own."""
    colours = np.array([[190, 90, 90], [90, 190, 90], [90, 90, 190]])
    labels = np.repeat(np.arange(3), 14)
    noise = np.random.default_rng(0).integers(-60, 61, (len(labels), 16, 16, 3))
    images = (colours[labels][:, None, None] + noise).astype(np.uint8)
    splits = np.array(["val" if row % 7 == 0 else "train" for row in range(len(labels))])
    np.savez(folder / "cells.npz", images=images, labels=labels, splits=splits)


def main() -> None:
    """Do what the command line names and print its outcome."""
    work, folder, words = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if work == "saving":
        outcome = kills_while_saving(folder, int(words[0]))
    elif work == "calls":
        outcome = kills_at_every_call(folder)
    else:
        write_source(folder)
        outcome = kills_while_training(folder, json.loads(words[0]), int(words[1]), json.loads(words[2]))
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
