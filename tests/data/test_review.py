"""Serving a review: on this machine alone, only of a whole audit of this very source, ended from the page."""

import socket
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from hemalens.core.artifacts import PROVENANCE
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.data.audit import audit
from hemalens.data.review import finished_audit, review
from tests.data.hostile import cell


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "cells.npz", images=[cell(8, 1), cell(8, 1), cell(8, 2)], labels=[0, 0, 1])
    audit(tmp_path / "cells.npz", tmp_path / "audit", classes=["round", "square"], workers=0)
    return tmp_path


def refused(address: str) -> None:
    raise AssertionError(f"{address} was announced")


def test_the_review_is_served_on_this_machine_until_the_page_ends_it(folder: Path) -> None:
    addresses: list[str] = []

    def finish(address: str) -> None:
        addresses.append(address)
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}api/finish", b"{}", headers)
        threading.Thread(target=lambda: urllib.request.urlopen(request, timeout=20).close()).start()

    told = review(folder / "cells.npz", folder / "audit", announce=finish)
    assert addresses[0].startswith("http://127.0.0.1:")
    assert len(addresses[0].split("/")[3]) >= 32
    assert (told["kept"], told["dropped"], told["relabelled"]) == (2, 1, 0)
    assert told["command"].endswith("--out clean/ --classes round,square")


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"address 127.0.0.1:{port}: cannot be used .*; choose another"):
            review(folder / "cells.npz", folder / "audit", port=port, announce=refused)


def test_an_audit_of_another_source_or_an_unfinished_one_is_refused(folder: Path) -> None:
    np.savez(folder / "other.npz", images=[cell(8, 3)], labels=[0])
    with pytest.raises(ArtifactError, match=r"is not what .* was made from"):
        review(folder / "other.npz", folder / "audit", announce=refused)
    (folder / "audit" / PROVENANCE).unlink()
    assert finished_audit(folder / "audit") is None
    with pytest.raises(ArtifactError, match="not written to its end"):
        review(folder / "cells.npz", folder / "audit", announce=refused)


def test_a_finished_audit_is_not_repeated(folder: Path) -> None:
    summary = finished_audit(folder / "audit")
    assert summary is not None
    assert summary["n_samples"] == 3
    assert finished_audit(folder) is finished_audit(folder / "nowhere") is None
