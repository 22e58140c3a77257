"""Which near-duplicates are found among the real cells, how many cells are reported wrongly, and how long it takes.

1,000 of the 11,959 cells get one changed copy, of 12 kinds; all lie in one folder. hemalens does its whole audit;
imagededup (perceptual hash, its defaults) and CleanVision (its two duplicate checks alone) look at the same folder in
the same run, in turn, each as a whole process; the search is also timed alone, once every image has been read. A copy
is found where it is reported together with its original, or with that one's twin: 17 pairs of cells are equal. An
untouched cell is reported wrongly where it is called a copy of anything but its twin.
"""

import io
import json
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageOps

from bench_audit_speed import CLASSES, timed
from conditions import BUILD, challenge, peer_python, record
from hemalens.data.audit.checks.near_duplicates import near_duplicates
from hemalens.data.audit.statistics import measure_source
from hemalens.data.sources import open_source

PEERS = ("cleanvision==0.3.7", "imagededup==0.3.3.post2")
CELLS, PLANTED, SEED = 11_959, 1_000, 0
LANCZOS, BICUBIC = Image.Resampling.LANCZOS, Image.Resampling.BICUBIC
TURN = Image.Transpose


def cropped(image: Image.Image, *, low: int = 2, high: int = 2) -> Image.Image:
    return image.crop((low, low, image.width - high, image.height - high))


def light(gain: float, offset: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.point([min(255, max(0, round(gain * level + offset))) for level in range(256)] * 3)


def saved(suffix: str, **options: int) -> Callable[[Image.Image], tuple[str, bytes]]:
    def save(image: Image.Image) -> tuple[str, bytes]:
        buffer = io.BytesIO()
        image.save(buffer, {"jpg": "JPEG", "webp": "WEBP", "png": "PNG"}[suffix], **options)
        return suffix, buffer.getvalue()

    return save


PNG = saved("png")
KINDS: dict[str, tuple[Callable[[Image.Image], Image.Image], Callable[[Image.Image], tuple[str, bytes]]]] = {
    "jpeg quality 90": (lambda p: p, saved("jpg", quality=90)),
    "jpeg quality 60": (lambda p: p, saved("jpg", quality=60)),
    "webp quality 80": (lambda p: p, saved("webp", quality=80)),
    "half the size": (lambda p: p.resize((p.width // 2, p.height // 2), LANCZOS), PNG),
    "one and a half the size": (lambda p: p.resize((p.width * 3 // 2, p.height * 3 // 2), BICUBIC), PNG),
    "mirrored": (ImageOps.mirror, PNG),
    "turned by 90 degrees": (lambda p: p.transpose(TURN.ROTATE_90), PNG),
    "brighter by a tenth and 8": (light(1.1, 8), PNG),
    "darker by a fifth": (light(0.8, 0), PNG),
    "2 pixels off every side": (cropped, PNG),
    "2 pixels off two sides": (lambda p: cropped(p, high=0), PNG),
    "all of it": (lambda p: light(1.08, 0)(cropped(p.transpose(TURN.ROTATE_180))), saved("jpg", quality=80)),
}


def folder() -> tuple[Path, dict[str, tuple[str, str]], set[frozenset[str]]]:
    """Write the folder; return it, copy -> (original, kind), and the pairs of cells that are equal."""
    root = BUILD / "near-duplicates"
    shutil.rmtree(root, ignore_errors=True)
    draw = np.random.default_rng(SEED)
    with np.load(challenge()) as data:
        images, labels = data["images"][:CELLS], data["labels"][:CELLS, 0]
    names = [f"{CLASSES[label]}/{row:05d}.png" for row, label in enumerate(labels)]
    for kind in CLASSES:
        (root / kind).mkdir(parents=True)
    first: dict[bytes, str] = {}
    twins = set()
    for name, pixels in zip(names, images, strict=True):
        Image.fromarray(pixels).save(root / name)
        if first.setdefault(pixels.tobytes(), name) != name:
            twins.add(frozenset({first[pixels.tobytes()], name}))
    planted = {}
    kinds = list(KINDS)
    for number, row in enumerate(draw.choice(CELLS, PLANTED, replace=False).tolist()):
        kind = kinds[number % len(kinds)]
        change, save = KINDS[kind]
        suffix, data = save(change(Image.fromarray(images[row])))
        # Another class folder would tell nothing, another name would: copies are numbered on.
        copy = f"{CLASSES[labels[row]]}/{CELLS + number:05d}.{suffix}"
        (root / copy).write_bytes(data)
        planted[copy] = (names[row], kind)
    return root, planted, twins


def ours(root: Path) -> tuple[float, list[set[str]], None]:
    out = BUILD / "near-audit"
    shutil.rmtree(out, ignore_errors=True)
    # By this interpreter, so that what is timed is what is imported here.
    code = "from hemalens.cli import main; main()"
    seconds, _ = timed([sys.executable, "-c", code, "audit", str(root), "--out", str(out)])
    issues = pl.read_csv(out / "issues.csv").filter(pl.col("issue").is_in(["near_duplicate", "exact_duplicate"]))
    return seconds, [set(rows["sample_id"]) for _, rows in issues.group_by("group")], None


CLEANVISION = """
import json, sys
from pathlib import Path
from cleanvision import Imagelab
if __name__ == "__main__":
    lab = Imagelab(data_path=sys.argv[1])
    lab.find_issues({"near_duplicates": {}, "exact_duplicates": {}}, verbose=False)
    root = Path(sys.argv[1]).resolve()
    sets = [s for kind in ("near", "exact") for s in lab.info[f"{kind}_duplicates"]["sets"]]
    sets = [[Path(p).resolve().relative_to(root).as_posix() for p in s] for s in sets]
    Path(sys.argv[2]).write_text(json.dumps([sets, None]))
"""
IMAGEDEDUP = """
import json, sys, time
from pathlib import Path
from imagededup.methods import PHash
if __name__ == "__main__":
    hasher = PHash(verbose=False)
    encodings = hasher.encode_images(image_dir=sys.argv[1], recursive=True)
    started = time.perf_counter()
    found = hasher.find_duplicates(encoding_map=encodings)
    seconds = time.perf_counter() - started
    sets = [[name, *others] for name, others in found.items() if others]
    Path(sys.argv[2]).write_text(json.dumps([sets, seconds]))
"""


def theirs(name: str, code: str, root: Path) -> tuple[float, list[set[str]], float | None]:
    """Return seconds of the whole process, the sets it reports, and seconds of its search where that is a step."""
    script, out = BUILD / f"peer_{name}.py", BUILD / f"peer_{name}.json"
    script.write_text(code, encoding="utf-8")
    seconds, _ = timed([str(peer_python("peer-duplicates", *PEERS)), str(script), str(root), str(out)])
    sets, search = json.loads(out.read_text())
    return seconds, [set(found) for found in sets], search


def judged(
    found: Iterable[set[str]], planted: dict[str, tuple[str, str]], twins: set[frozenset[str]]
) -> dict[str, object]:
    """Return recall by kind and the share of untouched cells reported with anything but their twin."""
    together = [members for members in found if len(members) > 1]
    twin_of = {name: pair - {name} for pair in twins for name in pair}
    # A copy of a cell is a copy of its twin too.
    originals = {copy: {name, *twin_of.get(name, ())} for copy, (name, _) in planted.items()}
    hits = {copy for members in together for copy in members & planted.keys() if originals[copy] & members}
    touched = planted.keys() | set().union(*originals.values())
    wrong = {name for members in together for name in members - touched if members - {name, *twin_of.get(name, ())}}
    every, kinds = Counter(kind for _, kind in planted.values()), Counter(planted[copy][1] for copy in hits)
    return {
        "recall": round(len(hits) / len(planted), 4),
        "recall_by_kind": {kind: round(kinds[kind] / every[kind], 4) for kind in KINDS},
        "untouched_reported": len(wrong),
        "untouched_reported_percent": round(100 * len(wrong) / (CELLS + len(planted) - len(touched)), 4),
        "wrongly_reported": sorted(wrong)[:12],
    }


def search_alone(root: Path) -> float:
    """Return the seconds that the search for near-duplicates takes once the images are measured."""
    measured = measure_source(open_source(root), workers=0)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        near_duplicates(measured)
        times.append(time.perf_counter() - started)
    return round(min(times), 3)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    root, planted, twins = folder()
    tools = {
        "hemalens": lambda: ours(root),
        "cleanvision": lambda: theirs("cleanvision", CLEANVISION, root),
        "imagededup": lambda: theirs("imagededup", IMAGEDEDUP, root),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    searches = {"hemalens": search_alone(root)}
    figures: dict[str, object] = {}
    for _ in range(runs):
        for name, tool in tools.items():
            took, found, alone = tool()
            seconds[name].append(round(took, 2))
            figures[name] = judged(found, planted, twins)
            if alone is not None:
                searches[name] = round(alone, 3)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    record(
        "near_duplicates",
        figures
        | {
            "seconds_of_the_whole_process": seconds,
            "times_slower_than_hemalens": {
                name: round(medians[name] / medians["hemalens"], 2) for name in tools if name != "hemalens"
            },
            "seconds_of_the_search_alone": searches,
        },
        peers=PEERS,
        cells=CELLS,
        planted=PLANTED,
        twins=len(twins),
        runs=runs,
        seed=SEED,
    )


if __name__ == "__main__":
    main()
