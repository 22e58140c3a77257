"""What one hostile or large file costs who opens it: MB above idle at the peak, and seconds of a core.

Each is opened in a fresh process. Every kind is made at several sizes; what is refused costs what the refusal costs.
``decode`` is what ``audit`` and ``review`` do with a file, ``serve`` what a worker process of the server does with it.

    python benchmarks/bench_costs.py [kind ...]
"""

import contextlib
import io
import json
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conditions import embedded_model, record
from hemalens.core.errors import UserError
from hemalens.data.decode import decode
from hemalens.deployment.web.limits import Limits
from hemalens.deployment.web.work import InferTask, PictureTask, UnpackTask, Upload, Work

MEGAPIXELS = (4, 8, 16, 24)
MOST_MB, MOST_SECONDS = 200.0, 0.5
_RESET_PEAK = "5"  # to /proc/self/clear_refs: count the peak of resident memory afresh


def pixels(width: int, height: int, mode: str, *, noise: bool = True) -> Image.Image:
    """Return a picture of blurred noise, about as hard to unpack as a photograph of cells, or of one colour."""
    random = np.random.default_rng(0)
    channels = len(Image.new(mode, (1, 1)).getbands())
    if not noise:
        return Image.new(mode, (width, height))
    if mode.startswith("I;16"):
        return Image.fromarray(random.integers(0, 65536, (height, width), np.uint16))
    if mode == "F":
        return Image.fromarray(random.random((height, width), np.float32))
    coarse = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, channels), np.uint8)
    fine = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[:height, :width] // 2
    fine += random.integers(0, 32, (height, width, channels), np.uint8)
    if mode in ("P", "1"):
        return Image.fromarray(fine[..., 0]).convert(mode)
    return Image.fromarray(fine[..., 0] if channels == 1 else fine, mode)


def saved(
    width: int, height: int, *, mode: str = "RGB", kind: str = "PNG", noise: bool = True, **options: object
) -> bytes:
    buffer = io.BytesIO()
    image = pixels(width, height, mode, noise=noise)
    if options.pop("transparent", False):
        options["transparency"] = 3
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, interlaced: bool = False) -> bytes:
    """Return a PNG of kinds that Pillow does not write: 16-bit colour, interlaced; Paeth's filter, the slowest."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    packer = zlib.compressobj(1)
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    data = []
    random = np.random.default_rng(0)
    for left, top, right, down in passes:
        wide, high = -(-(width - left) // right), -(-(height - top) // down)
        row = b"\x04" + random.integers(0, 3, max(wide, 0) * channels * depth // 8, np.uint8).tobytes()
        data += [packer.compress(row) for _ in range(max(high, 0))] if wide > 0 else []
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    parts = ((b"IHDR", head), (b"IDAT", b"".join(data) + packer.flush()), (b"IEND", b""))
    chunks = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def many_scans(width: int, height: int, *, scans: int) -> bytes:
    """Return a progressive JPEG with its last scan repeated."""
    data = saved(width, height, kind="JPEG", noise=False, progressive=True)
    last = data.rfind(b"\xff\xda")
    repeated = data[last:-2]
    return data[:-2] + repeated * (scans - data.count(b"\xff\xda")) + data[-2:]


def png_chunks(count: int) -> bytes:
    data = saved(8, 8)
    empty = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    return data[:33] + empty * count + data[33:]


def jpeg_segments(count: int) -> bytes:
    data = saved(8, 8, kind="JPEG")
    return data[:2] + b"\xff\xfe\x00\x02" * count + data[2:]


def gif_frames(count: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame * count + b"\x3b"


def zip_members(count: int, *, name: str = "{}") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(count):
            archive.writestr(name.format(number), b"")
    return buffer.getvalue()


def tensor(data: object, shape: list[int]) -> bytes:
    asked = {"name": "pictures", "shape": shape, "datatype": "UINT8", "data": data}
    return json.dumps({"inputs": [asked]}).encode()


Maker = Callable[[int, int], bytes]
PICTURES: dict[str, Maker] = {
    "png": partial(saved, compress_level=1),
    "png-flat": partial(saved, noise=False),
    "png-grey": partial(saved, mode="L", compress_level=1),
    "png-palette": partial(saved, mode="P", compress_level=1),
    "png-palette-transparent": partial(saved, mode="P", compress_level=1, transparent=True),
    "png-1-bit": partial(saved, mode="1"),
    "png-alpha": partial(saved, mode="RGBA", compress_level=1),
    "png-grey-alpha": partial(saved, mode="LA", compress_level=1),
    "png-16-bit-grey": partial(saved, mode="I;16", compress_level=1),
    "png-16-bit-colour": partial(png, depth=16),
    "png-16-bit-alpha": partial(png, depth=16, colour=6),
    "png-paeth": png,
    "png-interlaced": partial(png, interlaced=True),
    "jpeg": partial(saved, kind="JPEG"),
    "jpeg-fine": partial(saved, kind="JPEG", quality=95, subsampling=0),
    "jpeg-grey": partial(saved, kind="JPEG", mode="L"),
    "jpeg-cmyk": partial(saved, kind="JPEG", mode="CMYK"),
    "jpeg-progressive": partial(saved, kind="JPEG", progressive=True),
    "jpeg-progressive-fine": partial(saved, kind="JPEG", progressive=True, quality=95, subsampling=0),
    "jpeg-scans": partial(many_scans, scans=100),
    "tiff": partial(saved, kind="TIFF"),
    "tiff-lzw": partial(saved, kind="TIFF", compression="tiff_lzw"),
    "tiff-deflate": partial(saved, kind="TIFF", compression="tiff_adobe_deflate"),
    "tiff-jpeg": partial(saved, kind="TIFF", compression="jpeg"),
    "tiff-16-bit": partial(saved, kind="TIFF", mode="I;16"),
    "tiff-float": partial(saved, kind="TIFF", mode="F"),
    "tiff-cmyk": partial(saved, kind="TIFF", mode="CMYK"),
    "tiff-alpha": partial(saved, kind="TIFF", mode="RGBA"),
    "webp": partial(saved, kind="WEBP", method=0),
    "webp-lossless": partial(saved, kind="WEBP", lossless=True, method=0, quality=0),
    "webp-alpha": partial(saved, kind="WEBP", mode="RGBA", method=0),
    "gif": partial(saved, kind="GIF", mode="P"),
    "bmp": partial(saved, kind="BMP"),
    "ppm": partial(saved, kind="PPM"),
}
SINGLE: dict[str, Callable[[], bytes]] = {
    "png 1 x 25,000,000": lambda: png(1, 25_000_000),
    "png 25,000,000 x 1": lambda: png(25_000_000, 1),
    "png 5000 x 5000, 3 KB": lambda: saved(5000, 5000, mode="1", noise=False),
    "gif, 1,000,000 frames": lambda: gif_frames(1_000_000),
    "png of 1,000,000 chunks": lambda: png_chunks(1_000_000),
    "jpeg of 2,000,000 comments": lambda: jpeg_segments(2_000_000),
    "jpeg of 16,000,000 fill bytes": lambda: b"\xff\xd8" + b"\xff" * 16_000_000,
    "tiff 1 x 16,000,000": lambda: saved(1, 16_000_000, kind="TIFF", mode="L", noise=False),
}
REQUESTS: dict[str, Callable[[], bytes]] = {
    "tensor of a text and 50,000 numbers": lambda: tensor(["x" * 30_000, *([1] * 50_000)], [1, 1, 50_001, 3]),
    "tensor of 900,000 pictures of 1 pixel": lambda: tensor([[[[1, 2, 3]]]] * 900_000, [900_000, 1, 1, 3]),
    "tensor of 4,000,000 numbers": lambda: tensor([0] * 4_000_000, [1, 1, 1, 3]),
    "tensor of 2,000,000 lists": lambda: tensor([[]] * 2_000_000, [1, 1, 1, 3]),
    "tensor of ragged lists": lambda: tensor([[1]] * 1_000_000 + [2], [1, 1, 1, 3]),
    "tensor of one long number": lambda: tensor([int("9" * 4000)] * 3, [1, 1, 1, 3]),
    "zip of 400,000 members": lambda: zip_members(400_000),
    "zip of 400,000 ignored members": lambda: zip_members(400_000, name="__MACOSX/{}"),
}


def costs(way: str, kind: str, data: bytes) -> dict[str, Any]:
    """Return MB above idle at the peak, seconds and what was said, of one file in this process."""
    small = PICTURES.get(kind, PICTURES["png"])(64, 64)
    work = Work(embedded_model(), Limits())
    if way == "serve":
        work.open()
        work([PictureTask(Upload("small", small))])
    else:
        with contextlib.suppress(UserError):
            decode(small)
    status = Path("/proc/self/status")

    def kib(key: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))

    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    idle, begin, said = kib("VmRSS"), time.process_time(), "ok"
    if way == "decode":
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(UserError))
            said = "refused"
            decode(data)
            said = "ok"
    elif kind.startswith("tensor"):
        said = str(work([InferTask(data)])[0].status)
    elif kind.startswith("zip"):
        said = str(work([UnpackTask(Upload("a.zip", data))])[0].status)
    else:
        said = str(work([PictureTask(Upload("a", data), heat_map=True)])[0].status)
    seconds = time.process_time() - begin
    return {"MB": round((kib("VmHWM") - idle) / 1024, 1), "seconds": round(seconds, 3), "said": said}


def made(kind: str) -> bytes:
    name, _, size = kind.partition("@")
    if name in PICTURES:
        width = int((int(size) * 1.5e6) ** 0.5)
        return PICTURES[name](width, int(size) * 1_000_000 // width)
    return (SINGLE | REQUESTS)[name]()


def main(wanted: list[str]) -> None:
    kinds = [*SINGLE, *REQUESTS, *(f"{name}@{size}" for name in PICTURES for size in MEGAPIXELS)]
    kinds = [kind for kind in kinds if not wanted or kind in wanted or kind.partition("@")[0] in wanted]
    found: dict[str, Any] = {}
    for kind in kinds:
        data = made(kind)
        row: dict[str, Any] = {"bytes": len(data)}
        for way in ("decode", "serve") if kind not in REQUESTS else ("serve",):
            command = [sys.executable, __file__, "--one", way, kind.partition("@")[0]]
            done = subprocess.run(command, input=data, capture_output=True, check=False)
            row[way] = json.loads(done.stdout) if done.returncode == 0 else {"said": f"died ({done.returncode})"}
        found[kind] = row
        over = [way for way in ("decode", "serve") if row.get(way, {}).get("MB", 0) > MOST_MB]
        slow = [way for way in ("decode", "serve") if row.get(way, {}).get("seconds", 0) > MOST_SECONDS]
        print(kind, row, *(["OVER"] if over else []), *(["SLOW"] if slow else []), file=sys.stderr, flush=True)
    record("costs", {"costs": found}, kinds=wanted or "all")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(costs(sys.argv[2], sys.argv[3], sys.stdin.buffer.read())))
    else:
        main(sys.argv[1:])
