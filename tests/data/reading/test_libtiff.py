"""The TIFF library says nothing on stderr, which belongs to the one line of an error."""

import sys
from pathlib import Path

import pytest

from hemalens.core.errors import DecodeError
from hemalens.data.reading.decode import decode
from hemalens.data.reading.libtiff import silence_libtiff
from tests.data.corpus import images


@pytest.mark.skipif(sys.platform != "linux", reason="looked for on Linux alone")
@pytest.mark.parametrize("name", ["broken-deflate.tif", "broken-lzw.tif"])
def test_a_damaged_tiff_is_unreadable_without_a_word_on_stderr(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = next(case.data for case in images() if case.name == name)
    with pytest.raises(DecodeError, match="damaged"):
        decode(data)
    assert capfd.readouterr().err == ""


def test_where_it_cannot_be_found_nothing_is_done(tmp_path: Path) -> None:
    assert silence_libtiff(tmp_path / "none") == 0
    (tmp_path / "maps").write_text("7f00-7f01 r-xp 00000000 00:00 1   /gone/libtiff-1.so.6 (deleted)\n")
    assert silence_libtiff(tmp_path / "maps") == 0
    (tmp_path / "others").write_text("7f00-7f01 r-xp 00000000 00:00 1   /gone/libtiff-1.so.6\n")
    assert silence_libtiff(tmp_path / "others") == 0
