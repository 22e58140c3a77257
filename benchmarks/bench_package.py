"""The competition's zip of a run of `compact`: its labels against torch's, its speed with numpy alone, its size.

Packs the run that `bench_run.py` leaves (or any other, `--run RUN`) and predicts the validation file (1,712 images of
96 px) in processes that numpy may give 1 thread and 2 threads, in turn. Rates are given by the clock and by processor
time, which other work on the machine changes least. Labels are compared with those of torch in evaluation mode, over
the whole file, clean and distorted as in `evaluate`. The zip is checked once more by `hemalens package --check`,
which says how much memory it takes.

    python benchmarks/bench_package.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from conditions import BUILD, RESULTS, challenge, real_data, record
from hemalens.data.reading.resize import resize
from hemalens.export.submission.check import check
from hemalens.export.submission.package import package
from hemalens.training.checkpoint import load_model
from hemalens.training.predicting import distort, predict_logits

THREADS = (1, 2)
ROUNDS = 5
CHILD = """
import json, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from model import Model
X = np.load(sys.argv[2])
model = Model()
model.predict(X[:64])
wall, work = time.perf_counter(), time.process_time()
labels = model.predict(X)
wall, work = time.perf_counter() - wall, time.process_time() - work
print(json.dumps({"wall": len(X) / wall, "work": len(X) / work, "labels": labels.tolist()}))
"""


def predicted(folder: Path, images: Path, threads: int) -> dict[str, list[int] | float]:
    """Return rates and labels of one process."""
    environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
    words = [sys.executable, "-c", CHILD, str(folder), str(images)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, cwd="/")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=BUILD / "run-0", help="a RUN")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    real_data()
    validation, out = challenge(validation=True), BUILD / "package"
    packed = package([given.run], out / "submission.zip", overwrite=True)
    with zipfile.ZipFile(out / "submission.zip") as archive:
        archive.extractall(out / "unpacked")
    loaded = load_model(given.run)
    with np.load(validation) as file:
        images = file["images"]
    small = torch.from_numpy(np.stack([resize(image, loaded.image_size) for image in images]))
    sets = {"clean": images, "distorted": distort(small).numpy()}
    theirs = {"clean": small, "distorted": torch.from_numpy(sets["distorted"])}
    equal = {}
    for name, shown in sets.items():
        np.save(out / f"{name}.npy", shown)
        labels = np.array(predicted(out / "unpacked", out / f"{name}.npy", 1)["labels"])
        wanted = np.array(packed["labels"])[predict_logits(loaded.module, theirs[name]).argmax(axis=1)]
        equal[name] = {"n": len(labels), "equal": int((labels == wanted).sum())}
    rates: dict[int, list[dict[str, float]]] = {threads: [] for threads in THREADS}
    for _ in range(given.rounds):  # in turn, so that a busy stretch of the machine falls on both
        for threads in THREADS:
            found = predicted(out / "unpacked", out / "clean.npy", threads)
            rates[threads].append({key: round(found[key], 1) for key in ("wall", "work")})
    checked = check(out / "submission.zip", validation, distorted=True)
    record(
        "package",
        {
            "labels_equal_to_torch": equal,
            "images_per_second": {
                f"{threads} threads": {
                    "wall_median": statistics.median(one["wall"] for one in found),
                    "wall_best": max(one["wall"] for one in found),
                    "processor_median": statistics.median(one["work"] for one in found),
                }
                for threads, found in rates.items()
            },
            "rounds": rates,
            "bytes": checked["bytes"],
            "check": {key: checked[key] for key in ("accuracy", "macro_f1", "distorted", "peak_memory_mb")},
        },
        folder=RESULTS if given.run == BUILD / "run-0" else out,
        run=str(given.run),
        model=loaded.card["model"],
        image_size=loaded.image_size,
        source=validation.name,
        rounds=given.rounds,
        cores_allowed=sorted(os.sched_getaffinity(0)),
    )


if __name__ == "__main__":
    main()
