"""The words of a finding are those the tables use."""

from hemalens.data.audit.checks.finding import ISSUES, SUGGESTIONS


def test_issues_and_suggestions_have_the_names_of_the_table() -> None:
    assert set(SUGGESTIONS) == {"keep", "drop", "review"}
    assert len(ISSUES) == len(set(ISSUES))
    assert {
        *("unreadable", "converted", "odd_size", "exact_duplicate", "label_conflict", "foreign"),
        *("outlier", "background_batch", "blurry", "dark", "bright"),
    } <= set(ISSUES)
