"""Folders: labels by folder, what is set aside, and everything a file system can hold that is no image."""

import os
import socket

import pytest

from hemalens.core.errors import DecodeError, SourceError
from hemalens.data.sources import open_source
from tests.data import hostile

PNG = hostile.encode(hostile.cell())


def fill(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PNG)
    return root


def facts(source):
    return [(sample.sample_id, sample.label, sample.split) for sample in source.samples]


def test_class_folders_give_canonical_labels_in_the_challenges_order(tmp_path):
    source = open_source(fill(tmp_path, "Platelets/b.png", "Platelets/a.png", "Immature Granulocytes/sub/c.png"))
    assert facts(source) == [
        ("Immature Granulocytes/sub/c.png", "ig", None),
        ("Platelets/a.png", "platelet", None),
        ("Platelets/b.png", "platelet", None),
    ]
    assert source.classes == ("ig", "platelet")


def test_a_flat_folder_is_unlabelled(tmp_path):
    source = open_source(fill(tmp_path, "b.png", "a.png"))
    assert facts(source) == [("a.png", None, None), ("b.png", None, None)]
    assert source.classes == ()


def test_a_file_beside_class_folders_is_unlabelled(tmp_path):
    assert facts(open_source(fill(tmp_path, "ig/a.png", "stray.png"))) == [
        ("ig/a.png", "ig", None),
        ("stray.png", None, None),
    ]


def test_split_folders_come_before_class_folders(tmp_path):
    source = open_source(fill(tmp_path, "Train/ig/a.png", "validation/ig/b.png", "test/c.png"))
    assert facts(source) == [
        ("Train/ig/a.png", "ig", "train"),
        ("test/c.png", None, "test"),
        ("validation/ig/b.png", "ig", "val"),
    ]


def test_a_wrapping_folder_is_stepped_into_and_stays_in_the_ids(tmp_path):
    assert facts(open_source(fill(tmp_path, "data/ig/a.png", "data/platelet/b.png", "README.md"))) == [
        ("data/ig/a.png", "ig", None),
        ("data/platelet/b.png", "platelet", None),
    ]


def test_wrapped_splits_are_found(tmp_path):
    assert facts(open_source(fill(tmp_path, "data/train/ig/a.png"))) == [("data/train/ig/a.png", "ig", "train")]


def test_a_single_cell_class_with_a_folder_per_patient_is_no_wrapper(tmp_path):
    assert facts(open_source(fill(tmp_path, "ig/patient1/a.png"))) == [("ig/patient1/a.png", "ig", None)]


def test_classes_can_be_ordered_and_strangers_are_named(tmp_path):
    fill(tmp_path, "cat/a.png", "dog/b.png")
    assert open_source(tmp_path).classes == ("cat", "dog")
    assert open_source(tmp_path, classes=["dog", "cat"]).classes == ("dog", "cat")
    with pytest.raises(SourceError, match=r"label 'dog' .* is not among the classes given"):
        open_source(tmp_path, classes=["cat"])


def test_what_is_no_image_is_set_aside_with_its_reason_and_the_rest_is_tried(tmp_path):
    fill(tmp_path, "a.png", "b.pdf", "noext", ".DS_Store", "Thumbs.db", "desktop.ini", "labels.CSV", "provenance.json")
    fill(tmp_path, "__MACOSX/._a.png", ".git/config")
    source = open_source(tmp_path)
    assert [sample.sample_id for sample in source.samples] == ["a.png", "b.pdf", "noext"]
    assert dict(source.ignored) == {
        ".DS_Store": "hidden",
        ".git/": "hidden folder, not looked into",
        "Thumbs.db": "left by the operating system",
        "__MACOSX/": "hidden folder, not looked into",
        "desktop.ini": "left by the operating system",
        "labels.CSV": "metadata (.csv)",
        "provenance.json": "metadata (.json)",
    }


@pytest.mark.parametrize("names", [(), ("notes.txt",)])
def test_a_folder_without_images_is_an_error(tmp_path, names):
    fill(tmp_path, *names)
    with pytest.raises(SourceError, match="holds no file that could be an image"):
        open_source(tmp_path)


def test_links_are_followed_to_files_inside_only(tmp_path):
    root = fill(tmp_path / "root", "ig/a.png")
    fill(tmp_path, "secret.png", "elsewhere/b.png")
    (root / "ig/inside.png").symlink_to("a.png")
    (root / "ig/out.png").symlink_to(tmp_path / "secret.png")
    (root / "ig/loop.png").symlink_to("loop.png")
    (root / "ig/gone.png").symlink_to("nowhere.png")
    (root / "ig/up").symlink_to("..")
    (root / "ig/above").symlink_to("../..")
    (root / "away").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to("ig")
    source = open_source(root)
    assert {sample.sample_id: sample.unreadable for sample in source.samples} == {
        "ig/a.png": None,
        "ig/inside.png": None,
        "ig/out.png": "links out of the source",
        "ig/loop.png": "links in a loop",
        "ig/gone.png": "links to nothing (No such file or directory)",
    }
    assert dict(source.ignored) == {
        "ig/up": "links back up (a loop), not followed",
        "ig/above": "links back up (a loop), not followed",
        "away": "links out of the source, not followed",
        "again": "links to a folder, not followed",
    }
    assert [sample.label for sample in source.samples] == ["ig"] * 5
    assert source.read(2) == PNG


def test_pipes_and_sockets_are_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(fill(tmp_path, "a.png"))
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("door.png")  # a relative name: socket paths are limited to about 100 bytes
        source = open_source(tmp_path)
    assert [sample.sample_id for sample in source.samples] == ["a.png"]
    assert [name for name, reason in source.ignored if "never opened" in reason] == ["door.png", "pipe.png"]


def test_a_pipe_put_in_a_images_place_is_not_waited_for(tmp_path):
    source = open_source(fill(tmp_path, "a.png"))
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DecodeError, match="not a regular file"):
        source.read(0)


def test_names_outside_utf8_and_with_control_signs_are_escaped_and_read(tmp_path):
    names = [b"two\nlines.png", b"caf\xe9.png", "Zürich.png".encode(), b"tab\t.png", "flip\u202egnp.png".encode()]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(PNG)
    source = open_source(tmp_path)
    ids = [sample.sample_id for sample in source.samples]
    assert ids == ["Zürich.png", "caf\\xe9.png", "flip\\u202egnp.png", "tab\\t.png", "two\\nlines.png"]
    assert all(source.read(index) == PNG for index in range(5))
    "".join(ids).encode("utf-8")


def test_two_names_with_one_escaped_id_stay_two_samples(tmp_path):
    fill(tmp_path, "a\nb.png", "a\\nb.png")
    source = open_source(tmp_path)
    assert [sample.sample_id for sample in source.samples] == ["a\\nb.png", "a\\nb.png#2"]
    assert source.samples[0].unreadable is None
    assert "duplicate id" in source.samples[1].unreadable


def test_a_file_without_permission_is_an_unreadable_sample(tmp_path, monkeypatch):
    # Root may read everything, so the system's answer is given by hand.
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("b.png") and real(path, mode))
    source = open_source(fill(tmp_path, "a.png", "b.png"))
    assert [sample.unreadable for sample in source.samples] == [None, "cannot be read (Permission denied)"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    fill(tmp_path, "ig/a.png", "shut/b.png")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert open_source(tmp_path).ignored == (("shut/", "folder cannot be listed (Permission denied)"),)
    with pytest.raises(SourceError, match="cannot be listed"):
        open_source(tmp_path / "shut")


def test_a_file_that_vanishes_is_an_error_of_its_own(tmp_path):
    source = open_source(fill(tmp_path, "a.png", "b.png"))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DecodeError, match=r"image 'a.png': cannot be read"):
        source.read(0)
    assert source.read(1) == PNG


def test_oversized_files_are_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(600 << 20)  # sparse: no disk is used
    assert open_source(tmp_path).samples[0].unreadable == "has 629,145,600 bytes unpacked, the limit is 536,870,912"


def test_label_files_beside_images_speak(tmp_path):
    fill(tmp_path, "0.png", "1.seg.png", "2.png", "3.png")
    (tmp_path / "0.cls").write_text("7\n")
    (tmp_path / "1.json").write_text('{"label": 3, "group": 12, "split": "validation"}')
    (tmp_path / "2.json").write_text('{"label": [1]}')
    (tmp_path / "3.json").write_text("{")
    zero, one, two, three = open_source(tmp_path).samples
    assert (zero.label, one.label, one.group, one.split) == ("platelet", "ig", "12", "val")
    assert two.unreadable == "its label file '2.json' is unusable (label [1] is neither number nor name)"
    assert "'3.json' is unusable" in three.unreadable


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["a"]', "not a JSON object"),
        ('{"split": "dev"}', "split 'dev'"),
        ("[" * 60_000, "unusable"),
        ("\xff", "codec"),
    ],
)
def test_unusable_label_files_make_their_image_alone_unreadable(tmp_path, text, words):
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    first, second = open_source(tmp_path).samples
    assert words in first.unreadable
    assert second.unreadable is None


def test_a_huge_label_file_is_not_read(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "a.json").write_text(" " * 70_000)
    assert "70,000 bytes" in open_source(tmp_path).samples[0].unreadable
