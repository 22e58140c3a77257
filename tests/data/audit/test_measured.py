"""What an audit measured: read again to the bit, and images known again by their content, whatever their ids."""

from pathlib import Path

import numpy as np
import pytest

from hemalens.core.errors import ArtifactError
from hemalens.data.audit import measured, statistics
from hemalens.data.audit.audit import audit
from hemalens.data.audit.measured import measure_unknown, read_statistics
from hemalens.data.audit.statistics import measure_source
from hemalens.data.clean import clean
from hemalens.data.sources import open_source
from hemalens.data.split import split
from tests.data.hostile import cell, encode
from tests.recording import record_again


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of two classes, one damaged, one twice, one with alpha."""
    root = tmp_path_factory.mktemp("cells")
    for number in range(30):
        path = root / ("ig", "platelet")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(cell(24, number))[: 60 if number == 3 else None])
    (root / "ig" / "00-again.png").write_bytes(encode(cell(24, 0)))
    return root


@pytest.fixture(scope="module")
def audited(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audited") / "out"
    audit(folder, out, workers=0)
    return out


def unmeasured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen: list[object] = []
    reduce = statistics._reduce
    monkeypatch.setattr(statistics, "_reduce", lambda image, data: (seen.append(image.size), reduce(image, data))[1])
    return seen


def test_what_was_measured_is_read_again_to_the_bit(folder: Path, audited: Path) -> None:
    wanted, found = measure_source(open_source(folder), workers=0), read_statistics(audited)
    assert found is not None
    assert found.measurements == wanted.measurements
    assert np.array_equal(found.thumbnails, wanted.thumbnails)
    assert [bool(reason) for reason in found.reasons] == [bool(reason) for reason in wanted.reasons]


@pytest.mark.parametrize("kind", ["folder", "clean.npz"])
def test_a_cleaned_source_is_split_without_measuring_it_again(
    kind: str, folder: Path, audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(folder, tmp_path / kind, audit=audited)
    split(tmp_path / kind, tmp_path / "plain.csv", ratios="6:2:2")
    seen = unmeasured(monkeypatch)
    split(tmp_path / kind, tmp_path / "known.csv", ratios="6:2:2", audit=audited)
    assert seen == []
    assert (tmp_path / "known.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_only_images_that_nobody_measured_are_measured(
    folder: Path, audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.png").write_bytes(encode(cell(24, 5)))
    (tmp_path / "a.png").write_bytes(encode(cell(20, 99)))
    (tmp_path / "c.png").write_bytes(b"no image")
    source, known = open_source(tmp_path), read_statistics(audited)
    assert known is not None
    wanted = measure_source(source, workers=0)
    seen = unmeasured(monkeypatch)
    found = measure_unknown(source, known, workers=0)
    assert seen == [(20, 20)]
    assert found.measurements == wanted.measurements
    assert found.reasons == wanted.reasons
    assert np.array_equal(found.thumbnails, wanted.thumbnails)


def test_an_audit_without_thumbnails_is_no_help_and_a_damaged_one_an_error(folder: Path, tmp_path: Path) -> None:
    audit(folder, tmp_path / "out", workers=0)
    kept = tmp_path / "out" / measured._THUMBNAILS
    data = kept.read_bytes()
    kept.write_bytes(data[:-9])
    with pytest.raises(ArtifactError, match="is not what 'audit' wrote"):
        read_statistics(tmp_path / "out")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_statistics(record_again(tmp_path / "out"))
    with kept.open("wb") as file:
        np.save(file, np.zeros((3, 16, 16, 3), np.uint8))
    with pytest.raises(ArtifactError, match="does not have the rows"):
        read_statistics(record_again(tmp_path / "out"))
    kept.unlink()
    assert read_statistics(record_again(tmp_path / "out")) is None
