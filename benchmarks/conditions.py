"""What every benchmark shares: the conditions it ran under, the challenge file, a place for its figures."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hemalens.core.provenance import provenance
from hemalens.inference.sidecar import find_onnx

RESULTS = Path(__file__).parent / "results"
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


def record(name: str, figures: Mapping[str, Any], *, folder: Path = RESULTS, **conditions: object) -> None:
    """Print a benchmark's figures with their conditions and keep them in ``NAME.json`` of a folder."""
    facts = provenance(name, seed=None, inputs={}, options=conditions)
    kept = {key: facts[key] for key in ("time", "commit", "dirty", "hardware", "libraries")}
    text = json.dumps(
        {"command": f"python benchmarks/bench_{name}.py", **kept, "conditions": conditions, **figures}, indent=2
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def peer_python(name: str, *packages: str) -> Path:
    """Return the Python of an environment under ``build`` that holds peers' packages and none of ours, made once."""
    home = BUILD / name
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (home / "ready").touch()
    return python
