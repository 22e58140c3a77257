"""Bad files of arrays."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.data.corpus.case import SOUND, Outcome, Pile
from tests.data.corpus.packing import directory_changed, zip_bytes
from tests.data.hostile import cell, write_zip


def savez(**held: np.ndarray) -> Callable[[Path], object]:
    return lambda path: np.savez(path, allow_pickle=True, **held)


def raw_array(descr: str, shape: tuple[int, ...], body: bytes = b"", *, fortran: bool = False) -> bytes:
    """Return a .npy whose header says whatever one likes."""
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def packed(**held: bytes) -> Callable[[Path], object]:
    """Return a writer of a .npz from members as bytes."""
    return lambda path: write_zip(path, [(f"{name}.npy", data) for name, data in held.items()])


def _rows(outcome: Outcome, words: str, rows: Sequence[int] = range(4)) -> dict[str, tuple[Outcome, str]]:
    return {f"row-{row:06d}": (outcome, words) for row in rows}


def arrays() -> list[Pile]:
    """Return them all."""
    images, labels = np.stack([cell(8, seed) for seed in range(4)]), np.arange(4)
    objects = np.empty(4, object)
    objects[:] = [{"a": 1}, "b", 3, None]
    floats = (images / 255).astype(np.float32)
    broken = floats.copy()
    broken[1, 0, 0, 0], broken[2, 0, 0, 0] = np.nan, np.inf
    values = images.astype("<u1").tobytes()
    good_labels = raw_array("<i8", (4,), labels.astype("<i8").tobytes())
    vast = zip_bytes(
        ("images.npy", raw_array("|u1", (4, 8, 8, 3), values)), ("labels.npy", raw_array("<i8", (1 << 40,)))
    )
    vast = directory_changed(vast, 24, b"\xff\xff\xff\xfe")
    return [
        Pile("objects.npz", savez(images=objects, labels=labels), error="Python objects, which are never unpickled"),
        Pile("object-labels.npz", savez(images=images, labels=objects), error="never unpickled"),
        Pile("pickle.npy", lambda path: path.write_bytes(b"\x80\x04\x95cposix\nsystem\n."), error="no readable array"),
        Pile("complex.npz", savez(images=images.astype(np.complex64), labels=labels), error="has the type complex64"),
        Pile("wide-numbers.npz", savez(images=images.astype(np.int64), labels=labels), error="has the type int64"),
        Pile("words.npz", savez(images=images.astype("U3"), labels=labels), error="has the type"),
        Pile("flat.npz", savez(images=images.reshape(4, -1), labels=labels), error="has the shape (4, 192)"),
        Pile(
            "channels-first.npz",
            savez(images=images.transpose(0, 3, 1, 2), labels=labels),
            error="move the channels to the last axis",
        ),
        Pile("no-rows.npz", savez(images=images[:0], labels=labels[:0]), error="has the shape (0, 8, 8, 3)"),
        Pile("too-few-labels.npz", savez(images=images, labels=labels[:3]), error="3 rows for 4 images"),
        Pile("one-hot.npz", savez(images=images, labels=np.eye(4)), error="argmax"),
        Pile("fractions-as-labels.npz", savez(images=images, labels=labels / 3), error="has the type float64"),
        Pile("negative-labels.npz", savez(images=images, labels=labels - 1), error="is negative"),
        Pile("vast-label.npz", savez(images=images, labels=labels * 10**9), error="is no class number"),
        Pile("no-labels.npz", savez(images=images), error="lacks the array 'labels'"),
        Pile("nothing.npz", lambda path: write_zip(path, []), error="lacks the array 'images'"),
        Pile("text.npz", lambda path: path.write_bytes(b"no arrays"), error="no readable npz file"),
        Pile(
            "not-numbers.npz",
            savez(images=broken, labels=labels),
            entries=_rows("converted", "float in [0, 1]", (0, 3)) | _rows("unreadable", "NaN or infinity", (1, 2)),
        ),
        Pile("fortran.npz", savez(images=np.asfortranarray(images), labels=labels), entries=_rows(*SOUND)),
        Pile(
            "big-endian.npz",
            savez(images=images.astype(">u2") * 257, labels=labels),
            entries=_rows("converted", "16-bit"),
        ),
        Pile(
            "shape-of-a-petabyte.npz",
            packed(images=raw_array("|u1", (10**9, 1000, 1000, 3)), labels=good_labels),
            error="3,000,000,000,000,000 are needed",
        ),
        Pile(
            "shape-behind-all-numbers.npy",
            lambda path: path.write_bytes(raw_array("|u1", (2**62, 2**62, 3))),
            error="no readable array",
        ),
        Pile("labels-that-fill-the-memory.npz", lambda path: path.write_bytes(vast), error="no readable array"),
        Pile(
            "fewer-bytes-than-said.npz",
            packed(images=raw_array("|u1", (5, 8, 8, 3), values), labels=good_labels),
            error="960 are needed",
        ),
        Pile(
            "header-that-runs.npz",
            packed(images=raw_array("__import__('os').system('x')", (4, 8, 8, 3), values), labels=good_labels),
            error="describes no plain array",
        ),
        Pile(
            "bzip2.npz",
            lambda path: path.write_bytes(
                zip_bytes(
                    ("images.npy", raw_array("|u1", (4, 8, 8, 3), values)), ("labels.npy", good_labels), method=12
                )
            ),
            error="packed otherwise than numpy does",
        ),
    ]
