import re

import pytest
from PIL import Image
from pypdf import PdfReader

from hemalens.core.artifacts import read_json, write_json
from hemalens.core.document import Gallery
from hemalens.core.errors import ArtifactError
from hemalens.core.records import open_record
from hemalens.evaluation.report import report
from hemalens.evaluation.report_inputs import load_inputs
from hemalens.evaluation.report_mistakes import map_verdict, mistakes_blocks
from tests.evaluation.factory import make_evaluation, make_explanation, make_mistakes, make_train
from tests.evaluation.test_report import plain
from tests.recording import record_again

pytestmark = pytest.mark.usefixtures("undrawn")

RIGHT = ("cell-1", "platelet", "platelet")
NEW = ("cell-2", "basophil", "ig")


def make_mapped(path, train, count, *, mapped):
    """Write an evaluation with pictures of mistakes, the first of them with a heat map of its own."""
    entries = make_mistakes(path, count)
    for one in entries[:mapped]:
        one["map"] = one["picture"].replace(".jpg", "-map.png")
        Image.new("RGB", (40, 40), (250, 240, 60)).save(path / one["map"])
    return make_evaluation(path, train, worst_mistakes=entries)


def galleries(run):
    blocks = mistakes_blocks(load_inputs([run]).main, flawless=False)
    return {block.anchor: block for block in blocks if isinstance(block, Gallery)}


def names(gallery):
    return [item["lines"][-1] for item in gallery.items]


def test_mistakes_stand_beside_their_heat_maps_and_none_is_shown_twice(tmp_path):
    train = make_train(tmp_path / "train")
    make_mapped(tmp_path / "evaluate", train, 12, mapped=12)
    found = galleries(train)
    assert names(found["maps"]) == [f"row-{place:06d}" for place in range(8)]
    assert names(found["mistakes"]) == [f"row-{place:06d}" for place in range(8, 12)]
    assert all(item["uri"] and item["beside"]["uri"] for item in found["maps"].items)
    assert "Further wrong answers" in found["mistakes"].caption


@pytest.mark.parametrize("place", ["explain", "explained", "train/explain", "train/explained"])
def test_an_explanation_inside_or_beside_the_training_adds_its_maps_mistakes_first(tmp_path, place):
    train = make_train(tmp_path / "train")
    make_mapped(tmp_path / "evaluate", train, 2, mapped=1)
    make_explanation(tmp_path / place, train, [RIGHT, ("row-000001", "ig", "monocyte"), NEW, ("x", None, "ig")])
    found = galleries(train)
    assert names(found["maps"]) == ["row-000000", "row-000001", "cell-2", "cell-1", "x"]
    assert ["beside" in item for item in found["maps"].items] == [True, True, False, False, False]
    assert "mistakes" not in found
    lines = [item["lines"][0] for item in found["maps"].items]
    assert lines[2:] == ["basophil → ig", "platelet, named rightly", "named ig"]
    assert "A single picture was kept under its map only." in found["maps"].caption


def test_samples_of_another_source_are_not_taken_for_the_same_by_their_names(tmp_path):
    train = make_train(tmp_path / "train")
    make_mapped(tmp_path / "evaluate", train, 1, mapped=1)
    make_explanation(tmp_path / "explain", train, [("row-000000", "ig", "basophil")], source="f")
    assert names(galleries(train)["maps"]) == ["row-000000", "row-000000"]


def test_the_report_shows_the_maps_and_tells_whether_they_mean_something(tmp_path):
    train = make_train(tmp_path / "train")
    make_mapped(tmp_path / "evaluate", train, 1, mapped=1)
    make_explanation(tmp_path / "explain", train, [NEW])
    report([train], tmp_path / "out")
    html, card = ((tmp_path / "out" / name).read_text("utf-8") for name in ("report.html", "model_card.md"))
    assert html.count('src="data:image/') == 3
    assert 'alt="what in it speaks for monocyte"' in html
    for words in (
        "The maps are Grad-CAM, no finer than their grid of 4 \N{MULTIPLICATION SIGN} 4. On 1 samples they were tried",
        "0.250 on average in the order of the maps and 0.500 in a random one; the map does better on 90 %",
        "(p &lt; 0.001)",
        "(p = 0.012)",
        "So the maps say something about this model.",
        "it does not show why that is so, nor that a person who knows cells would look there.",
    ):
        assert words in plain(html), words
    assert "were tried against random maps and mean something." in plain(card)
    pictures = [picture for page in PdfReader(tmp_path / "out" / "report.pdf").pages for picture in page.images]
    assert len(pictures) == 3
    read = open_record(tmp_path / "out", "report").facts["inputs"]
    assert {name.partition("/")[2] for name in read} >= {"explain/explain.json", "explain/explain.csv"}


def test_maps_that_chance_draws_as_well_are_not_sold(tmp_path):
    train = make_train(tmp_path / "train")
    home = make_explanation(tmp_path / "explain", train, [NEW])
    facts = read_json(home / "explain.json")
    write_json(home / "explain.json", facts | {"check": facts["check"] | {"verdict": "not shown"}})
    record_again(home)
    report([train], tmp_path / "out")
    html = plain((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert "Not evaluated" in html
    assert "it is not shown that the maps say anything about this model, and nothing should be read from them" in html
    assert "were not shown to mean anything." in map_verdict(load_inputs([train]).main.explanation)


def test_maps_that_were_never_checked_are_called_so(tmp_path):
    train = make_train(tmp_path / "train")
    make_mapped(tmp_path / "evaluate", train, 1, mapped=1)
    report([train], tmp_path / "out")
    html = plain((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert re.search(r"was not checked: run\s+hemalens explain RUN SOURCE --out DIR", html)
    assert map_verdict(load_inputs([train]).main.explanation) is None


def test_an_explanation_of_another_model_is_passed_over(tmp_path):
    train, other = make_train(tmp_path / "train"), make_train(tmp_path / "other")
    make_explanation(tmp_path / "explain", other, [NEW])
    assert load_inputs([train]).main.explanation is None
    make_explanation(tmp_path / "explained", train, [NEW])
    assert load_inputs([train]).main.explanation.directory == tmp_path / "explained"


def test_an_unfinished_explanation_is_refused(tmp_path):
    train = make_train(tmp_path / "train")
    (make_explanation(tmp_path / "explain", train, [NEW]) / "provenance.json").unlink()
    with pytest.raises(ArtifactError, match=r"explain: has no provenance\.json"):
        load_inputs([train])


@pytest.mark.parametrize("file", ["../secret.png", "/etc/passwd", "maps/none.png"])
def test_a_map_that_is_lost_or_lies_outside_is_not_shown(tmp_path, file):
    train = make_train(tmp_path / "train")
    Image.new("RGB", (40, 40)).save(tmp_path / "secret.png")
    home = make_explanation(tmp_path / "explain", train, [NEW])
    table = (home / "explain.csv").read_text("utf-8").replace("maps/0.png", file)
    (home / "explain.csv").write_text(table, encoding="utf-8")
    record_again(home)
    assert galleries(train) == {}
