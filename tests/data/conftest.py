"""Synthetic sets and one audit of them, made once for all tests of the data phase; nobody may write to them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hemalens.core.audit_summary import AuditSummary
from hemalens.data.audit.audit import audit
from hemalens.data.audit.statistics import Statistics
from hemalens.data.synthetic import SyntheticSet, synthetic_set
from tests.data.measured import measured


@dataclass(frozen=True)
class Audited:
    """A contaminated set as a file, and its audit."""

    made: SyntheticSet
    source: Path
    out: Path
    summary: AuditSummary

    def planted_ids(self) -> set[str]:
        """The planted rows, and the cells whose copy carries another label."""
        rows = {int(row) for row in np.flatnonzero(self.made.planted)}
        rows |= {
            int(twin)
            for twin, reason in zip(self.made.twins, self.made.reasons, strict=True)
            if reason == "label_conflict"
        }
        return {f"row-{row:06d}" for row in rows}


@pytest.fixture(scope="session")
def cells() -> SyntheticSet:
    """304 sound cells of 48 px on one background."""
    return synthetic_set(38, size=48, seed=4, contamination=False)


@pytest.fixture(scope="session")
def measured_cells(cells: SyntheticSet) -> Statistics:
    return measured(cells.images)


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """200 cells and what is planted among them, audited."""
    folder = tmp_path_factory.mktemp("audited")
    made = synthetic_set(25, size=48, seed=3)
    np.savez(folder / "cells.npz", images=made.images, labels=made.labels[:, None])
    summary = audit(folder / "cells.npz", folder / "audit", workers=0)
    return Audited(made, folder / "cells.npz", folder / "audit", summary)
