"""Mutated images by the thousand, decoded in worker processes: each is decoded, refused with a reason, or a finding.

    python tests/fuzz.py [COUNT] [--seed 0] [--workers N] [--out build/fuzz] [--anew]

Image N depends on the seed and on N alone. A run that was stopped goes on where it was, up to COUNT. Anything but
a decoded image or a DecodeError (another exception, a warning, a process that crashed, took more than 1.5 GiB or 20 s
of one core) is a finding: the image is kept in the folder and the exit status is 1.
"""

import argparse
import functools
import json
import re
import resource
import signal
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from hemalens.core.errors import DecodeError
from hemalens.data.reading.decode import decode
from hemalens.data.reading.parallel import map_chunks
from tests.data.hostile import cell, encode, exif_rotated, frames, mutate, png_16_bit_colour

COUNT = 100_000
_CHUNK = 200
_MEMORY = 1536 << 20
_SECONDS = 20
_SUFFIX = {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "PPM": "ppm"}

Outcome = tuple[str, str]  # ("decoded" | "refused" | "finding", words)


@functools.cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """Return the whole images that are mutated: every format, mode and way of packing that Pillow can write."""
    image = Image.fromarray(cell(24, 1))
    smooth = Image.fromarray(np.mgrid[:24, :24].sum(axis=0).astype(np.uint8) * 5)
    clear = np.dstack([cell(24, 2), np.full((24, 24), 77, np.uint8)])
    deep = Image.fromarray(np.arange(576, dtype=np.uint16).reshape(24, 24) * 100)
    unit = Image.fromarray(np.linspace(0, 1, 576, dtype=np.float32).reshape(24, 24))
    inks, few = image.convert("CMYK"), image.quantize(16)
    pngs: list[Any] = [image, smooth, Image.fromarray(clear), smooth.convert("LA"), few, image.convert("1"), deep]
    made = [("PNG", encode(one)) for one in pngs]
    made += [("PNG", png_16_bit_colour(np.full((9, 9, 3), 9_000, np.uint16))), ("PNG", frames(3, "PNG"))]
    made += [("PNG", encode(few, transparency=bytes(range(0, 256, 16)))), ("PNG", exif_rotated(cell(24, 3), 6))]
    made += [("JPEG", encode(one, "JPEG")) for one in (image, smooth, inks)]
    made += [
        ("JPEG", encode(image, "JPEG", **options)) for options in ({"progressive": True}, {"restart_marker_rows": 1})
    ]
    made += [("JPEG", exif_rotated(cell(24, 3), 8, "JPEG")), ("JPEG", frames(2, "MPO"))]
    ways = ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    made += [("TIFF", encode(image, "TIFF", compression=way)) for way in ways]
    made += [("TIFF", encode(image.convert("1"), "TIFF", compression="group4"))]
    made += [("TIFF", encode(one, "TIFF")) for one in (deep, unit, inks, few)] + [("TIFF", frames(2, "TIFF"))]
    made += [("WEBP", encode(image, "WEBP")), ("WEBP", encode(Image.fromarray(clear), "WEBP", lossless=True))]
    made += [("WEBP", frames(2, "WEBP")), ("GIF", encode(few, "GIF")), ("GIF", frames(3, "GIF"))]
    made += [("BMP", encode(one, "BMP")) for one in (image, smooth, few, image.convert("1"))]
    made += [("PPM", encode(one, "PPM")) for one in (image, smooth, image.convert("1"), deep)]
    return tuple(made)


def case(seed: int, number: int) -> tuple[str, bytes]:
    """Return the name and the bytes of one mutated image."""
    file_format, whole = seeds()[number % len(seeds())]
    turn = number // len(seeds())
    data = mutate(whole, seed * COUNT * 1000 + number, 1 + turn % 6)
    # Half of the PNGs get their checksums put right, or no mutation would reach what lies behind them.
    return f"{number}.{_SUFFIX[file_format]}", repaired(data) if file_format == "PNG" and turn % 2 else data


def repaired(data: bytes) -> bytes:
    """Return a PNG whose chunks carry the checksums of what they hold."""
    out, place = bytearray(data), 8
    while place + 12 <= len(out):
        length = int.from_bytes(out[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(out)


def judge(name: str, data: bytes) -> Outcome:
    """Decode one image and say what came of it; a decoder that hangs is ended with its process."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            pixels = decode(data, name=name).pixels
        except DecodeError as error:
            return "refused", kind_of(error.rule)
        except Exception as error:  # noqa: BLE001  # to find out what else there is, is what this is for
            return "finding", f"{type(error).__name__}: {error}"
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size:
        return "decoded", ""
    return "finding", f"pixels of the shape {pixels.shape} and type {pixels.dtype}"


def kind_of(rule: str) -> str:
    """Shorten a reason to its kind: numbers and what a library said go."""
    return re.sub(r"\d[\d,]*", "N", rule.partition(" (")[0])[:70]


def judge_chunk(task: tuple[int, range]) -> list[Outcome]:
    """Judge some numbers in this worker, under its limits."""
    seed, numbers = task
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    outcomes = []
    for number in numbers:
        signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)  # its signal ends the process, also inside a C library
        outcomes.append(judge(*case(seed, number)))
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return outcomes


def halve(task: tuple[int, range]) -> list[tuple[int, range]]:
    seed, numbers = task
    middle = len(numbers) // 2
    return [(seed, numbers[:middle]), (seed, numbers[middle:])] if middle else []


def lost(task: tuple[int, range]) -> list[Outcome]:
    return [("finding", "its process was lost")] * len(task[1])


def fuzz(count: int, *, seed: int, out: Path, workers: int | None, anew: bool = False) -> dict[str, Any]:
    """Judge the images up to ``count`` that are not judged yet; return the tally of all and keep it in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"seed-{seed}.json"
    made_of = {name: metadata.version(name) for name in ("hemalens", "pillow", "numpy")}
    tally: dict[str, Any] = json.loads(path.read_text()) if path.exists() and not anew else {}
    if tally.get("versions") != made_of:
        tally = {"versions": made_of, "seed": seed, "done": 0, "seconds": 0.0, "outcomes": {}, "refusals": {}}
        tally |= {"findings": [], "mib": 0}
    began = tally["done"]
    started, spent = time.monotonic(), tally["seconds"]
    outcomes, refusals = Counter(tally["outcomes"]), Counter(tally["refusals"])
    for results in map_chunks(judge_chunk, tasks(seed, began, count), halve=halve, lost=lost, workers=workers):
        for outcome, words in results:
            outcomes[outcome] += 1
            if outcome == "refused":
                refusals[words] += 1
            elif outcome == "finding":
                name, data = case(seed, tally["done"])
                (out / f"seed-{seed}-{name}").write_bytes(data)
                tally["findings"].append({"file": f"seed-{seed}-{name}", "what": words})
            tally["done"] += 1
        tally["seconds"] = round(spent + time.monotonic() - started, 1)
        tally["mib"] = max(tally["mib"], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
        tally |= {"outcomes": dict(outcomes), "refusals": dict(refusals.most_common())}
        if tally["done"] % 2_000 < _CHUNK:
            path.write_text(json.dumps(tally, indent=2) + "\n")
    tally["mib"] = max(tally["mib"], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
    path.write_text(json.dumps(tally, indent=2) + "\n")
    assert tally["done"] == sum(outcomes.values()), "every image has one outcome"
    return tally


def tasks(seed: int, begin: int, end: int) -> Iterator[tuple[int, range]]:
    for start in range(begin, end, _CHUNK):
        yield seed, range(start, min(start + _CHUNK, end))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "build" / "fuzz")
    parser.add_argument("--anew", action="store_true")
    words = parser.parse_args()
    tally = fuzz(words.count, seed=words.seed, out=words.out, workers=words.workers, anew=words.anew)
    print(json.dumps(tally, indent=2))
    return 1 if tally["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
