"""Predictions from a folder of JPEGs against what Pillow alone needs to decode it, and memory against their number.

The folder holds copies of rendered cells of 216 px (the size of real single-cell images) as JPEG, under names of
their own. Rate: images a second of `predict` with as many decoding processes as there are cores, against a loop of
Image.open + convert on one core, and in as many processes; in turn, the median of rounds. Beside it the processor time
an image of both in one process, which a busy machine changes least.
Memory: the peak of resident memory of the process that predicts, for 1,000 to 100,000 images (hard links of the
1,000).

    python benchmarks/bench_predict.py MODEL.onnx
    python benchmarks/bench_predict.py MODEL.onnx --memory 1000 10000 100000
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conditions import BUILD, embedded_model, record
from hemalens.data.reading.parallel import available_cores
from hemalens.data.synthetic import synthetic_set
from hemalens.inference.predict import predict

SIDE, FILES = 216, 1000


def make_folder(count: int) -> Path:
    """Return a folder of ``count`` JPEGs: 64 rendered cells, written 1,000 times, then linked."""
    folder = BUILD / "jpegs" / str(count)
    if folder.is_dir() and sum(1 for _ in folder.iterdir()) == count:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    if count <= FILES:
        cells = synthetic_set(8, size=SIDE, seed=0, contamination=False).images
        for index in range(count):
            Image.fromarray(cells[index % len(cells)]).save(folder / f"{index:06d}.jpg", quality=92)
        return folder
    first = sorted(make_folder(FILES).iterdir())
    for index in range(count):
        target = folder / f"{index:06d}.jpg"
        if not target.exists():
            os.link(first[index % FILES], target)
    return folder


def decode_all(paths: list[str]) -> int:
    """Decode files as Pillow alone does; return the values seen, so that nothing is left out."""
    seen = 0
    for path in paths:
        with Image.open(path) as image:
            seen += np.asarray(image.convert("RGB")).size
    return seen


def decode_rate(folder: Path, processes: int) -> float:
    """Return images a second of decoding alone; starting processes is not counted."""
    paths = [str(path) for path in sorted(folder.iterdir())]
    if processes == 1:
        started = time.perf_counter()
        decode_all(paths)
        return len(paths) / (time.perf_counter() - started)
    shares = [paths[index::processes] for index in range(processes)]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(decode_all, [share[:1] for share in shares]))
        started = time.perf_counter()
        list(pool.map(decode_all, shares))
        return len(paths) / (time.perf_counter() - started)


def predict_once(folder: Path, model: Path, workers: int) -> dict[str, Any]:
    """Predict a folder and return the summary with the peak of memory in MB."""
    with tempfile.TemporaryDirectory() as index:
        predict(make_folder(64), Path(index) / "first.csv", model=model, workers=0)  # starts what starts once
        spent = time.process_time()
        found = predict(folder, Path(index) / "table.csv", model=model, workers=workers)
    found |= {"cpu_ms": 1e3 * (time.process_time() - spent) / found["n_samples"]}
    return found | {"peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}


def in_process(folder: Path, model: Path, workers: int) -> dict[str, Any]:
    code = (
        "import json, sys, bench_predict as b; from pathlib import Path;"
        "print(json.dumps(b.predict_once(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))"
    )
    command = [sys.executable, "-c", code, str(folder), str(model), str(workers)]
    here = Path(__file__).parent
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=here).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", type=Path, nargs="?", help="an .onnx file that hemalens export wrote; the embedded one by default"
    )
    parser.add_argument("--files", type=int, default=4000, help="images for the rate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 10_000, 100_000], help="numbers of images")
    given = parser.parse_args()
    cores = available_cores()
    model = (given.model or embedded_model()).resolve()
    folder = make_folder(given.files)
    rates: dict[str, list[float]] = {"pillow_one_core": [], "pillow_all_cores": [], "predict": []}
    for _ in range(given.rounds):
        rates["pillow_one_core"].append(decode_rate(folder, 1))
        rates["pillow_all_cores"].append(decode_rate(folder, cores))
        # One core: decoding in this process, since a second one would only take turns with it.
        found = in_process(folder, model, cores if cores > 1 else 0)
        rates["predict"].append(found["n_samples"] / found["seconds"])
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    paths = [str(path) for path in sorted(folder.iterdir())]
    spent = time.process_time()
    decode_all(paths)
    cpu = {
        "pillow": 1e3 * (time.process_time() - spent) / len(paths),
        "predict": in_process(folder, model, 0)["cpu_ms"],
    }
    memory = {str(count): in_process(make_folder(count), model, cores if cores > 1 else 0) for count in given.memory}
    kept = ("peak_mb", "seconds")
    record(
        "predict",
        {
            "images_per_second": medians,
            "spread": {name: [round(value, 1) for value in values] for name, values in rates.items()},
            "predict_against_pillow": {
                name: round(medians["predict"] / medians[name], 3) for name in ("pillow_one_core", "pillow_all_cores")
            },
            "processor_ms_a_image_in_one_process": {name: round(value, 3) for name, value in cpu.items()},
            "memory": {count: {name: one[name] for name in kept} for count, one in memory.items()},
        },
        files=given.files,
        rounds=given.rounds,
        cores=cores,
        side=SIDE,
        model=model.name,
    )


if __name__ == "__main__":
    main()
