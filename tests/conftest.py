"""What all tests share: where the real cells are."""

import os
from pathlib import Path

import pytest

_BLANK = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1" aria-label="nothing"></svg>'


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real cells, named by HEMALENS_DATA; tests that need it are skipped without it."""
    folder = os.environ.get("HEMALENS_DATA")
    if not folder:
        pytest.skip("HEMALENS_DATA is not set: the real cells are not here")
    return Path(folder)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures undrawn where a test does not look at them: they take most of an evaluation's time."""
    for module in ("evaluate", "report_parts", "robustness"):
        monkeypatch.setattr(f"hemalens.evaluation.{module}.figure_svg", lambda *_, **__: _BLANK)
