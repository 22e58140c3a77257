"""Opening by name: the kinds, the face they share, labels and classes; and the real cells where they are at hand."""

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hemalens.core.errors import DecodeError, SourceError
from hemalens.core.types import CELL_CLASSES
from hemalens.data.sources import open_source
from hemalens.data.sources.entries import number_repeats
from hemalens.data.sources.labels import name_labels
from tests.data import hostile

CELL = hostile.cell()
PNG = hostile.encode(CELL)


@pytest.fixture
def kinds(tmp_path, monkeypatch):
    """One small source of each kind, all holding the same two images."""
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    for label in ("platelet", "basophil"):
        (folder / label).mkdir(parents=True)
        (folder / label / "a.png").write_bytes(PNG)
    members = [("platelet/a.png", PNG), ("basophil/a.png", PNG)]
    (tmp_path / "shards").mkdir()
    hostile.write_tar(tmp_path / "shards" / "0.tar", members)
    with tarfile.open(tmp_path / "cells.tar.gz", "w:gz") as packed:
        packed.add(folder, "cells")
    np.savez(tmp_path / "cells.npz", images=np.stack([CELL, CELL]), labels=[[7], [0]])
    np.savez(
        tmp_path / "med.npz", train_images=CELL[None], train_labels=[[7]], test_images=CELL[None], test_labels=[[0]]
    )
    np.save(tmp_path / "cells.npy", np.stack([CELL, CELL]))
    (tmp_path / "list.csv").write_text("path,label\nfolder/platelet/a.png,platelet\nfolder/basophil/a.png,basophil\n")
    return {
        "folder": folder,
        "zip": hostile.write_zip(tmp_path / "cells.zip", members),
        "tar": hostile.write_tar(tmp_path / "cells.tar", members),
        "tar.gz": tmp_path / "cells.tar.gz",
        "shards": tmp_path / "shards",
        "npz": tmp_path / "cells.npz",
        "npy": tmp_path / "cells.npy",
        "medmnist": tmp_path / "med.npz",
        "manifest": tmp_path / "list.csv",
    }


KINDS = ["folder", "zip", "tar", "tar.gz", "shards", "npz", "npy", "medmnist", "manifest"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_one_face(kinds, kind):
    source = open_source(kinds[kind])
    assert source.kind == {"npy": "npz", "tar.gz": "tar"}.get(kind, kind)
    assert source.spec == str(kinds[kind])
    assert len(source) == len(source.samples) == 2
    assert source.in_memory == (kind in ("npz", "npy", "medmnist"))
    for index in range(2):
        assert np.array_equal(source.image(index).pixels, CELL)
    assert np.array_equal(source.image(-1).pixels, CELL)
    with pytest.raises(IndexError):
        source.read(2)
    labelled = {"platelet", "basophil"} if kind != "npy" else {None}
    assert {sample.label for sample in source.samples} == labelled


@pytest.mark.parametrize("kind", KINDS)
def test_sources_travel_to_other_processes_without_open_files_or_pixels(kinds, kind):
    source = open_source(kinds[kind])
    source.read(0)
    packed = pickle.dumps(source)
    assert len(packed) < 2000, "a listing, no pixels"
    copy = pickle.loads(packed)
    assert copy.samples == source.samples
    assert np.array_equal(copy.image(1).pixels, CELL)


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprints_are_stable_and_follow_a_change(kinds, kind):
    source = open_source(kinds[kind])
    first = source.fingerprint()
    assert len(first) == 64
    assert first == open_source(kinds[kind]).fingerprint()
    inside = {"folder": "folder/basophil/a.png", "manifest": "folder/basophil/a.png", "shards": "shards/0.tar"}
    path = kinds[kind].parent / inside.get(kind, kinds[kind].name)
    with path.open("ab") as file:
        file.write(b"x")
    # Sizes and times of single files are taken when a folder is listed, all else when asked.
    again = open_source(kinds[kind]) if kind in ("folder", "manifest") else source
    assert again.fingerprint() != first


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_is_readable_after_a_fork(kinds, kind):
    source = open_source(kinds[kind])
    source.read(0)
    child = os.fork() if hasattr(os, "fork") else pytest.skip("no fork here")
    if child == 0:
        os._exit(0 if np.array_equal(source.image(1).pixels, CELL) else 1)
    assert np.array_equal(source.image(1).pixels, CELL)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "does not exist"),
        ("a.tar.gz", "is no gzip file, or a damaged one"),
        ("a.tgz", "is no gzip file, or a damaged one"),
        ("a.tar.zst", r"is compressed (.tar.zst); decompress it first"),
        ("a.tar.bz2", "decompress it first"),
        ("a.tar.xz", "decompress it first"),
        ("a.jpg", "is of no known kind (.jpg)"),
        ("noext", "is of no known kind (no extension)"),
        ("bad\0name", "cannot be looked at|does not exist"),
    ],
)
def test_what_is_no_source_is_named_with_a_next_step(tmp_path, monkeypatch, name, words):
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))
    if "missing" not in name and "\0" not in name:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path / name)
    assert any(word in str(caught.value) for word in words.split("|"))
    assert caught.value.step


def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(SourceError, match="is no regular file"):
        open_source(tmp_path / "pipe.npz")


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.npz").write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SourceError, match="Permission denied"):
        open_source(tmp_path / "a.npz")


def test_a_folder_named_like_the_record_is_a_path_when_given_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bloodmnist").mkdir()
    Path("bloodmnist/a.png").write_bytes(PNG)
    assert open_source(Path("bloodmnist")).kind == "folder"
    assert open_source("./bloodmnist").kind == "folder"
    with pytest.raises(SourceError, match="no such size, there are 28, 64, 128, 224"):
        open_source("bloodmnist:32")


def test_an_unreadable_sample_raises_its_reason(tmp_path):
    (tmp_path / "link.png").symlink_to("nowhere.png")
    source = open_source(tmp_path)
    for ask in (source.read, source.image):
        with pytest.raises(DecodeError, match=r"image 'link.png': links to nothing"):
            ask(0)


def test_decoding_errors_name_the_sample(tmp_path):
    (tmp_path / "broken.png").write_bytes(PNG[:40])
    with pytest.raises(DecodeError, match=r"image 'broken.png': is a PNG file of 40 bytes that is damaged"):
        open_source(tmp_path).image(0)


def test_class_numbers_take_the_eight_cells_or_plain_names():
    assert name_labels([1, None], None, what="a") == (["eosinophil", None], CELL_CLASSES)
    assert name_labels([8], None, what="a") == (["class-08"], tuple(f"class-{n:02d}" for n in range(9)))
    assert name_labels([1], ["cat", "dog"], what="a") == (["dog"], ("cat", "dog"))


def test_class_names_are_ordered_and_may_be_ordered_by_hand():
    assert name_labels(["Neutrophils", "ig"], None, what="a") == (["neutrophil", "ig"], ("ig", "neutrophil"))
    assert name_labels(["ig", "blast"], None, what="a")[1] == ("blast", "ig")
    assert name_labels(["ig", "blast"], ["IG", "blast", "other"], what="a")[1] == ("ig", "blast", "other")
    assert name_labels([None, None], ["ig"], what="a") == ([None, None], ())


@pytest.mark.parametrize(
    ("raw", "classes", "words"),
    [
        ([0, "ig"], None, "mixes class numbers (0) and class names ('ig')"),
        ([0, -1], None, "label -1 of a: is negative"),
        ([2], ["x", "y"], "label 2 of a: has no name, 2 classes are named"),
        ([10**9], None, "label 1000000000 of a: is no class number"),
        (["blast"], ["ig"], "label 'blast' of a: is not among the classes given (ig); add it to --classes"),
        ([0], ["ig", "igs"], "names a class twice"),
        ([0], ["ig", " "], "holds an empty name"),
    ],
)
def test_labels_that_do_not_fit_are_an_error(raw, classes, words):
    with pytest.raises(SourceError) as caught:
        name_labels(raw, classes, what="a")
    assert words in str(caught.value)


def test_repeated_ids_never_take_one_that_is_there():
    ids, repeated = number_repeats(["a", "a#2", "a", "a", "a#2"])
    assert ids == ["a", "a#2", "a#3", "a#4", "a#2#2"]
    assert repeated == [False, False, True, True, True]


@pytest.mark.real_data
@pytest.mark.skipif("HEMALENS_DATA" not in os.environ, reason="HEMALENS_DATA is not set")
def test_the_real_cells_open_as_shards():
    source = open_source(Path(os.environ["HEMALENS_DATA"]) / "pbc")
    assert source.kind == "shards"
    assert source.classes == CELL_CLASSES
    assert len(source) == 11_959 + 1_712
    assert source.ignored == ()
    assert source.samples[0].sample_id == "train-000.tar/basophil/BA_101381.jpg"
    pixels = source.image(0).pixels
    assert pixels.shape == (216, 216, 3)
    assert source.image(0).conversions == ()


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "shards", "manifest"])
def test_a_part_sent_to_another_process_reads_the_same_bytes_and_carries_nothing_else(kinds, kind):
    source = open_source(kinds[kind])
    for index in range(len(source)):
        part = pickle.loads(pickle.dumps(source.part([index])))
        assert part.samples == source.samples[index : index + 1]
        assert part.read(0) == source.read(index)
        assert part.ignored == ()
        assert all(len(getattr(part, name)) == 1 for name in part.listed if getattr(source, name))


def test_a_part_of_shards_names_only_the_shards_that_it_reads(tmp_path):
    for shard in range(3):
        hostile.write_tar(tmp_path / f"{shard}.tar", [(f"{n}.png", hostile.encode(hostile.cell(8, n))) for n in (0, 1)])
    source = open_source(tmp_path)
    part = source.part([1, 2, 3])
    assert part.names == ("0.tar", "1.tar")
    assert [part.read(index) for index in range(3)] == [source.read(index) for index in (1, 2, 3)]
