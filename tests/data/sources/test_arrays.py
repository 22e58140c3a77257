"""Arrays: the challenge's layout, MedMNIST's, and each way in which a file can fail to be either."""

import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemalens.core.errors import DecodeError, SourceError
from hemalens.core.types import CELL_CLASSES
from hemalens.data.sources import arrays as module
from hemalens.data.sources import open_source
from tests.data import hostile

IMAGES = np.stack([hostile.cell(seed=seed) for seed in range(3)])


def save(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def error_of(path):
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert caught.value.step
    return str(caught.value)


@pytest.mark.parametrize("labels", [[2, 0, 7], [[2], [0], [7]], np.array([2, 0, 7], np.uint8)])
def test_the_challenges_layout(tmp_path, labels):
    source = open_source(save(tmp_path, images=IMAGES, labels=labels))
    assert [sample.sample_id for sample in source.samples] == ["row-000000", "row-000001", "row-000002"]
    assert [sample.label for sample in source.samples] == ["erythroblast", "basophil", "platelet"]
    assert source.classes == CELL_CLASSES
    assert np.array_equal(source.read(1), IMAGES[1])
    assert np.array_equal(source.image(1).pixels, IMAGES[1])


def test_images_are_not_loaded_before_the_first_is_read(tmp_path, monkeypatch):
    path = save(tmp_path, images=IMAGES, labels=[0, 1, 2])
    sizes = []
    real = np.lib.format.read_array
    monkeypatch.setattr(np.lib.format, "read_array", lambda *a, **k: sizes.append((out := real(*a, **k)).size) or out)
    source = open_source(path)
    assert sizes == [3]
    source.read(0)
    source.read(1)
    assert sizes == [3, IMAGES.size]


def test_rows_are_copies(tmp_path):
    source = open_source(save(tmp_path, images=IMAGES, labels=[0, 1, 2]))
    source.read(0)[:] = 0
    assert np.array_equal(source.read(0), IMAGES[0])


def test_grey_rows_are_repeated(tmp_path):
    source = open_source(save(tmp_path, images=IMAGES[..., 0], labels=[0, 1, 2]))
    assert np.array_equal(source.image(0).pixels, np.stack([IMAGES[0, ..., 0]] * 3, axis=2))


def test_more_than_eight_class_numbers_get_plain_names(tmp_path):
    source = open_source(save(tmp_path, images=IMAGES, labels=[0, 9, 3]))
    assert [sample.label for sample in source.samples] == ["class-00", "class-09", "class-03"]


def test_class_names_may_be_in_the_file_or_given(tmp_path):
    path = save(tmp_path, images=IMAGES, labels=[0, 1, 1], classes=["cat", "dog"])
    assert open_source(path).classes == ("cat", "dog")
    assert [sample.label for sample in open_source(path, classes=["x", "y"]).samples] == ["x", "y", "y"]


def test_text_labels_ids_groups_and_splits_survive(tmp_path):
    source = open_source(
        save(
            tmp_path,
            images=IMAGES,
            labels=["platelets", "", "ig"],
            ids=["a/1.png", "a/2.png", "a/2.png"],
            groups=["p1", "", "p2"],
            splits=["train", "", "test"],
        )
    )
    assert [sample.label for sample in source.samples] == ["platelet", None, "ig"]
    assert [sample.sample_id for sample in source.samples] == ["a/1.png", "a/2.png", "a/2.png#2"]
    assert [sample.group for sample in source.samples] == ["p1", None, "p2"]
    assert [sample.split for sample in source.samples] == ["train", None, "test"]
    assert "duplicate id" in source.samples[2].unreadable
    assert source.classes == ("ig", "platelet")


def test_byte_text_is_read(tmp_path):
    source = open_source(save(tmp_path, images=IMAGES, labels=np.array([b"ig", b"ig", b""])))
    assert [sample.label for sample in source.samples] == ["ig", "ig", None]


def test_medmnist_keeps_its_splits(tmp_path):
    source = open_source(
        save(
            tmp_path,
            train_images=IMAGES,
            train_labels=[[0], [1], [2]],
            val_images=IMAGES[:1],
            val_labels=[[3]],
            test_images=IMAGES[1:],
            test_labels=[[4], [7]],
        )
    )
    assert source.kind == "medmnist"
    assert [(sample.sample_id, sample.split) for sample in source.samples][2:5] == [
        ("train/row-000002", "train"),
        ("val/row-000000", "val"),
        ("test/row-000000", "test"),
    ]
    assert np.array_equal(source.read(3), IMAGES[0])
    assert np.array_equal(source.read(5), IMAGES[2])
    assert source.classes == CELL_CLASSES


def test_a_lone_array_is_unlabelled(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    source = open_source(tmp_path / "a.npy")
    assert source.classes == ()
    assert np.array_equal(source.read(2), IMAGES[2])


def test_row_names_grow_with_the_number_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_NAME_DIGITS", 1)
    np.save(tmp_path / "a.npy", np.zeros((11, 1, 1), np.uint8))
    samples = open_source(tmp_path / "a.npy").samples
    assert (samples[0].sample_id, samples[-1].sample_id) == ("row-00", "row-10")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": IMAGES, "labels": [0, 1]}, "array 'labels' of {}: has 2 rows for 3 images"),
        ({"images": IMAGES, "labels": [[0, 1]] * 3}, "array 'labels' of {}: has the shape (3, 2)"),
        ({"images": IMAGES, "labels": [0.0, 1.0, 2.0]}, "array 'labels' of {}: has the type float64"),
        ({"images": IMAGES, "labels": [True, False, True]}, "has the type bool"),
        ({"images": IMAGES, "labels": [0, -1, 2]}, "label -1 of {}: is negative"),
        ({"images": IMAGES}, "lacks the array 'labels'"),
        ({"labels": [0]}, "lacks the array 'images' (it holds labels)"),
        ({"images": IMAGES[0, 0], "labels": [0]}, "array 'images' of {}: has the shape (8, 3)"),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": [0, 1, 2]}, "move the channels to the last axis"),
        ({"images": IMAGES[:0], "labels": []}, "has the shape (0, 8, 8, 3)"),
        ({"images": IMAGES.astype(np.int64), "labels": [0, 1, 2]}, "has the type int64"),
        ({"images": IMAGES.astype(complex), "labels": [0, 1, 2]}, "has the type complex128"),
        ({"images": IMAGES, "labels": [0, 1, 2], "ids": ["a"]}, "array 'ids' of {}: has the shape (1,)"),
        ({"images": IMAGES, "labels": [0, 1, 2], "splits": ["dev"] * 3}, "split 'dev' in row 0 of {}"),
        ({"images": IMAGES, "labels": [0, 1, 2], "classes": ["a", "b"]}, "label 2 of {}: has no name"),
        ({"train_images": IMAGES}, "lacks the array 'train_labels'"),
        ({"train_images": IMAGES, "train_labels": np.zeros((3, 14), int)}, "has the shape (3, 14)"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, arrays, words):
    path = save(tmp_path, **arrays)
    assert words.format(path) in error_of(path)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("member", ["images", "labels", "classes"])
def test_pickled_objects_are_an_error_and_never_loaded(tmp_path, member):
    arrays = {"images": IMAGES, "labels": [0, 1, 2], "classes": ["a", "b", "c"]}
    arrays[member] = np.array([Bomb(tmp_path / "trap")] * 3, dtype=object)
    assert "holds Python objects, which are never unpickled" in error_of(save(tmp_path, **arrays))
    assert not (tmp_path / "trap").exists()


def test_a_pickle_named_npy_is_an_error_and_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Bomb(tmp_path / "trap")], dtype=object), allow_pickle=True)
    assert "Python objects" in error_of(tmp_path / "a.npy")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"text"])
def test_files_that_are_no_arrays_are_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "is no readable" in error_of(tmp_path / name)


def test_fewer_bytes_than_the_shape_announces_are_an_error_when_opening(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-5])
    assert "571 bytes of data for the shape (3, 8, 8, 3) uint8, 576 are needed" in error_of(tmp_path / "a.npy")


def test_a_damaged_member_is_a_source_error_once_it_is_read(tmp_path):
    path = save(tmp_path, images=np.tile(IMAGES, (100, 1, 1, 1)), labels=[0, 1, 2] * 100)
    data = bytearray(path.read_bytes())
    data[data.rindex(IMAGES.tobytes())] ^= 0xFF
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(SourceError, match=r"array 'images' of .* is no readable array \(Bad CRC-32"):
        source.read(0)


def test_members_that_are_no_arrays_do_not_disturb(tmp_path):
    path = save(tmp_path, images=IMAGES, labels=[0, 1, 2])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "x")
    assert len(open_source(path)) == 3


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    np.savez_compressed(folder / "a.npz", images=IMAGES, labels=[0, 1, 2], ids=["a", "b", "c"])
    np.save(folder / "a.npy", IMAGES)
    return folder, {suffix: (folder / f"a.{suffix}").read_bytes() for suffix in ("npz", "npy")}


@given(suffix=st.sampled_from(["npz", "npy"]), seed=st.integers(0, 2**32 - 1), changes=st.integers(1, 6))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_arrays_open_or_are_an_error_and_nothing_else(packed, suffix, seed, changes):
    folder, whole = packed
    path = folder / f"mutated.{suffix}"
    path.write_bytes(hostile.mutate(whole[suffix], seed, changes))
    try:
        source = open_source(path)
        for index in range(len(source)):
            source.image(index)
    except (SourceError, DecodeError):
        return
