"""Disks that are full, folders that may not be written, processes that are killed: no part is taken for the whole."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hemalens.core.artifacts import PROVENANCE
from hemalens.core.errors import ArtifactError, SourceError
from hemalens.core.recorded import open_record
from hemalens.data.audit.audit import audit
from hemalens.data.clean import clean
from hemalens.data.sources import open_source
from hemalens.data.split import split
from tests.data.kills import accepted, contents, sources, stages
from tests.forking import ENVIRONMENT, said_by

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, limits and SIGKILL")

HERE = Path(__file__).parent


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as on a disk with no more room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores SIGXFSZ: writes fail instead
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    sources(folder)
    audit(folder / "cells", folder / "audited", workers=0)
    audit(folder / "cells.npz", folder / "audited.npz", workers=0)
    return folder


@pytest.fixture
def pageless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.data.audit.audit.render_audit", lambda view, summary: "<html></html>")


def test_stages_killed_at_any_call_leave_nothing_that_is_taken_for_whole_and_run_again(tmp_path: Path) -> None:
    outcome = said_by(HERE / "kills.py", tmp_path, 8, 0)
    assert outcome["wrong"] == []
    assert outcome["killed"] == 32
    assert min(outcome["calls"].values()) > 50


def test_an_audit_in_workers_killed_from_outside_runs_again(prepared: Path, tmp_path: Path) -> None:
    script = "import sys; from hemalens.cli import main; main()"
    command = [sys.executable, "-c", script, "audit", prepared / "cells", "--out", tmp_path / "audit", "--workers", "2"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    while not (tmp_path / "audit").exists():
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate()  # ends only when the workers have let go of the pipes too
    with pytest.raises(ArtifactError, match=r"not written to its end|does not exist"):
        open_record(tmp_path / "audit", "audit")
    assert audit(prepared / "cells", tmp_path / "audit", workers=0).n_samples == 10
    assert not list((tmp_path / "audit").glob(".*"))


@pytest.mark.parametrize("stage", ["audit", "clean", "clean.npz", "split"])
@pytest.mark.parametrize("room", [0, 40, 300, 1_500, 4_000])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_that_is_taken(
    stage: str, room: int, prepared: Path, tmp_path: Path, pageless: None
) -> None:
    target, run = stages(prepared, tmp_path)[stage]
    said = ""
    with full_after(room):
        try:
            run(False)
        except ArtifactError as error:
            said = str(error)
    if not said:
        assert room >= 300, "there is room for all"
        return
    assert "cannot be written (" in said
    assert "\n" not in said
    whole = accepted(stage, target)
    assert not whole or target.is_file(), "a single file may be there whole, its provenance is not"
    run(whole)
    assert accepted(stage, target)
    assert not [name for name in contents(target) if name.endswith(".tmp")]


def test_a_full_disk_stops_a_table_of_parquet_too(
    prepared: Path, tmp_path: Path, pageless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemalens.core.artifacts._PARQUET_ROWS", 1)
    with full_after(700), pytest.raises(ArtifactError, match="cannot be written"):
        audit(prepared / "cells", tmp_path / "audit", workers=0)
    assert not accepted("audit", tmp_path / "audit")
    audit(prepared / "cells", tmp_path / "audit", workers=0)
    tables = {path.name for path in (tmp_path / "audit").iterdir() if path.suffix in (".csv", ".parquet")}
    assert tables == {"issues.parquet", "manifest.parquet", "statistics.parquet"}


def test_a_directory_that_was_not_written_to_its_end_is_no_source(prepared: Path, tmp_path: Path) -> None:
    clean(prepared / "cells", tmp_path / "clean", audit=prepared / "audited")
    (tmp_path / "clean" / PROVENANCE).rename(tmp_path / "clean" / ".hemalens-started")
    for take in (open_source, lambda path: split(path, tmp_path / "splits.csv")):
        with pytest.raises(SourceError, match="was not written to its end"):
            take(tmp_path / "clean")


def test_without_permission_nothing_is_half_done() -> None:
    """A person without rights: as root a child gives its own up first, as tests of containers run as root."""
    home = Path(tempfile.mkdtemp(prefix="hemalens-"))  # pytest's own folders are closed to others
    try:
        said = said_by(HERE / "unprivileged.py", home)
        assert not os.access(home / "closed", os.W_OK) or os.geteuid() == 0
    finally:
        for path in home.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
        shutil.rmtree(home)
    assert said["reasons"] == {
        "ig/locked.png": "cannot be read (Permission denied)",
        "ig/closed/": "folder cannot be listed (Permission denied)",
    }
    assert said["errors"].keys() == {"audit", "clean", "clean.npz", "split", "locked source", "locked archive"}
    for stage, error in said["errors"].items():
        assert "Permission denied" in error, stage
    assert said["left"] == []
