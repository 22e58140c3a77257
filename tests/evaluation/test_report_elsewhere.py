import re

import pytest

from hemalens.core.artifacts import read_json, write_json
from hemalens.core.errors import ArtifactError
from hemalens.core.page import ABSENT
from hemalens.core.records import open_record
from hemalens.evaluation.report import report
from hemalens.evaluation.report_elsewhere import one_source, share
from hemalens.evaluation.report_inputs import load_inputs
from tests.evaluation.factory import confusion, make_elsewhere, make_evaluation, make_run, make_train
from tests.evaluation.test_report import paper, plain
from tests.recording import record_again

pytestmark = pytest.mark.usefixtures("undrawn")

ADAPTED = {"adaptation": {"zoom": 1.25, "words": "zoomed by 1.25: of 50 pictures 60 % are unlike any training cell"}}
UNMEASURED = "how the model fares on theirs was not measured here"


@pytest.fixture(scope="module")
def abroad(tmp_path_factory):
    """Make the report of a run scored elsewhere, as is and adapted; returns (folder, html, card, pdf's text)."""
    base = tmp_path_factory.mktemp("abroad")
    train = make_train(base / "train")
    make_evaluation(base / "evaluate", train, source="c")
    there = [make_elsewhere(base / "as-is", train), make_elsewhere(base / "adapted", train, **ADAPTED)]
    report([train], base / "out", elsewhere=there)
    html, card = (plain((base / "out" / name).read_text("utf-8")) for name in ("report.html", "model_card.md"))
    return base, html, card, paper(base / "out" / "report.pdf")


@pytest.mark.parametrize(
    "words",
    [
        "The model was also scored on cells from cells.tar.",
        "cells.tar as they are 40 90.0 % [",
        "cells.tar zoomed by 1.25 40 90.0 % [",
        "75.0 % [59.8, 85.8] 30 of 40",
        "60.0 % [31.3, 83.2] 6 of 10",
        "10 blast",
        "neutrophil cells.tar as they are 40 90.0 % [76.9, 96.0]",
        "cells.tar: of the model's 8 classes only neutrophil occurs, with a recall of 90.0 %; at home it is 96.8 %.",
        "The scale was sought without a look at the labels (zoomed by 1.25: of 50 pictures 60 %",
        "for 4 cells of kinds that it does not know, and every one of these answers is wrong: monocyte 3, ig 1.",
        "On other laboratories' cells its accuracy is 90.0 % [",
        "on 40 cells of cells.tar, of which it refuses 75.0 %; 90.0 % [",
        "on 40 cells of cells.tar zoomed by 1.25, of which it refuses 75.0 %.",
        "One other laboratory is not all",
        "and the laboratory where it is to be used, named by several experts",
    ],
)
def test_the_report_says_what_was_measured_elsewhere(abroad, words):
    page = abroad[1].replace("&#39;", "'")
    assert words in page
    assert re.sub(r"\W", "", words) in re.sub(r"\W", "", abroad[3].replace("-\n", ""))


def test_what_is_kept_is_counted_from_the_single_answers(abroad):
    assert "60.0 % [31.3, 83.2] 6 of 10" in abroad[1].replace("&#39;", "'")
    (there, _) = load_inputs([abroad[0] / "train"], (), [abroad[0] / "as-is", abroad[0] / "adapted"]).main.elsewhere
    assert (there.refused, there.kept_right) == (30, 6)
    assert there.strangers == {"blast": (10, 6)}
    assert there.named == {"monocyte": 3, "ig": 1}


def test_limits_and_card_say_what_was_measured_and_no_longer_that_nothing_was(abroad):
    for page in abroad[1:3]:
        assert UNMEASURED not in page
        assert "Of basophil, eosinophil, erythroblast, ig, lymphocyte, monocyte and platelet nothing is known" in page
    assert "Universality: accuracy 90.0 % [" in abroad[2]
    assert "On other laboratories' cells" in abroad[2]
    assert "not measured on pictures from another laboratory" not in abroad[2]


def test_the_report_vouches_for_what_it_read_elsewhere(abroad):
    read = set(open_record(abroad[0] / "out", "report").facts["inputs"])
    names = {f"elsewhere-{place}/{name}" for place in (1, 2) for name in ("evaluation.json", "predictions.csv")}
    assert {name.partition("/")[2] for name in read} >= names


def test_without_a_measurement_elsewhere_nothing_is_claimed(tmp_path):
    report([make_run(tmp_path / "a")], tmp_path / "out")
    html, card = (plain((tmp_path / "out" / name).read_text("utf-8")) for name in ("report.html", "model_card.md"))
    assert "Other laboratories have other stains" in html
    assert UNMEASURED in html
    assert "Universality: not measured on pictures from another laboratory." in card


def test_a_run_that_was_scored_only_elsewhere_says_so(tmp_path):
    train = make_train(tmp_path / "train")
    report([train], tmp_path / "out", elsewhere=[make_elsewhere(tmp_path / "there", train)])
    html, card = (plain((tmp_path / "out" / name).read_text("utf-8")) for name in ("report.html", "model_card.md"))
    assert "nothing is known about its accuracy at home." in html
    assert "of the model&#39;s 8 classes only neutrophil occurs." in html
    assert "accuracy at home." in card


def test_all_cells_refused_and_no_strangers_leave_dashes(tmp_path):
    train = make_train(tmp_path / "train")
    there = make_elsewhere(tmp_path / "there", train)
    rows = "\n".join(["label,predicted,abstained", *["neutrophil,ig,true"] * 40])
    (there / "predictions.csv").write_text(rows, encoding="utf-8")
    record_again(there)
    report([train], tmp_path / "out", elsewhere=[there])
    html = plain((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert f"40 of 40 {ABSENT} none {ABSENT}" in html


def test_sources_of_one_name_are_told_apart_by_their_folders(tmp_path):
    train = make_train(tmp_path / "train")
    places = [("a", "b", "munich/cells.tar"), ("b", "b", "munich/cells.tar"), ("c", "d", "x/lyon/cells.tar")]
    there = [make_elsewhere(tmp_path / name, train, source=of, spec=spec) for name, of, spec in places]
    found = load_inputs([train], (), [*there, there[0]]).main.elsewhere
    assert [one.name for one in found] == ["munich/cells.tar", "munich/cells.tar", "lyon/cells.tar"]
    words = "".join(str(one) for one in one_source(found, ["ig", "neutrophil"]).words)
    assert "2 other laboratories are not all" in words


@pytest.mark.parametrize(
    ("source", "rule"),
    [("a", "the source that the model was trained on"), ("c", "the source of the report's own scores")],
)
def test_the_models_own_sources_are_not_taken_for_another_laboratory(tmp_path, source, rule):
    train = make_train(tmp_path / "train")
    make_evaluation(tmp_path / "evaluate", train, source="c")
    there = make_elsewhere(tmp_path / "there", train, source=source)
    with pytest.raises(ArtifactError, match=f"{rule}: these are not the cells of another laboratory"):
        report([train], tmp_path / "out", elsewhere=[there])
    assert not (tmp_path / "out").exists()


def test_the_source_that_the_training_samples_were_cleaned_from_is_no_other_laboratory(tmp_path):
    run = make_run(tmp_path / "a")
    record = read_json(run / "audit" / "provenance.json")
    write_json(run / "audit" / "provenance.json", record | {"inputs": {"source": "e" * 64}})
    there = make_elsewhere(tmp_path / "there", run / "train", source="e")
    with pytest.raises(ArtifactError, match="training samples were taken from"):
        load_inputs([run], (), [there])


def test_an_evaluation_of_another_model_is_refused(tmp_path):
    train, other = make_train(tmp_path / "a"), make_train(tmp_path / "b")
    there = make_elsewhere(tmp_path / "there", other)
    with pytest.raises(ArtifactError, match=r"is of another model than that of the report's first run; evaluate"):
        load_inputs([train], (), [there])


def test_an_unfinished_evaluation_or_one_without_its_source_is_refused(tmp_path):
    train = make_train(tmp_path / "a")
    there = make_elsewhere(tmp_path / "there", train)
    record = read_json(there / "provenance.json")
    write_json(there / "provenance.json", record | {"inputs": {"model": record["inputs"]["model"]}})
    with pytest.raises(ArtifactError, match="does not record what it scored"):
        load_inputs([train], (), [there])
    (there / "provenance.json").unlink()
    with pytest.raises(ArtifactError, match=r"has no provenance\.json"):
        load_inputs([train], (), [there])


def test_only_the_first_of_several_runs_is_described_elsewhere(tmp_path):
    runs = [make_train(tmp_path / name / "train") for name in ("a", "b")]
    for run in runs:
        make_evaluation(run.parent / "evaluate", run, matrix=confusion(), source="c", answers=True)
    there = make_elsewhere(tmp_path / "there", runs[0])
    first, second = load_inputs([run.parent for run in runs], (), [there]).runs
    assert len(first.elsewhere) == 1
    assert second.elsewhere == ()


def test_a_share_of_nothing_has_no_interval():
    assert share(0, 0) is None
    found = share(0, 10)
    assert found.value == found.low == 0.0
    assert found.high == pytest.approx(0.2775, abs=1e-4)  # Wilson 1927: z^2 / (n + z^2)
