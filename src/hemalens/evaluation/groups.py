"""An audit's background batches to their own scores: does the pattern hurt?

Needs no torch.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hemalens.core.metrics import accuracy, bootstrap_interval, confusion_matrix
from hemalens.core.records import open_record
from hemalens.core.types import FloatArray
from hemalens.data.decisions import read_issues
from hemalens.data.sources import Source, content_sha256
from hemalens.evaluation.chosen import Chosen

__all__ = ["background_batch", "score_groups"]


def background_batch(audit: Path) -> set[str]:
    """Return the content hashes of the samples that an audit found on another background than the rest.

    Contents, not ids: cleaning into folders may give a sample another path, never other bytes.
    """
    issues = read_issues(audit)
    manifest = open_record(audit, "audit").table("manifest.csv", dict.fromkeys(("sample_id", "sha256"), pl.String))
    members = issues.filter(pl.col("issue") == "colour_cluster").select("sample_id").unique()
    return set(manifest.join(members, on="sample_id")["sha256"].drop_nulls().to_list())


def score_groups(members: set[str], source: Source, chosen: Chosen, probabilities: FloatArray) -> dict[str, Any]:
    """Return the scores of the members, by content hash, and of the rest; nothing where there are not both."""
    inside = np.array([content_sha256(source.read(place)) in members for place in chosen.places])
    known, predicted = chosen.labels >= 0, probabilities.argmax(axis=1)
    groups = {}
    for name, rows in (("grey_background", inside & known), ("other", ~inside & known)):
        if rows.any():
            matrix = confusion_matrix(chosen.labels[rows], predicted[rows], probabilities.shape[1])
            groups[name] = {"n": int(rows.sum()), "accuracy": asdict(bootstrap_interval(matrix, accuracy))}
    return groups if len(groups) == 2 else {}
