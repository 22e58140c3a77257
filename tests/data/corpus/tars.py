"""Bad tars and WebDataset shards."""

import bz2
import json
import struct
import tarfile

from tests.data.corpus.case import SOUND, Pile
from tests.data.corpus.packing import (
    GOOD,
    OTHER,
    PNG,
    block,
    pax,
    raw_tar,
    special,
    tar_bytes,
    tar_of,
    zip_bytes,
)
from tests.data.hostile import cell, encode, mutate, write_zip


def tars() -> list[Pile]:
    """Return them all."""
    good = block(*GOOD)
    outside, special_file = "leads out of the archive", "is a sparse file, pipe or device"
    negative = b"\xff" * 10 + struct.pack(">h", -512)
    long_name = "ig/" + "n" * 4_000 + ".png"
    whole = good + block("ig/last.png", OTHER)
    members = (GOOD, ("ig/other.png", OTHER))
    return [
        Pile(
            "names-that-lead-out.tar",
            tar_of(GOOD, ("/etc/passwd.png", PNG), ("../up.png", PNG), ("ig/../../up.png", PNG), ("C:\\x.png", PNG)),
            entries={"ig/good.png": SOUND}
            | dict.fromkeys(("/etc/passwd.png", "../up.png", "ig/../../up.png", "C:\\x.png"), ("unreadable", outside)),
        ),
        Pile(
            "links-and-devices.tar",
            tar_of(
                GOOD,
                (special("ig/symbolic.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
                (special("ig/hard.png", tarfile.LNKTYPE, "ig/good.png"), b""),
                (special("ig/null.png", tarfile.CHRTYPE), b""),
                (special("ig/disk.png", tarfile.BLKTYPE), b""),
                (special("ig/pipe.png", tarfile.FIFOTYPE), b""),
                (special("ig/directory.png", tarfile.DIRTYPE), b""),
            ),
            entries={
                "ig/good.png": SOUND,
                "ig/symbolic.png": ("unreadable", "is a link"),
                "ig/hard.png": ("unreadable", "is a link"),
                "ig/null.png": ("unreadable", special_file),
                "ig/disk.png": ("unreadable", special_file),
                "ig/pipe.png": ("unreadable", special_file),
            },
        ),
        Pile(
            "sparse.tar",
            raw_tar(good, pax(**{"GNU.sparse.size": "99", "GNU.sparse.map": "0,9"}), block("ig/holes.png", PNG)),
            entries={"ig/good.png": SOUND, "ig/holes.png": ("unreadable", special_file)},
        ),
        Pile(
            "sparse-of-words.tar",
            raw_tar(good, pax(**{"GNU.sparse.size": "9", "GNU.sparse.map": "a,b"}), block("ig/holes.png", PNG)),
            error="damaged",
        ),
        Pile(
            "names-of-all-kinds.tar",
            raw_tar(
                good,
                pax(path=long_name),
                block("short", PNG),
                pax(path="ig/line\nend.png"),
                block("short", PNG),
                pax(path="ig/nul\x00l.png"),
                block("short", PNG),
                block("ig/\udce9.png", PNG),
                block("ig/CASE.png", PNG),
                block("ig/case.png", PNG),
            ),
            entries=dict.fromkeys(
                (
                    *("ig/good.png", long_name, r"ig/line\nend.png", r"ig/nul\x00l.png", r"ig/\xe9.png"),
                    *("ig/CASE.png", "ig/case.png"),
                ),
                SOUND,
            ),
        ),
        Pile(
            "names-met-twice.tar",
            tar_of(GOOD, GOOD, ("ig/good.png", OTHER)),
            entries={
                "ig/good.png": SOUND,
                "ig/good.png#2": ("unreadable", "duplicate id"),
                "ig/good.png#3": ("unreadable", "duplicate id"),
            },
        ),
        Pile(
            "cut-inside-a-member.tar",
            lambda path: path.write_bytes(whole[:-300]),
            entries={"ig/good.png": SOUND, "ig/last.png": ("unreadable", "the archive ends inside it")},
        ),
        Pile(
            "cut-between-members.tar",
            lambda path: path.write_bytes(whole),
            entries={
                "ig/good.png": SOUND,
                "ig/last.png": SOUND,
                "(end of archive)": ("ignored", "may be cut short"),
            },
        ),
        Pile("cut-inside-a-header.tar", lambda path: path.write_bytes(whole[:1300]), error="unreadable header"),
        Pile("damaged-header.tar", raw_tar(good, b"\x55" * 512, good), error="unreadable header"),
        Pile("two-in-one.tar", raw_tar(good, bytes(1024), good), error="a second archive"),
        Pile(
            "size-of-a-terabyte.tar",
            raw_tar(good, block("ig/vast.png", PNG, size=b"\x80" + bytes(3) + (1 << 40).to_bytes(8, "big"))),
            entries={"ig/good.png": SOUND, "ig/vast.png": ("unreadable", "the archive ends inside it")},
        ),
        Pile(
            "size-of-an-exabyte.tar",
            raw_tar(good, block("ig/vast.png", PNG, size=b"\x80" + bytes(3) + (1 << 60).to_bytes(8, "big"))),
            error="damaged",
        ),
        Pile("negative-size.tar", raw_tar(good, block("ig/less.png", size=negative)), error="a member of -512 bytes"),
        Pile("negative-size-said-twice.tar", raw_tar(good, pax(size="-512"), block("ig/less.png")), error="damaged"),
        Pile(
            "size-of-words.tar",
            raw_tar(good, block("ig/odd.png", PNG, size=b"many bytes\0\0")),
            error="unreadable header",
        ),
        Pile(
            "names-on-names.tar",
            raw_tar(*[block("././@LongLink", b"a" * 10, kind=b"L")] * 3_000, good),
            error="a member's header of more than 65,536 bytes",
        ),
        Pile(
            "endless-number.tar",
            raw_tar(block("pax", b"1" * 1_000_000, kind=b"x"), good),
            error="a member's header of more than 65,536 bytes",
        ),
        Pile(
            "long-number.tar", raw_tar(block("pax", b"1" * 50_000, kind=b"x"), good), error="a number of 1,000 digits"
        ),
        Pile(
            "unknown-kind.tar",
            raw_tar(good, block("ig/odd.png", PNG, kind=b"Z")),
            entries={"ig/good.png": SOUND, "ig/odd.png": ("unreadable", special_file)},
        ),
        Pile("empty.tar", lambda path: path.write_bytes(b""), error="no tar archive"),
        Pile("zeros.tar", lambda path: path.write_bytes(bytes(10_240)), error="holds no file that could be an image"),
        Pile("text.tar", lambda path: path.write_bytes(b"no tar\n" * 200), error="no tar archive"),
        Pile("a-zip.tar", lambda path: write_zip(path, [GOOD]), error="no tar archive"),
        Pile("squeezed.tar", lambda path: path.write_bytes(bz2.compress(whole)), error="compressed with bzip2"),
        Pile("flipped.tar", lambda path: path.write_bytes(mutate(whole + bytes(1024), 11, 5)), error="damaged"),
        Pile(
            "shard-with-missing-parts.tar",
            tar_of(
                ("a.png", PNG),
                ("a.cls", b"ig"),
                ("b.png", OTHER),
                ("c.cls", b"platelet"),
                ("d.png", encode(cell(8, 4))),
                ("d.json", b"{broken"),
                ("e.png", encode(cell(8, 5))),
                ("e.json", json.dumps({"label": 3.5}).encode()),
                ("f.png", encode(cell(8, 6))),
                ("f.cls", b"\xff\xfe"),
                ("g.png", encode(cell(8, 7))),
                ("g.json", b"[" * 100_000),
                ("h.png", encode(cell(8, 8))),
                ("h.json", b"[" * 60_000),
            ),
            entries={
                "a.png": SOUND,
                "b.png": SOUND,
                **dict.fromkeys(("d.png", "e.png", "f.png", "g.png", "h.png"), ("unreadable", "label file")),
                **dict.fromkeys(("a.cls", "c.cls", "f.cls"), ("ignored", "metadata (.cls)")),
                **dict.fromkeys(("d.json", "e.json", "g.json", "h.json"), ("ignored", "metadata (.json)")),
            },
        ),
        Pile(
            "archives-in-an-archive.tar",
            tar_of(*members, ("ig/inner.zip", zip_bytes(GOOD)), ("ig/inner.tar", tar_bytes())),
            entries={
                "ig/good.png": SOUND,
                "ig/other.png": SOUND,
                "ig/inner.zip": ("unreadable", "is a zip archive, not an image"),
                "ig/inner.tar": ("unreadable", "is a tar archive, not an image"),
            },
        ),
    ]
