import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from PIL import Image
from pypdf import PdfReader

from hemalens.core.artifacts import output_directory, output_file, read_json, write_json
from hemalens.core.document import Document
from hemalens.core.errors import ArtifactError
from hemalens.core.page import render_document
from hemalens.core.records import open_record
from hemalens.core.types import CELL_CLASSES
from hemalens.data.audit import audit
from hemalens.data.synthetic import synthetic_set
from hemalens.evaluation.report import report, write_report
from hemalens.evaluation.report_inputs import load_inputs
from hemalens.evaluation.report_results import results_section
from tests.core.test_page import Page
from tests.evaluation.factory import (
    CONFIG,
    confusion,
    extras,
    make_audit,
    make_evaluation,
    make_mistakes,
    make_run,
    make_splits,
    make_train,
    trust,
)
from tests.recording import record_again

# Where a test does not look at drawings they are left out; `whole` and `bare`, made before, have them.
pytestmark = pytest.mark.usefixtures("undrawn")


def plain(text):
    """Drop tags and fold every kind of space, so that sentences can be looked for."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).replace(" .", ".").replace(" ;", ";").replace(" ,", ",")


def paper(path):
    """Read the text of a PDF, every kind of space folded."""
    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in PdfReader(path).pages))


def pages_of(runs, out):
    report(runs, out)
    return tuple((out / name).read_text(encoding="utf-8") for name in ("report.html", "model_card.md"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Make the report of a run with every optional piece; returns (run, html, card)."""
    base = tmp_path_factory.mktemp("whole")
    run = make_run(base / "baseline")
    return run, *pages_of([run], base / "out")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Make the report of a training alone; returns (html, card)."""
    base = tmp_path_factory.mktemp("bare")
    train = make_train(base / "lonely", epochs=1, perturbed=False)
    return pages_of([train], base / "out")


def test_a_report_is_a_finished_directory_that_vouches_for_what_it_read(tmp_path):
    run = make_run(tmp_path / "baseline")
    summary = report([run], tmp_path / "out")
    record = open_record(tmp_path / "out", "report").facts
    assert set(record["outputs"]) == {"report.html", "report.pdf", "model_card.md", "experiments.csv"}
    assert set(record["inputs"]) == {
        f"baseline/{name}"
        for name in (
            "train/config.json",
            "train/model.json",
            "train/history.csv",
            "evaluate/evaluation.json",
            "audit/audit.json",
            "splits.csv",
        )
    }
    assert summary["runs"] == ["baseline"]
    assert summary["evaluated"] == 1
    assert summary["accuracy"] == read_json(run / "evaluate" / "evaluation.json")["accuracy"]


def test_an_existing_report_is_refused_unless_overwritten(tmp_path):
    train = make_train(tmp_path / "a")
    report([train], tmp_path / "out")
    with pytest.raises(ArtifactError, match="exists already"):
        report([train], tmp_path / "out")
    report([train], tmp_path / "out", overwrite=True)


def test_the_same_runs_make_the_same_pages(tmp_path):
    run = make_run(tmp_path / "a")
    assert pages_of([run], tmp_path / "one") == pages_of([run], tmp_path / "two")
    assert (tmp_path / "one" / "report.pdf").read_bytes() == (tmp_path / "two" / "report.pdf").read_bytes()


def test_a_lone_report_is_written_into_the_run_last_and_links_to_its_audit(tmp_path):
    run = make_run(tmp_path / "a")
    names = write_report(run / "report.html", [run])["files"]
    assert names == ["report.pdf", "model_card.md", "report.html"]
    times = [(run / name).stat().st_mtime_ns for name in names]
    assert times == sorted(times)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert '<a href="audit/audit.html">' in html
    write_report(run / "report.html", [run])


def test_the_link_to_the_audit_leads_there_from_another_directory(whole):
    run, html, _ = whole
    link = re.search(r'<a href="([^"#]*audit[^"]*)"', html)[1]
    assert link == "../baseline/audit/audit.html"
    assert (run.parent / "out" / link).resolve() == (run / "audit" / "audit.html").resolve()


# --- the page as a page


@pytest.mark.parametrize("made", ["whole", "bare"])
def test_the_page_is_well_formed_and_asks_for_nothing_outside(made, request):
    html = request.getfixturevalue(made)[-2]
    found = Page(html)
    for _, attributes in found.attributes:
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name, "#")
            assert address.startswith(("#", "data:")) or re.fullmatch(r"[\w./-]+audit\.html", address)
    assert "<script" not in html
    known = [attributes["id"] for _, attributes in found.attributes if "id" in attributes]
    assert len(known) == len(set(known))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(known)


def test_headings_descend_without_a_gap_and_pictures_have_words(whole):
    found = Page(whole[1])
    levels = [int(tag[1]) for tag in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for tag, attributes in found.attributes:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["aria-label"]


SECTIONS = {
    "problem": "Problem analysis",
    "method": "Method",
    "experiments": "Experiments",
    "results": "Results",
    "discussion": "Discussion",
    "conclusions": "Conclusions",
    "reproduction": "How to reproduce",
}


def test_the_sections_of_the_course_report_stand_in_order(whole, bare):
    for html in (whole[1], bare[0]):
        assert re.findall(r'<section id="(\w+)">\s*<h2>([^<]+)</h2>', html) == list(SECTIONS.items())


def test_names_from_the_data_cannot_become_markup(tmp_path):
    name = "<script>alert(1)</script> | `x`"
    matrix, classes = confusion(), [name, *CELL_CLASSES[1:]]
    run = tmp_path / "a"
    train = make_train(run / "train", config=CONFIG | {"device": name})
    card = read_json(train / "model.json")
    write_json(train / "model.json", card | {"classes": classes, "model": name})
    record_again(train)
    scores = read_json(make_evaluation(tmp_path / "scratch", train, matrix=matrix) / "evaluation.json")
    scores["per_class"] = {name: scores["per_class"].pop("basophil")} | scores["per_class"]
    make_evaluation(run / "evaluate", train, classes=classes, per_class=scores["per_class"])
    html, markdown = pages_of([run], tmp_path / "out")
    assert "<script" not in html
    Page(html)
    assert "<script" not in markdown.replace(r"\<script", "")
    text = paper(tmp_path / "out" / "report.pdf")
    assert "<script>alert(1)</script> | `x`" in text


# --- what it says


@pytest.mark.parametrize(
    "words",
    [
        "The model compact, with 423 112 parameters, sorts pictures of single blood cells into 8 classes.",
        "source of 13 759 pictures, of which the audit suggested dropping 1812.",
        "its accuracy is 97.9 % [",
        "perturbed to look like the field, its accuracy is 91.3 % [88.9, 93.4]",
        "answers for 94.0 % of them and is right in 99.5 % of those answers.",
        "label_conflict one picture carries several labels 1602 2",
        "all 13 759 11 947 1812",
        "all 640 (80.0 %) 96 (12.0 %) 64 (8.0 %)",
        "balanced by replication, to 2000 samples a class.",
        "each with its own parameters: flip (probability 0.5); rotate; zoom (strength 0.5).",
        "smoothed by ε = 0.1",
        "the optimiser adamw, a learning rate of 0.002, weight decay 0.05, batches of 128.",
        "best epoch on a perturbed validation set, which looks like the field; training stops after 8 epochs",
        "mixed precision with bfloat16",
        "Training ran for 12 epochs of the 40 allowed and took 2 min 5 s. The weights of epoch 10 were kept.",
        "They cost 6.56 points of accuracy.",
        "The most frequent confusion is ig taken for monocyte: 9 of all 14 mistakes.",
        "expected calibration error 0.0213",
        "The same before temperature scaling 0.0456",
        "noise 5.0 % 21.0 %",
        "The data name neither patients nor slides.",
        "platelet rests on 12 samples, its recall is 91.7 % [64.6, 98.5].",
        "must not be used for diagnosis",
        "Seed 7",
    ],
)
def test_the_report_says_what_the_run_found(whole, words):
    assert words in plain(whole[1])


@pytest.mark.parametrize(
    "words",
    [
        "compact, 423 112 parameters",
        "**Not for diagnosis.**",
        "| ig | 2895 | 2689 | 206 |",
        "| Accuracy on perturbed pictures | 91.3 % [88.9, 93.4] |",
        "| platelet | 100.0 % | 91.7 % [64.6, 98.5] | 0.957 | 12 |",
        "every score here is an upper bound",
        "sha256 of model.safetensors",
    ],
)
def test_the_model_card_says_what_the_run_found(whole, words):
    assert words in re.sub(r"[^\S\n]+", " ", whole[2])


def test_the_model_cards_tables_are_whole(whole):
    blocks = re.findall(r"(?:^\|.*\|\n)+", whole[2], re.MULTILINE)
    assert len(blocks) == 5
    for block in blocks:
        rows = block.strip().splitlines()
        assert re.fullmatch(r"\|(-{3}:?\|)+", rows[1])
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


@pytest.mark.parametrize(
    "words",
    [
        "It has not been evaluated, so nothing is known about its accuracy.",
        "were not audited here: run hemalens audit",
        "There is no table of splits",
        "Not evaluated: run hemalens evaluate",
        "Training ran for 1 epoch of the 40 allowed",
        "lonely compact 423 112, 64 px scratch flip, rotate, zoom replicate 2000, bf16 not evaluated",
    ],
)
def test_what_was_not_done_is_said_plainly(bare, words):
    assert words in plain(bare[0])


def test_without_an_evaluation_no_score_is_written(bare):
    results = bare[0][bare[0].index('<section id="results">') : bare[0].index('<section id="discussion">')]
    assert not re.search(r"\d\s*%", results)
    assert "Not evaluated" in bare[1]
    assert "Not audited" in bare[1]


def test_an_evaluation_without_extras_says_what_was_not_measured(tmp_path):
    train = make_train(tmp_path / "train")
    make_evaluation(tmp_path / "evaluate", train)
    words = plain(pages_of([train], tmp_path / "out")[0])
    assert "Accuracy on perturbed pictures not measured" in words
    assert "How the model fares on distorted pictures was not measured." in words
    assert "Calibration was not measured." in words
    assert "No pictures of them were kept." in words
    assert "were not scored apart from the others" in words


def test_a_model_that_always_abstains_is_right_in_nothing_rather_than_in_a_dash(tmp_path):
    train = make_train(tmp_path / "train")
    silent = {"coverage": 0.0, "accuracy_kept": None, "threshold": 0.99}
    make_evaluation(tmp_path / "evaluate", train, abstention=silent, n_unknown_label=3)
    html, card = (plain(page) for page in pages_of([train], tmp_path / "out"))
    assert "answers for 0.0 % of the samples; the others" in html
    assert "answers for 0.0 % of the samples." in card
    assert "3 more samples have no label that the model knows" in html


def test_the_perturbed_accuracy_is_found_where_it_lies_one_level_deeper(tmp_path):
    train, score = make_train(tmp_path / "train"), {"value": 0.5, "low": 0.4, "high": 0.6}
    make_evaluation(tmp_path / "evaluate", train, perturbed={"accuracy": score})
    assert "Accuracy on perturbed pictures 50.0 % [40.0, 60.0]" in plain(pages_of([train], tmp_path / "out")[0])


def test_a_flawless_score_is_not_sold_as_certainty(tmp_path):
    train = make_train(tmp_path / "train")
    make_evaluation(tmp_path / "evaluate", train, matrix=np.diag([50] * 8))
    words = plain(pages_of([train], tmp_path / "out")[0])
    assert "No mistake was made among the 400 samples." in words
    assert "the error is below 0.8 %" in words
    assert "There are none." in words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.667, 1.0, "The intervals overlap: this test set does not support a difference"),
        (0.80, 0.90, "The intervals do not overlap: the model is worse on the grey ones, by 12.4 points."),
    ],
)
def test_a_difference_between_backgrounds_is_claimed_only_where_intervals_part(tmp_path, low, high, words):
    train, more = make_train(tmp_path / "train"), extras()
    more["groups"]["grey_background"]["accuracy"] |= {"low": low, "high": high}
    make_evaluation(tmp_path / "evaluate", train, **more)
    assert words in plain(pages_of([train], tmp_path / "out")[0])


def test_group_names_change_what_the_limits_say(tmp_path):
    html, card = pages_of([make_run(tmp_path / "a", groups=True)], tmp_path / "out")
    assert "Samples carry 10 group names, and a group is never torn apart." in plain(html)
    assert "The split keeps groups whole." in plain(html)
    assert "neither patients nor slides" not in html
    assert "The split keeps groups whole." in card


@pytest.mark.parametrize(("split", "optimistic"), [("test", False), ("val", True), ("train", True), ("all", True)])
def test_scores_on_what_the_model_has_seen_are_called_optimistic(tmp_path, split, optimistic):
    train = make_train(tmp_path / "train")
    make_evaluation(tmp_path / "evaluate", train, split=split)
    html, card = pages_of([train], tmp_path / "out")
    assert ("they are optimistic" in plain(html)) is optimistic
    assert ("they are optimistic" in card) is optimistic


def test_all_samples_of_another_source_are_not_called_seen(tmp_path):
    train = make_train(tmp_path / "train")
    make_evaluation(tmp_path / "evaluate", train, split="all", source="b")
    html, card = pages_of([train], tmp_path / "out")
    assert "they are optimistic" not in plain(html)
    assert "they are optimistic" not in card


@pytest.mark.parametrize(
    ("key", "value", "there", "gone"),
    [
        ("balance", "none", "natural frequencies", "replication"),
        ("balance", "weights", "is the weight of the class", "replication"),
        ("balance", "sampler", "inverse to the frequency", "replication"),
        ("label_smoothing", 0.0, "is 1 for the labelled class and 0 for every other", "smoothed"),
        ("augment", [], "No augmentation was used.", "on the fly"),
        ("ema", 0.0, "mixed precision", "moving average"),
        ("patience", 0, "perturbed validation set", "training stops after"),
        ("select_on", "clean", "best epoch on the clean validation set", "looks like the field;"),
        ("precision", "fp32", "32-bit floating point", "bfloat16"),
        ("weights", "imagenet", "started from pretrained weights: imagenet", "random weights"),
    ],
)
def test_the_method_follows_the_configuration(tmp_path, key, value, there, gone):
    train = make_train(tmp_path / "train", config=CONFIG | {key: value})
    words = plain(pages_of([train], tmp_path / "out")[0])
    method = words[words.index("2 Method") if "2 Method" in words else words.rindex("Splits and balance") :]
    method = method[: method.index("Training ran for")]
    assert there in method
    assert gone not in method


def test_a_configuration_of_other_keys_makes_no_sentence_and_no_error(tmp_path):
    words = plain(pages_of([make_train(tmp_path / "train", config={"model": "x"})], tmp_path / "out")[0])
    assert "None" not in words
    assert "It was trained with" not in words


# --- what evaluations may know beyond


@pytest.fixture(scope="module")
def trusted(tmp_path_factory):
    """Make the report of a run whose evaluation knows all that evaluations know; returns (html, card, pdf's text)."""
    base = tmp_path_factory.mktemp("trusted")
    train = make_train(base / "train")
    make_evaluation(base / "evaluate", train, **extras() | trust())
    return *(plain(page) for page in pages_of([train], base / "out")), paper(base / "out" / "report.pdf")


@pytest.mark.parametrize(
    "words",
    [
        "takes the expected calibration error from 0.0456 to 0.0213.",
        "ig 0.0080 0.0040",
        "a confidence under 0.71 or a distance from the training cells over 2.5, limits that refuse 5 % of the",
        "Of what it refused it would have named 62.5 % rightly.",
        "Of 40 cells of classes that it does not know it refused 75.0 % [60.0, 86.0].",
        "the mean risk, is 0.42 % by confidence.",
        "holds the true class for 90 % of the samples",
        "least ambiguous (LAC) 91.2 % [88.4, 93.4] 0.93 ig 82 %",
        "Under 2 corruptions of 5 severities the mean balanced error is 6.0 %, the AlexNet",
        "(BE) that is 0.41, relative to its loss from clean pictures (rBE) 0.37",
        "motion blur 2.0 % 4.0 % 6.0 % 8.0 % 10.0 % 6.0 %",
        "The mean expected calibration error is, by severity, 0.01 at 1, 0.02 at 2",
        "Over all corruptions and severities it errs on 6.0 % of the samples",
    ],
)
def test_calibration_refusal_sets_and_corruptions_are_told_where_they_were_measured(trusted, words):
    assert words in trusted[0]
    assert re.sub(r"\W", "", words) in re.sub(r"\W", "", trusted[2].replace("-\n", ""))


def test_the_card_names_the_error_under_corruptions(trusted):
    assert "Mean balanced error over corruptions 6.0 %." in trusted[1]


@pytest.mark.parametrize("key", sorted(trust()))
@pytest.mark.parametrize("value", [None, {}])
def test_a_piece_that_is_missing_is_left_out_and_ends_nothing(tmp_path, key, value):
    train = make_train(tmp_path / "train")
    make_evaluation(tmp_path / "evaluate", train, **extras() | trust() | {key: value})
    inputs = load_inputs([train])
    words = render_document(Document("t", (), (results_section(inputs.main),), ""))
    assert "None" not in plain(words)


@pytest.mark.parametrize("key", ["accuracy_kept", "accuracy_refused", "histogram", "rejection_rate", "unknown_classes"])
def test_a_refusal_that_knows_less_says_less(tmp_path, key):
    train, more = make_train(tmp_path / "train"), extras() | trust()
    del more["abstention"][key]
    make_evaluation(tmp_path / "evaluate", train, **more)
    words = plain(render_document(Document("t", (), (results_section(load_inputs([train]).main),), "")))
    assert "None" not in words
    assert "Risk against coverage" in words


# --- what the audit and the other stages leave


def test_the_pictures_and_the_map_of_an_audit_are_shown(tmp_path):
    run = tmp_path / "run"
    make_train(run / "train")
    cells = synthetic_set({"basophil": 40, "platelet": 40}, size=24)
    (tmp_path / "s").mkdir()
    np.savez(tmp_path / "s" / "cells.npz", images=cells.images, labels=cells.labels)
    audit(tmp_path / "s" / "cells.npz", run / "audit", workers=0)
    html = pages_of([run], tmp_path / "out")[0]
    shown = len(read_json(run / "audit" / "audit.json")["pictures"]["classes"])
    assert html.count('src="data:image/') >= shown > 0
    for anchor in ("samples", "map"):
        assert f'<figure class="numbered" id="{anchor}"' in html
    pictures = [picture for page in PdfReader(tmp_path / "out" / "report.pdf").pages for picture in page.images]
    assert len(pictures) >= shown
    assert {f"run/audit/{name}" for name in ("audit.json", "issues.csv", "statistics.csv")} <= set(
        open_record(tmp_path / "out", "report").facts["inputs"]
    )


@pytest.mark.parametrize("file", ["../secret.jpg", "/etc/passwd", "pictures/none.jpg"])
def test_pictures_that_an_audit_lists_and_that_lie_elsewhere_are_not_read(tmp_path, file):
    run = make_run(tmp_path / "a")
    Image.new("RGB", (40, 40)).save(run / "secret.jpg")
    document = read_json(run / "audit" / "audit.json")
    entry = {"file": file, "sample_id": "x", "label": "ig", "words": ""}
    write_json(run / "audit" / "audit.json", document | {"pictures": {"classes": [entry]}})
    record_again(run / "audit")
    assert "no picture" in pages_of([run], tmp_path / "out")[0]


def test_what_was_left_out_is_counted_by_its_reasons(tmp_path):
    run = make_run(tmp_path / "a")
    rows = [("a", "ig", "foreign", "x"), ("b", "ig", "exact_duplicate; foreign", "x"), ("c", "ig", "foreign", "x")]
    with output_file(run / "clean.npz", "clean", beside=["dropped.csv"]) as cleaned:
        cleaned.touch()
        pl.DataFrame(rows, ["sample_id", "label", "issue", "reason"], orient="row").write_csv(run / "dropped.csv")
    words = plain(pages_of([run], tmp_path / "out")[0])
    assert "3 samples were left out before anything else" in words
    assert "(foreign: 2; exact_duplicate and foreign: 1)" in words


@pytest.mark.parametrize(
    ("reached", "words"),
    [
        (True, "on 24 training samples: it learned all of them by heart after 30 epochs"),
        (False, "on 24 training samples: it named 87.5 % of them rightly after 30 epochs and did not learn them all"),
    ],
)
def test_the_check_that_a_network_can_learn_by_heart_is_told(tmp_path, reached, words):
    run = make_run(tmp_path / "a")
    with output_directory(run / "overfit", "overfit-check") as out:
        write_json(out / "overfit.json", {"reached": reached, "n_samples": 24, "epoch": 30, "accuracy": 0.875})
    assert words in plain(pages_of([run], tmp_path / "out")[0])


def test_without_that_check_the_report_says_so(bare):
    assert "is not recorded beside this run" in plain(bare[0])


def test_the_slip_of_the_original_report_is_named_only_for_its_eight_classes(tmp_path, bare):
    slip = "sums over 12 classes, a slip: there are 8."
    assert slip in plain(bare[0])
    assert "C = 8 classes" in plain(bare[0]).replace("  ", " ")
    train = make_train(tmp_path / "train")
    write_json(train / "model.json", read_json(train / "model.json") | {"classes": ["a", "b"]})
    record_again(train)
    assert slip not in plain(pages_of([train], tmp_path / "out")[0])


# --- paper


def test_paper_says_what_the_page_says(whole):
    text = paper(whole[0].parent / "out" / "report.pdf")
    for place, title in enumerate(SECTIONS.values(), 1):
        assert f"{place} {title}" in text
    for words in (
        "13 759 pictures, of which the audit suggested dropping 1812",
        "all 13 759 11 947 1812",
        "91.3 % [88.9, 93.4]",
        "perturbed to look like the field",
        "platelet 100.0 % 91.7 % [64.6, 98.5] 0.957 12",
        "Not for diagnosis.",
    ):
        assert words in text, words
    assert PdfReader(whole[0].parent / "out" / "report.pdf").metadata.title == "Blood-cell classification: baseline"


def test_paper_has_pictures_of_cells_and_no_others(whole):
    pages = PdfReader(whole[0].parent / "out" / "report.pdf").pages
    assert [picture.image.size for page in pages for picture in page.images] == [(96, 96)] * 3


def test_what_is_drawn_on_paper_is_named_in_letters_that_can_be_found(whole):
    text = paper(whole[0].parent / "out" / "report.pdf")
    for words in ("perfect calibration", "validation, perturbed", "F1 score", "predicted"):
        assert words in text


def test_a_damaged_time_in_the_provenance_leaves_the_date_out(tmp_path):
    train = make_train(tmp_path / "train")
    write_json(train / "provenance.json", read_json(train / "provenance.json") | {"time": "yesterday"})
    report([train], tmp_path / "out")
    assert PdfReader(tmp_path / "out" / "report.pdf").metadata.creation_date is None


# --- the card


@pytest.mark.parametrize(
    "item",
    [
        "## Intended use",
        "Users:",
        "Out of scope:",
        "Harm to expect from misuse:",
        "Reference standard:",
        "Age, sex, illness",
        "Loss: cross-entropy over 8 classes",
        "## Scores",
        "Fairness:",
        "Universality:",
        "Robustness: accuracy 91.3 %",
        "Uncertainty: probabilities calibrated by one temperature (1.31)",
        "Explainability:",
        "Traceability:",
        "Usability and clinical benefit: not studied.",
        "Seed: 7",
        "## Limits",
        "CLAIM (Tejani et al. 2024) and FUTURE-AI (Lekadir et al. 2025)",
    ],
)
def test_the_card_answers_the_items_of_the_guidelines(whole, item):
    assert item in re.sub(r"[^\S\n]+", " ", whole[2])


# --- mistakes


def test_the_pictures_of_the_worst_mistakes_are_inside_the_page(whole):
    html = whole[1]
    assert html.count('src="data:image/jpeg;base64,') == 3
    assert 'alt="row-000000: ig, taken for monocyte"' in html
    assert "ig → monocyte 99 % sure row-000000" in plain(html)


@pytest.mark.parametrize("picture", [None, "mistakes/9.jpg", "../secret.png", "mistakes/broken.jpg", "0.jpg"])
def test_a_picture_that_is_lost_broken_or_elsewhere_is_not_shown(tmp_path, picture):
    train = make_train(tmp_path / "train")
    entries = make_mistakes(tmp_path / "evaluate", 1)
    (tmp_path / "evaluate" / "mistakes" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    if (tmp_path / "evaluate" / "provenance.json").exists():
        record_again(tmp_path / "evaluate")
    Image.new("RGB", (40, 40)).save(tmp_path / "secret.png")
    make_evaluation(tmp_path / "evaluate", train, worst_mistakes=[entries[0] | {"picture": picture}])
    html = pages_of([train], tmp_path / "out")[0]
    shown = picture == "0.jpg"  # a path relative to mistakes/ is understood too
    assert ("data:image/jpeg" in html) is shown
    assert ("no picture" in html) is not shown


# --- several runs


def test_several_runs_make_a_table_and_the_first_is_described(tmp_path):
    first = make_run(tmp_path / "first")
    second = make_train(tmp_path / "second" / "train", config=CONFIG | {"balance": "none"})
    make_evaluation(tmp_path / "second" / "evaluate", second, matrix=confusion() * 2)
    words = plain(pages_of([first, second], tmp_path / "out")[0])
    assert "2 runs are compared; sections 1, 2 and 4 describe first, the first one named." in words
    assert re.search(
        r"first compact 423 112, 64 px scratch flip, rotate, zoom replicate 2000, bf16 97\.8\d % \[", words
    )
    assert re.search(r"second compact 423 112, 64 px scratch flip, rotate, zoom not balanced, bf16 97\.8\d % \[", words)
    assert "Choosing the best of several by this table makes its score optimistic" in words
    assert "scored on different numbers of samples" in words
    assert "natural frequencies" not in words


def test_runs_of_one_name_are_numbered(tmp_path):
    runs = [make_train(tmp_path / one / "train") for one in ("a", "b/a", "c")]
    for run in runs:
        make_evaluation(run / "evaluation", run)
    assert [run.name for run in load_inputs(runs).runs] == ["a", "a (2)", "c"]


# --- what is not accepted


def test_no_run_is_no_report(tmp_path):
    with pytest.raises(ArtifactError, match="name at least one"):
        report([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["train", "evaluate", "audit"])
def test_an_unfinished_stage_is_refused(tmp_path, stage):
    run = make_run(tmp_path / "a")
    (run / stage / "provenance.json").unlink()
    with pytest.raises(ArtifactError, match=f"{stage}: has no provenance.json"):
        report([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_run_says_how_to_make_one(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist; run: hemalens train"):
        load_inputs([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("file", "key"),
    [("train/model.json", "parameters"), ("evaluate/evaluation.json", "n"), ("audit/audit.json", "issues")],
)
def test_a_file_that_lacks_a_key_is_named(tmp_path, file, key):
    run = make_run(tmp_path / "a")
    document = read_json(run / file)
    del document[key]
    write_json(run / file, document)
    record_again((run / file).parent)
    with pytest.raises(ArtifactError, match=f"lacks the key '{key}'"):
        load_inputs([run])


def test_an_evaluation_of_another_model_is_not_taken_for_this_ones(tmp_path):
    one, other = (make_train(tmp_path / name) for name in ("one", "other"))
    make_evaluation(tmp_path / "evaluate", other)
    assert load_inputs([one]).main.evaluation is None
    assert load_inputs([other]).main.evaluation is not None


def test_the_splits_that_the_training_used_win_over_those_beside_it(tmp_path):
    run = make_run(tmp_path / "a")
    table = pl.DataFrame({"sample_id": ["x"], "label": ["ig"], "group": [None], "split": ["train"]})
    table.write_csv(run / "train" / "splits.csv")
    record_again(run / "train")
    found = load_inputs([run]).main
    assert {split: sum(counts.values()) for split, counts in found.splits.counts.items()} == {"train": 1}
    assert "train/splits.csv" in found.files


def test_splits_and_audits_count_what_they_hold(tmp_path):
    run = make_train(tmp_path / "train")
    make_splits(tmp_path / "splits.csv", groups=True)
    make_audit(tmp_path / "audit")
    found = load_inputs([run]).main
    assert list(found.splits.counts) == ["train", "val", "test"]
    assert found.splits.counts["val"] == dict.fromkeys(CELL_CLASSES, 12)
    assert found.splits.groups == 10
    assert found.audit["suggested_drops"] == 1812


def test_a_history_that_never_measured_the_perturbed_accuracy_has_no_such_curve(tmp_path):
    train = make_train(tmp_path / "train")
    history = pl.read_csv(train / "history.csv").with_columns(val_perturbed_accuracy=pl.lit(None, pl.Float64))
    history.write_csv(train / "history.csv")
    record_again(train)
    assert "val_perturbed_accuracy" not in load_inputs([train]).main.history


def test_reporting_needs_no_torch():
    code = "import sys, hemalens.evaluation.report; print('torch' in sys.modules or 'hemalens.training' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
