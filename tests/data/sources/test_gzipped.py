"""Gzipped tars: unpacked once, checked each time, read in every process; bombs and damage are named."""

import gzip
import io
import multiprocessing
import tarfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from hemalens.core.errors import SourceError
from hemalens.data.sources import gzipped, open_source
from tests.data import hostile

CELLS = [hostile.cell(seed=seed) for seed in range(4)]
MEMBERS = [(f"platelet/{index}.png", hostile.encode(cell)) for index, cell in enumerate(CELLS)]


@pytest.fixture
def packed(tmp_path):
    return pack(tmp_path / "cells.tar.gz", MEMBERS)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def pack(path, members):
    plain = hostile.write_tar(path.with_name("plain.tar"), members)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def copies(cache):
    return sorted((cache / "unpacked").glob("*.tar"))


@pytest.mark.parametrize("name", ["cells.tar.gz", "CELLS.TAR.GZ", "cells.tgz"])
def test_it_lists_what_the_tar_inside_lists(tmp_path, packed, cache, name):
    source = open_source(packed.rename(tmp_path / name), cache=cache)
    plain = open_source(tmp_path / "plain.tar")
    assert source.samples == plain.samples
    assert source.spec == str(tmp_path / name)
    assert [source.read(index) for index in range(4)] == [data for _, data in MEMBERS]


def test_members_are_read_by_index_in_other_processes(packed, cache):
    source = open_source(packed, cache=cache)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(source.read, [3, 0, 2, 1]))
        part = list(pool.map(source.part([2, 3]).read, [1, 0]))
    assert found == [MEMBERS[index][1] for index in (3, 0, 2, 1)]
    assert part == [MEMBERS[3][1], MEMBERS[2][1]]


def test_it_is_unpacked_once_and_again_where_the_copy_is_damaged_or_gone(packed, cache, monkeypatch):
    unpacked = []
    unpack = gzipped._unpack
    monkeypatch.setattr(gzipped, "_unpack", lambda *words: (unpacked.append(1), unpack(*words)))
    for _ in range(2):
        open_source(packed, cache=cache)
    assert len(unpacked) == 1
    [copy] = copies(cache)
    data = copy.read_bytes()
    copy.write_bytes(data[:700] + b"x" + data[701:])
    assert open_source(packed, cache=cache).read(0) == MEMBERS[0][1]
    copy.with_suffix(".json").unlink()
    open_source(packed, cache=cache)
    copy.unlink()
    open_source(packed, cache=cache)
    assert len(unpacked) == 4
    assert copy.read_bytes() == data


def test_another_file_of_the_same_name_is_another_source(packed, cache):
    first = open_source(packed, cache=cache).fingerprint()
    pack(packed, MEMBERS[:2])
    second = open_source(packed, cache=cache)
    assert len(second) == 2
    assert second.fingerprint() != first
    assert len(copies(cache)) == 2


def test_names_that_lead_out_are_refused_as_in_any_tar(tmp_path, cache):
    source = open_source(pack(tmp_path / "a.tgz", [*MEMBERS, ("../evil.png", MEMBERS[0][1])]), cache=cache)
    assert [sample.unreadable is not None for sample in source.samples].count(True) == 1
    assert not list(tmp_path.rglob("evil.png"))


def test_a_bomb_is_named_and_leaves_nothing(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(gzipped, "_HARMLESS", 1 << 20)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    with pytest.raises(SourceError, match="unpacks to more than 100 times its size"):
        open_source(tmp_path / "bomb.tar.gz", cache=cache)
    assert not list((cache / "unpacked").iterdir())


def test_blank_images_of_many_bytes_are_no_bomb(tmp_path, cache):
    blank = hostile.encode(np.zeros((256, 256, 3), np.uint8), "BMP")
    source = open_source(pack(tmp_path / "a.tar.gz", [(f"{index}.bmp", blank) for index in range(20)]), cache=cache)
    assert source.read(19) == blank


def test_what_the_disk_cannot_spare_is_named_before_it_is_full(packed, cache, monkeypatch):
    monkeypatch.setattr(gzipped, "_KEPT_FREE", 1 << 60)
    with pytest.raises(SourceError, match=r"the disk of the cache can spare; free some space at .*, or set HEMALENS_"):
        open_source(packed, cache=cache)
    assert not list((cache / "unpacked").iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-8] + bytes(8),
        lambda data: data[:200] + bytes(200) + data[400:],
        lambda data: data + b"more",
        lambda _: b"",
        lambda _: b"BZh9 is another packer",
        lambda _: gzip.compress(b"no tar at all" * 100),
        lambda data: gzip.compress(data),
    ],
)
def test_damaged_files_are_named(packed, cache, damage):
    packed.write_bytes(damage(packed.read_bytes()))
    with pytest.raises(SourceError, match=r"fetch or pack it again|decompress it first"):
        open_source(packed, cache=cache)


def test_a_cache_that_cannot_be_written_is_named(packed, tmp_path):
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(SourceError, match=r"cannot be unpacked into the cache \(.*\); free some space, or"):
        open_source(packed, cache=tmp_path / "cache")


def test_progress_counts_packed_bytes(packed, cache):
    seen = []
    open_source(packed, cache=cache, progress=lambda *words: seen.append(words))
    assert seen[-1] == ("unpacking", packed.stat().st_size, packed.stat().st_size)


def test_tars_written_as_a_stream_of_several_gzip_members_are_whole(packed, cache):
    raw = (packed.parent / "plain.tar").read_bytes()
    packed.write_bytes(gzip.compress(raw[:1000]) + gzip.compress(raw[1000:]) + bytes(512))
    assert len(open_source(packed, cache=cache)) == 4


def test_pax_names_survive(tmp_path, cache):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("ig/" + "ä" * 200 + ".png")
        member.size = len(MEMBERS[0][1])
        tar.addfile(member, io.BytesIO(MEMBERS[0][1]))
    (tmp_path / "a.tar.gz").write_bytes(buffer.getvalue())
    assert open_source(tmp_path / "a.tar.gz", cache=cache).samples[0].label == "ig"
