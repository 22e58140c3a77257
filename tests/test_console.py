"""What commands show: lines for people, one JSON object for programs, from the first process only."""

import json

import pytest

from hemalens.console import (
    SHOWN,
    abstention_lines,
    adaptation_lines,
    audit_lines,
    corruption_lines,
    rate_lines,
    score_lines,
    show,
    speaks,
    watched,
)
from hemalens.core.audit_summary import ClassCount, FoundIssue
from tests.evaluation.factory import audit_summary, evaluation, trust

INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.755}


def test_lines_or_one_json_object_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show({"a": "ä"}, False, ["one", "two"])
    assert capsys.readouterr().out == "one\ntwo\n"
    show({"a": "ä"}, True, ["one", "two"])
    assert json.loads(capsys.readouterr().out) == {"a": "ä"}


def test_of_several_processes_only_the_first_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert speaks()
    monkeypatch.setenv("RANK", "1")
    assert not speaks()
    show({}, False, ["one"])
    assert capsys.readouterr().out == ""


def test_no_bar_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with watched() as progress:
        progress("reading", 1, 2)
        progress("reading", 2, 2)
    assert capsys.readouterr().err.strip() == ""


def test_an_audit_shows_every_class_and_issue() -> None:
    words = {"title": "", "words": "what it means"}
    counts = {"foreign": (1, 0), "exact_duplicate": (4, 2), "outlier": (3, 1)}
    issues = {name: FoundIssue(samples=n, groups=groups, **words) for name, (n, groups) in counts.items()}
    classes = {"": ClassCount(before=9, after=4)}
    lines = audit_lines(audit_summary(n_samples=9, suggested_drops=5, classes=classes, issues=issues))
    assert lines[0] == "9 samples, 5 suggested to drop"
    assert "(no label)" in lines[1]
    assert lines[2:] == [
        "  foreign          1 sample: what it means",
        "  exact_duplicate  4 samples in 2 groups: what it means",
        "  outlier          3 samples in 1 group: what it means",
    ]


def test_a_long_curve_is_thinned_out() -> None:
    curve = [{"lr": 1e-3 * step, "loss": 1.0} for step in range(100)]
    lines = rate_lines({"curve": curve, "suggestion": 0.02, "configured": 0.05})
    assert lines[0] == "suggested lr 0.02 (the recipe has 0.05)"
    assert len(lines) - 2 <= SHOWN


def test_scores_are_in_percent_with_their_interval() -> None:
    lines = score_lines(dict.fromkeys(("accuracy", "macro_f1", "distorted"), INTERVAL))
    assert lines[0] == "accuracy: 50.00 % [25.00, 75.50]"
    assert len(lines) == 3


def test_a_score_over_some_of_the_classes_says_so() -> None:
    classes = {"ig": {"support": 3}, "platelet": {"support": 0}}
    lines = score_lines({"macro_f1": INTERVAL, "per_class": classes})
    assert lines == ["macro F1 (labels of 1 of 2 classes): 50.00 % [25.00, 75.50]"]


def test_abstention_is_shown_for_known_and_unknown_classes() -> None:
    found = {
        "coverage": 0.75,
        "accuracy_kept": 0.995,
        "unknown_classes": {"n": 1200, "abstained": INTERVAL, "auroc": {}},
    }
    assert abstention_lines(evaluation(n=400, abstention=found)) == [
        "abstained on 25.0 % of 400 samples; 99.50 % of its answers are correct",
        "abstained on 50.0 % of 1,200 samples of classes that it does not know",
    ]
    assert abstention_lines(evaluation(n=4, abstention={"coverage": 0.0, "accuracy_kept": None})) == [
        "abstained on 100.0 % of 4 samples"
    ]


def test_corruptions_are_one_line_with_the_alexnet_where_it_knew_the_classes() -> None:
    facts = trust()["corruption_facts"] | {"mean_balanced_error": 0.05125}
    lines = corruption_lines(evaluation(corruptions={"be": 0.4561, "rbe": 0.3}, corruption_facts=facts))
    assert lines == ["balanced error under corruptions: 5.12 % (BE 0.456, rBE 0.300; 1 is the AlexNet of MedMNIST-C)"]
    lines = corruption_lines(evaluation(corruptions={"be": None, "rbe": None}, corruption_facts=facts))
    assert lines == ["balanced error under corruptions: 5.12 %"]
    assert corruption_lines(evaluation()) == []


def test_an_adaptation_is_one_line_where_there_was_one() -> None:
    assert adaptation_lines({"adaptation": {"words": "zoomed by 1.25"}}) == ["adaptation: zoomed by 1.25"]
    assert adaptation_lines({}) == []
