import re
from html import unescape

import numpy as np
import pytest

from hemalens.evaluation.compare import seeded_difference
from hemalens.report.inputs import load_inputs
from hemalens.report.report import report
from hemalens.report.sections.experiments import experiments_context, experiments_table
from hemalens.report.sections.recipes import find_recipes
from tests.evaluation.factory import CONFIG, extras, make_evaluation, make_train
from tests.report.sections.test_experiments import matrix_of

pytestmark = pytest.mark.usefixtures("undrawn")


def trained(folder, mistakes, *, seed, answers=True, source="a", **config):
    """Write a training of one seed with its evaluation: ``mistakes`` of 800 samples are wrong."""
    train = make_train(folder, config=CONFIG | {"seed": seed} | config)
    make_evaluation(train / "evaluation", train, matrix=matrix_of(mistakes), answers=answers, source=source, **extras())
    return train


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Two recipes of three seeds, 4, 8, 6 and 44, 40, 36 mistakes, and one of a single seed with 10 mistakes."""
    base = tmp_path_factory.mktemp("seeded")
    runs = [trained(base / f"plain-{seed}", mistakes, seed=seed) for seed, mistakes in enumerate((4, 8, 6))]
    runs += [trained(base / f"bare_seed{seed}", n, seed=seed, augment=[]) for seed, n in enumerate((44, 40, 36))]
    return [*runs, trained(base / "lone", 10, seed=0, balance="none")]


def test_runs_that_differ_in_the_seed_alone_are_one_recipe(seeded):
    found = find_recipes(load_inputs(seeded).runs)
    assert [(recipe.name, recipe.indices) for recipe in found] == [
        ("plain", (0, 1, 2)),
        ("bare", (3, 4, 5)),
        ("lone", (6,)),
    ]


def test_where_it_ran_makes_no_other_recipe_and_a_seed_again_does(tmp_path):
    runs = [
        trained(tmp_path / "a", 4, seed=0),
        trained(tmp_path / "b", 4, seed=1, threads=8, device="cuda"),
        trained(tmp_path / "c", 4, seed=0),
        trained(tmp_path / "d", 4, seed=1, lr=0.5),
    ]
    assert [recipe.indices for recipe in find_recipes(load_inputs(runs).runs)] == [(0, 1), (2,), (3,)]


def test_several_seeds_are_mean_spread_and_range_in_one_row(seeded):
    context = experiments_context(load_inputs(seeded).runs)
    name, _, _, accuracy, *_ = context["rows"][0]
    assert name["lines"] == ["plain", "seeds 0, 1, 2"]
    # 796, 792 and 794 of 800 are right: the standard deviation is 2 / 800.
    assert [line.replace("\xa0", " ") for line in accuracy["lines"]] == ["99.25 %", "SD 0.25", "99.00 to 99.50"]
    assert accuracy["best"]
    assert context["rows"][2][0] == "lone"
    assert re.fullmatch(r"\[9\d\.\d, 9\d\.\d\]", context["rows"][2][3]["lines"][1].replace("\xa0", " "))
    assert len(context["class_rows"]) == 3


def test_the_table_of_numbers_keeps_a_row_for_each_run(seeded):
    table = experiments_table(load_inputs(seeded).runs)
    assert table["recipe"].to_list() == ["plain"] * 3 + ["bare"] * 3 + ["lone"]
    assert table["seed"].to_list() == [0, 1, 2, 0, 1, 2, 0]
    assert table["accuracy"].to_list() == pytest.approx([0.995, 0.99, 0.9925, 0.945, 0.95, 0.955, 0.9875])
    assert table["accuracy_less_best"].to_list()[3:6] == pytest.approx([-34 / 800] * 3)


def test_recipes_differ_only_where_seeds_and_samples_leave_no_doubt(seeded):
    accuracy, macro, _ = experiments_context(load_inputs(seeded).runs)["verdicts"]
    assert accuracy == (
        "The highest accuracy is that of plain. No difference from it can be claimed for lone. Worse than it is bare."
    )
    assert macro == accuracy.replace("accuracy", "macro-F1")


def test_of_equals_the_first_leads_and_the_others_lie_nothing_below_it(seeded):
    rows = experiments_context(load_inputs(seeded).runs)["difference_rows"]
    assert [row[5] if isinstance(row[5], str) else row[5]["lines"][0] for row in rows] == ["the best", "+0.00", "+0.00"]


def test_seeds_on_samples_of_their_own_count_these_once(tmp_path):
    runs = [trained(tmp_path / f"a{seed}", n, seed=seed, source=str(seed)) for seed, n in enumerate((4, 8, 6))]
    runs += [trained(tmp_path / f"b{seed}", n, seed=seed, source=str(seed), lr=1.0) for seed, n in enumerate((9, 5, 7))]
    table = experiments_table(load_inputs(runs).runs)
    apart = seeded_difference(
        [791 / 800, 795 / 800, 793 / 800], [796 / 800, 792 / 800, 794 / 800], samples=0, paired=False
    )
    assert table["accuracy_p"].to_list()[3] == pytest.approx(apart.p)
    assert table["accuracy_paired"].to_list()[3] is False
    assert "macro_f1_p" not in table.columns


def test_a_report_of_one_recipe_says_its_spread_and_compares_nothing(seeded, tmp_path):
    report(seeded[:3], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    words = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))
    assert (
        "Over 3 seeds of plain the accuracy is 99.25 % on average, with a standard deviation of 0.25 points and a "
        "range from 99.00 to 99.50 %."
    ) in words
    assert "There is one recipe, so nothing is compared." in words
    assert "The highest accuracy" not in words
    assert "says nothing about the spread" not in words


def test_a_recipe_in_which_one_seed_lacks_a_score_has_none(tmp_path):
    runs = [trained(tmp_path / f"a{seed}", 4, seed=seed) for seed in (0, 1)]
    make_evaluation(tmp_path / "other", runs[1], matrix=matrix_of(4), answers=True)
    loaded = load_inputs(runs, [tmp_path / "other"]).runs
    row = experiments_context(loaded)["table"][0]
    assert row["distorted"] is None
    assert row["accuracy"] == pytest.approx(0.995)


def test_equal_seeds_do_not_differ():
    found = seeded_difference([0.9, 0.9], [0.9, 0.9], samples=0.0, paired=True)
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert seeded_difference([0.9, 0.9], [0.8, 0.8], samples=0.0, paired=True).p == 0.0
    assert np.isclose(seeded_difference([0.9, 0.9], [0.9, 0.9], samples=1e-4, paired=True).high, 0.0196, atol=1e-4)
