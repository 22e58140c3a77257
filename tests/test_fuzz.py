"""The fuzzer itself: it accounts for every image, goes on where it was, and keeps what it finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hemalens.data.reading.decode import Decoded, decode
from tests import fuzz

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and timers of POSIX")


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge without limits: they would stay on the process of the tests."""
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *_: None)


def test_a_image_depends_on_the_seed_and_its_number_alone() -> None:
    assert fuzz.case(0, 77) == fuzz.case(0, 77)
    assert fuzz.case(0, 77) != fuzz.case(1, 77)
    assert {name.partition(".")[2] for name, _ in (fuzz.case(0, n) for n in range(60))} == set(fuzz._SUFFIX.values())


def test_whole_images_are_decoded_and_repaired_checksums_get_further() -> None:
    for index, (_, data) in enumerate(fuzz.seeds()):
        outcome, words = fuzz.judge("", data)
        assert outcome == "decoded" or "frames" in words, index
    whole = fuzz.seeds()[0][1]
    assert fuzz.repaired(whole) == whole
    broken = bytearray(whole)
    broken[29] ^= 1  # in the checksum of the header
    assert fuzz.judge("", bytes(broken))[0] == "refused"
    assert fuzz.repaired(bytes(broken)) == whole


def test_a_run_that_was_stopped_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    fuzz.fuzz(150, seed=3, out=tmp_path / "stopped", workers=0)
    stopped = fuzz.fuzz(420, seed=3, out=tmp_path / "stopped", workers=0)
    whole = fuzz.fuzz(420, seed=3, out=tmp_path / "whole", workers=0)
    for key in ("done", "outcomes", "refusals", "findings"):
        assert stopped[key] == whole[key]
    assert whole["done"] == 420
    assert whole["findings"] == []
    assert min(whole["outcomes"][name] for name in ("decoded", "refused")) > 50


def test_what_is_neither_decoded_nor_refused_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(data: bytes, *, name: str) -> Decoded:
        if name == "7.jpg" or name.startswith("7."):
            raise NameError("a defect")
        return decode(data, name=name)

    monkeypatch.setattr(fuzz, "decode", faulty)
    tally = fuzz.fuzz(20, seed=0, out=tmp_path, workers=0)
    name, data = fuzz.case(0, 7)
    assert tally["findings"] == [{"file": f"seed-0-{name}", "what": "NameError: a defect"}]
    assert (tmp_path / f"seed-0-{name}").read_bytes() == data


def test_the_script_says_in_its_status_that_nothing_was_found(tmp_path: Path) -> None:
    command = [sys.executable, fuzz.__file__, "60", "--workers", "1", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 60
