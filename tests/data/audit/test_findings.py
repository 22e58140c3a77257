"""All checks together: each speaks, and the rows come in the order a person would read them."""

import numpy as np

from hemalens.data.audit.findings import Inspection, find_all
from hemalens.data.audit.issues import issue_names
from hemalens.data.audit.statistics import Statistics
from hemalens.data.synthetic import SyntheticSet
from tests.data.measured import measured, samples_of


def test_findings_are_ordered_by_issue_group_and_falling_score(cells: SyntheticSet) -> None:
    images = [*cells.images[:60], cells.images[3], None, np.zeros((48, 48, 3), np.uint8)]
    statistics: Statistics = measured(images)
    labels = ["ig"] * 60 + ["monocyte", "ig", "ig"]
    inspection = Inspection(statistics, samples_of(labels))
    findings = find_all(inspection)
    keys = [(issue_names().index(f.issue), f.group, -f.score, f.index) for f in findings]
    assert keys == sorted(keys)
    assert {"unreadable", "exact_duplicate", "label_conflict", "foreign", "dark"} <= {f.issue for f in findings}
    assert set(inspection.analysis.findings) <= set(findings)
    assert {f.index for f in findings if f.issue == "label_conflict"} == {3, 60}
