"""How long the audit of a folder takes, beside CleanVision on the same folder, in turn; and its memory as it grows.

The folder holds the 13,759 images of the challenge file as PNG. Both are timed as whole processes: start, imports,
reading, report. CleanVision 0.3.7 gets an environment of its own and does all its checks, as hemalens does all its own.
"""

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from conditions import BUILD, challenge, peer_python, record

PEER = "cleanvision==0.3.7"
RUNS = 3  # another number may be given on the command line
SIZES = (1_000, 4_000, 13_759)
CLASSES = ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet")


def folder_of(count: int) -> Path:
    folder = BUILD / f"png-{count}"
    if folder.exists():
        return folder
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with np.load(challenge()) as data:
        # Every so many rows, so that a part holds the planted rows in the same share.
        rows = np.linspace(0, len(data["labels"]) - 1, count).astype(int)
        images, labels = data["images"], data["labels"][:, 0]
        for row in rows:
            path = partial / CLASSES[labels[row]] / f"{row:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[row]).save(path)
    partial.rename(folder)
    return folder


def timed(words: list[str]) -> tuple[float, float]:
    """Run a process; return its wall seconds and the largest resident set of any of its processes in MiB."""
    code = (
        "import resource, subprocess, sys, time\n"
        "t = time.perf_counter(); r = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
        "sys.stderr.buffer.write(r.stderr if r.returncode else b'')\n"
        "print(time.perf_counter() - t, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)\n"
        "sys.exit(r.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed with {done.returncode}:\n{done.stderr}")
    seconds, memory = done.stdout.split()
    return float(seconds), float(memory)


def ours(folder: Path) -> tuple[float, float]:
    out = BUILD / "audit-out"
    shutil.rmtree(out, ignore_errors=True)
    return timed([str(Path(sys.executable).with_name("hemalens")), "audit", str(folder), "--out", str(out)])


def theirs(folder: Path) -> tuple[float, float]:
    code = "import sys; from cleanvision import Imagelab; Imagelab(data_path=sys.argv[1]).find_issues(verbose=False)"
    # A script, not -c: its workers are started by importing the main module again.
    script = BUILD / "peer_audit.py"
    script.write_text(f"if __name__ == '__main__':\n    {code.replace('; ', chr(10) + '    ')}\n", encoding="utf-8")
    return timed([str(peer_python("peer", PEER)), str(script), str(folder)])


def main() -> None:
    memory = {count: round(ours(folder_of(count))[1], 1) for count in SIZES}
    folder = folder_of(SIZES[-1])
    pairs = []
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    for _ in range(runs):
        pairs.append((ours(folder)[0], theirs(folder)[0]))
        time.sleep(1)
    mine, peer = zip(*pairs, strict=True)
    record(
        "audit_speed",
        {
            "seconds": {"hemalens": [round(s, 2) for s in mine], "cleanvision": [round(s, 2) for s in peer]},
            "ratio_median": round(statistics.median(b / a for a, b in pairs), 2),
            "peak_memory_of_largest_process_mib": memory,
        },
        peer=PEER,
        images=SIZES[-1],
        runs=runs,
    )


if __name__ == "__main__":
    main()
