"""The words of a finding are those the tables use."""

from hemalens.data.audit.checks.finding import SUGGESTIONS


def test_suggestions_have_the_names_of_the_table() -> None:
    assert set(SUGGESTIONS) == {"keep", "drop", "review"}
