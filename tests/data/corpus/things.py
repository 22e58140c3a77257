"""Files in folders: the images of the corpus, and what only a file system can hold."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from tests.data.corpus.case import Case, Outcome
from tests.data.hostile import cell, encode

CELL = cell(32, 5)


def plant(folder: Path, cases: Iterable[Case]) -> None:
    """Write the files of cases below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        (folder / case.name).write_bytes(case.data)


def plant_things(folder: Path) -> dict[str, tuple[Outcome, str]]:
    """Put into a folder what only a file system can hold; return name -> what must be said of it."""
    folder.mkdir(parents=True, exist_ok=True)
    outside = folder.parent.parent / "outside.png"
    outside.write_bytes(encode(CELL))
    (folder / "directory.png").mkdir()
    (folder / "directory.png" / "inside.png").write_bytes(encode(cell(8, 70)))
    (folder / "link-out.png").symlink_to(outside)
    (folder / "link-nowhere.png").symlink_to("gone.png")
    (folder / "link-to-itself.png").symlink_to("link-to-itself.png")
    (folder / "link-up").symlink_to(folder.parent)
    (folder / "link-to-root").symlink_to("/")
    (folder / "real.png").write_bytes(encode(cell(8, 71)))
    (folder / "link-inside.png").symlink_to("real.png")
    (folder / "link-to-nothing-ever.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    here = Path.cwd()
    os.chdir(folder)  # a socket's path may have 107 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("socket.png")
    finally:
        os.chdir(here)
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(600 << 20)
    (folder / os.fsdecode(b"caf\xe9-\xff.png")).write_bytes(encode(cell(8, 72)))
    (folder / "line\nend.png").write_bytes(encode(cell(8, 73)))
    (folder / "Upper.PNG").write_bytes(encode(cell(8, 74)))
    (folder / "upper.png").write_bytes(encode(cell(8, 75)))
    (folder / "-rf *.png").write_bytes(encode(cell(8, 76)))
    (folder / ("n" * 240 + ".png")).write_bytes(encode(cell(8, 77)))
    (folder / "=cmd|' -C calc'!A0.png").write_bytes(encode(cell(8, 78)))
    (folder / "pipe.json").symlink_to("pipe.png")
    return {
        "directory.png/inside.png": ("sound", ""),
        "link-out.png": ("unreadable", "links out of the source"),
        "link-nowhere.png": ("unreadable", "links to nothing"),
        "link-to-itself.png": ("unreadable", "links in a loop"),
        "link-up": ("ignored", "links back up (a loop)"),
        "link-to-root": ("ignored", "a loop"),
        "real.png": ("sound", ""),
        "link-inside.png": ("sound", ""),
        "link-to-nothing-ever.png": ("unreadable", "links out of the source"),
        "pipe.png": ("ignored", "a pipe, socket or device"),
        "pipe.json": ("ignored", ""),
        "socket.png": ("ignored", "a pipe, socket or device"),
        "sparse.png": ("unreadable", "629,145,600 bytes unpacked, the limit is 536,870,912"),
        r"caf\xe9-\xff.png": ("sound", ""),
        r"line\nend.png": ("sound", ""),
        "Upper.PNG": ("sound", ""),
        "upper.png": ("sound", ""),
        "-rf *.png": ("sound", ""),
        "n" * 240 + ".png": ("sound", ""),
        "=cmd|' -C calc'!A0.png": ("sound", ""),
    }
