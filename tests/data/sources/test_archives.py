"""Zips, tars and shards: the folder rules on member names, and archives built to do harm."""

import io
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemalens.core.errors import DecodeError, SourceError
from hemalens.data.sources import open_source
from tests.data import hostile

PNG = hostile.encode(hostile.cell())
WRITERS = {"zip": hostile.write_zip, "tar": hostile.write_tar}


def reasons(source):
    return {sample.sample_id: sample.unreadable for sample in source.samples}


def info(name, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize("kind", WRITERS)
def test_members_follow_the_folder_rules(tmp_path, kind):
    members = [
        ("./data/platelet/b.png", PNG),
        ("./data/ig/a.png", PNG),
        ("README.md", b"x"),
        ("__MACOSX/._a.png", b"x"),
    ]
    source = open_source(WRITERS[kind](tmp_path / f"a.{kind}", members))
    assert [(sample.sample_id, sample.label) for sample in source.samples] == [
        ("data/ig/a.png", "ig"),
        ("data/platelet/b.png", "platelet"),
    ]
    assert dict(source.ignored) == {"README.md": "metadata (.md)", "__MACOSX/._a.png": "hidden"}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "ig/../../evil.png", "C:/evil.png", "ig\\..\\evil.png"]
)
def test_names_that_lead_out_are_unreadable(tmp_path, kind, name):
    source = open_source(WRITERS[kind](tmp_path / f"a.{kind}", [("ig/a.png", PNG), (name, PNG)]))
    bad = [sample for sample in source.samples if sample.sample_id != "ig/a.png"]
    assert [sample.unreadable for sample in bad] == ["has a name that leads out of the archive"]
    assert source.classes[0] in ("C:", "ig")
    with pytest.raises(DecodeError):
        source.read(source.samples.index(bad[0]))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_name_is_kept_once_and_unreadable_after(tmp_path, kind):
    other = hostile.encode(hostile.cell(seed=1))
    source = open_source(WRITERS[kind](tmp_path / f"a.{kind}", [("a.png", PNG), ("a.png", other), ("b.png", PNG)]))
    assert reasons(source) == {
        "a.png": None,
        "a.png#2": "has the id of an earlier image (duplicate id)",
        "b.png": None,
    }
    assert source.read(0) == PNG


@pytest.mark.parametrize("kind", WRITERS)
def test_line_feeds_in_member_names_are_escaped(tmp_path, kind):
    source = open_source(WRITERS[kind](tmp_path / f"a.{kind}", [("two\nlines.png", PNG)]))
    assert source.samples[0].sample_id == "two\\nlines.png"
    assert source.read(0) == PNG


def test_bytes_outside_utf8_in_tar_names_are_escaped(tmp_path):
    source = open_source(
        hostile.write_tar(tmp_path / "a.tar", [(b"caf\xe9.png".decode("utf-8", "surrogateescape"), PNG)])
    )
    assert source.samples[0].sample_id == "caf\\xe9.png"
    assert source.read(0) == PNG


def test_backslashes_in_zips_are_separators(tmp_path):
    packed = zipfile.ZipInfo("x")
    packed.filename = "ig\\a.png"
    assert open_source(hostile.write_zip(tmp_path / "a.zip", [(packed, PNG)])).samples[0].label == "ig"


def test_links_and_devices_in_tars_are_unreadable(tmp_path):
    members = [
        ("a.png", PNG),
        (info("hard.png", tarfile.LNKTYPE, "a.png"), b""),
        (info("soft.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (info("pipe.png", tarfile.FIFOTYPE), b""),
        (info("ig", tarfile.DIRTYPE), b""),
    ]
    assert reasons(open_source(hostile.write_tar(tmp_path / "a.tar", members))) == {
        "a.png": None,
        "hard.png": "is a link, not a file",
        "soft.png": "is a link, not a file",
        "pipe.png": "is a sparse file, pipe or device, not a plain file",
    }


def test_links_encrypted_and_oversized_members_of_zips_are_unreadable(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    path = hostile.write_zip(
        tmp_path / "a.zip", [("a.png", PNG), (link, b"/etc/passwd"), ("big.png", PNG), ("locked.png", PNG)]
    )
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    big = data.index(b"big.png", directory) - 46
    data[big + 24 : big + 28] = (600 << 20).to_bytes(4, "little")
    data[data.index(b"locked.png", directory) - 46 + 8] |= 1
    path.write_bytes(data)
    assert reasons(open_source(path)) == {
        "a.png": None,
        "big.png": "has 629,145,600 bytes unpacked, the limit is 536,870,912",
        "link.png": "is a link, not a file",
        "locked.png": "is encrypted",
    }


def test_a_member_without_a_name_is_unreadable(tmp_path):
    path = hostile.write_zip(tmp_path / "a.zip", [("a.png", PNG), ("q", PNG)])
    data = path.read_bytes()
    entry = data.rindex(b"PK\x01\x02")
    path.write_bytes(data[: entry + 28] + bytes(2) + (1).to_bytes(2, "little") + data[entry + 32 :])
    assert reasons(open_source(path))["(no name)"] == "has a name that leads out of the archive"


def test_a_damaged_zip_member_is_an_error_of_its_own(tmp_path):
    path = hostile.write_zip(tmp_path / "a.zip", [("a.png", PNG), ("b.png", PNG)])
    data = bytearray(path.read_bytes())
    data[data.index(PNG) + 50] ^= 0xFF
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(DecodeError, match=r"image 'a.png': cannot be unpacked \(Bad CRC-32"):
        source.read(0)
    assert source.read(1) == PNG


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", PNG])
def test_what_is_no_zip_is_an_error(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(SourceError, match="is no zip archive"):
        open_source(tmp_path / "a.zip")


def test_a_truncated_zip_is_an_error(tmp_path):
    path = hostile.write_zip(tmp_path / "a.zip", [("a.png", PNG)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SourceError, match="or one cut short"):
        open_source(path)


def test_a_tar_cut_inside_a_member_makes_that_member_unreadable(tmp_path):
    path = hostile.write_tar(tmp_path / "a.tar", [("a.png", PNG), ("b.png", PNG)])
    path.write_bytes(path.read_bytes()[: 512 + 512 + 512 + 40])
    source = open_source(path)
    assert reasons(source) == {"a.png": None, "b.png": "is cut short: the archive ends inside it"}
    assert source.read(0) == PNG


def test_a_tar_cut_between_members_says_so(tmp_path):
    path = hostile.write_tar(tmp_path / "a.tar", [("a.png", PNG), ("b.png", PNG)])
    path.write_bytes(path.read_bytes()[:1024])
    source = open_source(path)
    assert len(source) == 1
    assert source.ignored == (("(end of archive)", "no end mark: the archive may be cut short"),)


def test_a_damaged_header_does_not_hide_what_follows(tmp_path):
    path = hostile.write_tar(tmp_path / "a.tar", [("a.png", PNG), ("b.png", PNG), ("c.png", PNG)])
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 0x55  # in the checksum of the second header
    path.write_bytes(data)
    with pytest.raises(SourceError, match="unreadable header or a second archive after 1,024 bytes"):
        open_source(path)


def test_joined_tars_are_an_error_rather_than_half_read(tmp_path):
    one = hostile.write_tar(tmp_path / "1.tar", [("a.png", PNG)]).read_bytes()
    (tmp_path / "a.tar").write_bytes(one + one)
    with pytest.raises(SourceError, match="a second archive"):
        open_source(tmp_path / "a.tar")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_named_whatever_it_is_called(tmp_path, mode):
    with tarfile.open(tmp_path / "a.tar", mode) as tar:
        tar.addfile(info("a.png"), io.BytesIO())
    with pytest.raises(SourceError, match=r"is a tar compressed with .*; decompress it first"):
        open_source(tmp_path / "a.tar")


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, bytes(10_240)])
def test_what_is_no_tar_is_an_error(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError):
        open_source(tmp_path / "a.tar")


def test_a_tar_that_shrinks_after_opening_is_noticed(tmp_path):
    path = hostile.write_tar(tmp_path / "a.tar", [("a.png", PNG)])
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DecodeError, match="the archive ends after 88 of its"):
        source.read(0)


def test_label_files_in_tars_speak(tmp_path):
    members = [
        ("000.jpg", PNG),
        ("000.cls", b"3"),
        ("001.jpg", PNG),
        ("001.json", b'{"label": 7, "group": "slide 9", "split": "train"}'),
        ("002.jpg", PNG),
    ]
    source = open_source(hostile.write_tar(tmp_path / "a.tar", members))
    assert [(sample.label, sample.group, sample.split) for sample in source.samples] == [
        ("ig", None, None),
        ("platelet", "slide 9", "train"),
        (None, None, None),
    ]


def test_a_folder_of_tars_is_shards(tmp_path):
    hostile.write_tar(tmp_path / "1.tar", [("platelet/a.png", PNG), ("0.cls", b"x")])
    hostile.write_tar(tmp_path / "0.tar", [("ig/a.png", PNG)])
    (tmp_path / "README.md").write_text("x")
    source = open_source(tmp_path)
    assert [(sample.sample_id, sample.label) for sample in source.samples] == [
        ("0.tar/ig/a.png", "ig"),
        ("1.tar/platelet/a.png", "platelet"),
    ]
    assert source.ignored == (("1.tar/0.cls", "metadata (.cls)"), ("README.md", "metadata (.md)"))


def test_one_name_in_two_shards_is_two_samples_with_their_own_label_files(tmp_path):
    for shard in "012":
        hostile.write_tar(tmp_path / f"{shard}.tar", [("0.jpg", PNG), ("0.cls", shard.encode())])
    samples = open_source(tmp_path).samples
    assert [sample.label for sample in samples] == ["basophil", "eosinophil", "erythroblast"]
    assert [sample.unreadable for sample in samples] == [None] * 3


def test_a_damaged_shard_is_one_unreadable_sample_and_the_rest_is_read(tmp_path):
    hostile.write_tar(tmp_path / "0.tar", [("ig/a.png", PNG)])
    (tmp_path / "1.tar").write_bytes(b"broken" * 200)
    source = open_source(tmp_path)
    assert reasons(source)["0.tar/ig/a.png"] is None
    assert reasons(source)["1.tar"].startswith("shard cannot be opened: is no tar archive")
    (tmp_path / "0.tar").unlink()
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(SourceError, match="is no tar archive"):
        open_source(tmp_path)


def test_more_shards_than_files_kept_open_are_read_in_any_order(tmp_path):
    for shard in range(40):
        hostile.write_tar(tmp_path / f"{shard:02d}.tar", [("ig/a.png", PNG)])
    source = open_source(tmp_path)
    assert all(source.read(index) == PNG for index in [*range(40), 0, 39, 1])


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    members = [("ig/a.png", PNG), ("ig/" + "long" * 40 + ".png", PNG), ("platelet/b.png", PNG), ("c.json", b"{}")]
    return folder, {kind: write(folder / f"whole.{kind}", members).read_bytes() for kind, write in WRITERS.items()}


@given(kind=st.sampled_from(sorted(WRITERS)), seed=st.integers(0, 2**32 - 1), changes=st.integers(1, 6))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_archives_open_or_are_an_error_and_nothing_else(archives, kind, seed, changes):
    folder, whole = archives
    path = folder / f"mutated.{kind}"
    path.write_bytes(hostile.mutate(whole[kind], seed, changes))
    try:
        source = open_source(path)
    except SourceError:
        return
    for index in range(len(source)):
        try:
            source.image(index)
        except DecodeError:
            continue
