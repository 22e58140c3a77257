"""The section on the problem says what ``audit.json`` says, issues that this version never heard of included."""

import pytest

from hemalens.core.audit_summary import ClassCount, FoundIssue, ShownImage
from hemalens.report.inputs import load_inputs
from hemalens.report.sections.problem import problem_section
from tests.evaluation.factory import audit_summary, make_run
from tests.recording import record_again


def section_of(tmp_path, **changes):
    run = make_run(tmp_path / "run")
    audit_summary(**changes).write(run / "audit" / "audit.json")
    record_again(run / "audit")
    return problem_section(load_inputs([run]).main, tmp_path)


def test_an_issue_that_no_code_of_the_report_names_is_in_its_table_and_shown(tmp_path):
    issues = {"too_red": FoundIssue(samples=7, groups=0, title="Red images", words="the image is too red")}
    shown = ShownImage(file="images/too_red-1.png", sample_id="row-000002", label="ig", words="")
    section = section_of(tmp_path, issues=issues, images={"too_red": (shown,)})
    table = next(block for block in section.blocks if getattr(block, "anchor", "") == "issues")
    assert list(table.rows[0]) == ["Red images", "the image is too red", "7", "0"]
    gallery = next(block for block in section.blocks if getattr(block, "anchor", "") == "found-too_red")
    assert gallery.caption == "Red images: the image is too red."
    assert len(gallery.items) == 1


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((40, 40), "After cleaning all of them have 40."),
        ((41, 40), "the largest class (ig, 41) and the smallest (monocyte, 40) are nearly of the same size."),
        ((90, 40), "the largest class (ig, 90) and the smallest (monocyte, 40) differ by a factor of 2.2."),
        ((90, 0), "There is only one class, so nothing to balance."),
        ((0, 0), "No class has a sample left."),
    ],
)
def test_the_balance_of_the_classes_is_said_in_words_that_fit(tmp_path, counts, words):
    classes = {name: ClassCount(before=90, after=n) for name, n in zip(("ig", "monocyte"), counts, strict=True)}
    assert words in str(section_of(tmp_path, classes=classes).blocks)
