"""A small generator of the files that break image pipelines, all made in memory, none larger than 0.6 MB."""

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def cell(side: int = 8, seed: int = 0) -> np.ndarray:
    """One (side, side, 3) uint8 image of noise: no two seeds agree and any turn of it can be told."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encode(image: np.ndarray | Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    pillow = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    pillow.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    """A PNG from raw filtered rows; without rows only its header speaks."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(rows, 1)) if rows else b""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")


def png_bomb(pixels: int = 179_000_000) -> bytes:
    """A valid black RGB PNG of so many pixels: 0.5 MB of file, 540 MB of image."""
    width = 20_000
    height = -(-pixels // width)
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    idat = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", idat) + png_chunk(b"IEND", b"")


def png_16_bit_colour(values: np.ndarray) -> bytes:
    """An RGB PNG of 16 bits, which Pillow cannot write: (H, W, 3) uint16."""
    height, width = values.shape[:2]
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, depth=16, rows=rows)


def webp_header(width: int, height: int) -> bytes:
    """A WebP that announces a canvas and holds nothing."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def tiff_header(width: int, height: int) -> bytes:
    """A little-endian grey TIFF whose one strip is not there."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 1)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", 0)


def exif_rotated(image: np.ndarray, orientation: int, file_format: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, file_format, exif=exif)


def frames(count: int, file_format: str) -> bytes:
    images = [Image.fromarray(cell(8, seed)) for seed in range(count)]
    return encode(images[0], file_format, save_all=True, append_images=images[1:])


def write_tar(path: Path, members: Sequence[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, members: Sequence[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def mutate(data: bytes, seed: int, changes: int) -> bytes:
    """Flip, cut or repeat bytes at places drawn from the seed."""
    rng = np.random.default_rng(seed)
    out = bytearray(data)
    for _ in range(changes):
        place = int(rng.integers(0, max(1, len(out))))
        kind = int(rng.integers(0, 4))
        if kind == 0 and out:
            out[place] = int(rng.integers(0, 256))
        elif kind == 1:
            del out[place:]
        elif kind == 2:
            out[place:place] = out[place : place + int(rng.integers(1, 40))]
        else:
            del out[place : place + int(rng.integers(1, 40))]
    return bytes(out)
