"""How memory and time of an audit grow with the number of images, in tar shards: 5,000, 20,000 and 80,000.

The images are generated noise of 16 px, so that what is measured is what an audit keeps of each and not the decoding.
Each size is audited in a process of its own, with one worker; sizes may be given on the command line.
"""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from conditions import BUILD, record

SIZES = (5_000, 20_000, 80_000)
SIDE, SHARD = 16, 2_000
AUDIT = """
import json, multiprocessing, resource, sys, time
from pathlib import Path

def mib(process):
    return round(int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20)

if __name__ == "__main__":  # workers import this file, and must not import the audit
    from hemalens.data.audit.audit import audit

    def told(what, done, total):
        steps[what] = max(steps.get(what, 0), mib("self"))
        # The largest set of all children would name git, which starts as a copy of this process.
        workers.extend(mib(child.pid) for child in multiprocessing.active_children() if child.is_alive())
    steps, workers, started = {}, [0], time.perf_counter()
    audit(sys.argv[1], Path(sys.argv[2]), workers=1, progress=told)
    seconds = time.perf_counter() - started
    main = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps({"seconds": round(seconds, 1), "main_mib": main, "worker_mib": max(workers), "at_step": steps}))
"""


def shards(count: int) -> Path:
    """Return a folder of shards with so many images, made once."""
    folder = BUILD / f"shards-{count}"
    if folder.exists():
        return folder
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    random = np.random.default_rng(0)
    for start in range(0, count, SHARD):
        rows = random.integers(0, 256, (min(SHARD, count - start), SIDE, 1 + 3 * SIDE), dtype=np.uint8)
        rows[:, :, 0] = 0  # the filter of each row: none
        with tarfile.open(partial / f"{start // SHARD:04d}.tar", "w") as tar:
            for index, pixels in enumerate(rows):
                data = png(pixels.tobytes())
                info = tarfile.TarInfo(f"{('ig', 'platelet')[index % 2]}/{start + index:08d}.png")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    partial.rename(folder)
    return folder


def png(rows: bytes) -> bytes:
    """Return a PNG from filtered rows, without an encoder: 80,000 are made in 10 s."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def audited(count: int) -> dict[str, Any]:
    """Audit so many images; return seconds and largest resident sets in MiB."""
    folder, out = shards(count), BUILD / "audit-scale"
    shutil.rmtree(out, ignore_errors=True)
    script = BUILD / "audit_scale.py"
    script.write_text(AUDIT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, folder, out], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or list(SIZES)
    figures = {count: audited(count) for count in sizes}
    peaks = [figures[count]["main_mib"] for count in sizes]
    slope = (peaks[-1] - peaks[0]) * 1024 / (sizes[-1] - sizes[0]) if len(sizes) > 1 else None
    record("audit_scale", {"sizes": figures, "main_kib_per_image": slope and round(slope, 2)}, side=SIDE, workers=1)


if __name__ == "__main__":
    main()
