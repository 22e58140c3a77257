"""What every benchmark shares: the conditions it runs under, the challenge file, a place for its figures."""

import json
import os
import shlex
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hemalens.core.provenance import provenance
from hemalens.inference.sidecar import find_onnx

RESULTS = Path(__file__).parent / "results"
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
BUILD = Path(__file__).parents[1] / "build" / "bench"


def real_data() -> Path:
    """Return the folder of real cells, or end the benchmark by name where it is not at hand."""
    folder = os.environ.get("HEMALENS_DATA", "")
    if not folder or not Path(folder).is_dir():
        print(f"skipped: {Path(sys.argv[0]).name} needs the real cells; set HEMALENS_DATA")
        sys.exit(0)
    return Path(folder).resolve()


def challenge(*, validation: bool = False) -> Path:
    """Return the challenge file (13,759 rows of 96 px, 1,800 planted) or its validation file, built once."""
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / ("val_set.npz" if validation else "training_set.npz")
    if not path.exists():
        words = ["--val"] if validation else []
        subprocess.run([sys.executable, str(real_data() / "make_challenge.py"), *words, str(path)], check=True)
    return path


def trained_runs() -> list[Path]:
    """Return the runs that ``bench_run.py`` left, or end the benchmark by name where there are none."""
    found = sorted(path for path in BUILD.glob("run-*") if (path / "train" / "model.safetensors").is_file())
    if not found:
        print(f"skipped: {Path(sys.argv[0]).name} needs trained runs; run bench_run.py first, or name some")
        sys.exit(0)
    return found


def embedded_model() -> Path:
    """Return the file of the embedded model."""
    return find_onnx("embedded")


def record(name: str, figures: Mapping[str, Any], *, folder: Path = RESULTS, **conditions: object) -> Path:
    """Print a benchmark's figures with their conditions, keep them in ``NAME.json`` of a folder, and return its path.

    Figures of code that no commit holds cannot be measured again: they go to ``build/bench/dirty``, never among the
    results.
    """
    tree = tree_state()
    if tree["commit"] != START["tree"]["commit"] or START["tree"]["dirty"]:
        tree = tree | {"dirty": True, "changed": START["tree"]["changed"] or tree["changed"] or ["the commit itself"]}
    facts = provenance(name, seed=None, inputs={}, options=conditions)
    kept = {
        "name": name,
        "script": Path(sys.argv[0]).name,
        "command": START["command"],
        "environment": START["environment"],
        "time": facts["time"],
        **tree,
        "hardware": facts["hardware"] | {"cores": START["cores"], "cores_of_machine": os.cpu_count()},
        "load_at_start": START["load"],
        "libraries": facts["libraries"],
        "conditions": conditions,
    }
    text = json.dumps(kept | dict(figures), indent=2)
    print(text)
    if tree["dirty"] and folder == RESULTS:
        folder = BUILD / "dirty"
        changed = ", ".join(tree["changed"])
        print(
            f"no result: uncommitted changes ({changed}); kept in {folder}; commit, then run it again", file=sys.stderr
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def peer_python(name: str, *packages: str) -> Path:
    """Return the Python of an environment under ``build`` that holds peers' packages and none of ours, made once."""
    home = BUILD / name
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (home / "ready").touch()
    return python


def tree_state() -> dict[str, Any]:
    """Return commit, dirty flag and changed files of the checkout; results and documents shape no figure."""
    root = Path(__file__).parents[1]
    # Results are left out: else the first benchmark's record would make all that follow it dirty.
    words = ["--", "src", "benchmarks", "*.toml", "requirements.txt", ":(exclude)benchmarks/results"]
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changed = [line[3:] for line in _git(root, "status", "--porcelain", *words).splitlines()]
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": True, "changed": ["no checkout"]}
    return {"commit": commit, "dirty": bool(changed), "changed": changed}


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def command_as_typed() -> str:
    """Return the command line of this process, quoted for a shell."""
    return shlex.join(sys.orig_argv)


def conditions_now() -> dict[str, Any]:
    """Return the command, the variables that set threads, the cores this process may use, the load and the tree."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "command": command_as_typed(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "cores": len(cores),
        "load": [round(one, 2) for one in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "tree": tree_state(),
    }


START = conditions_now()
"""What held when the benchmark began: its own work raises the load, and the tree may change while it runs."""

if START["tree"]["dirty"] and Path(sys.argv[0]).name.startswith("bench_"):
    print(f"uncommitted changes: the figures will go to {BUILD / 'dirty'}, not to the results", file=sys.stderr)
