import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hemalens.core.charts import CLASS_COLOURS, figure_svg
from hemalens.core.evaluation_summary import ClassScores, Reliability
from hemalens.core.metrics import reliability_bins
from hemalens.core.types import CELL_CLASSES
from hemalens.evaluation.figures import confusion_matrix_figure, learning_curves, per_class_f1, reliability_diagram

HISTORY = {
    "epoch": [1, 2, 3],
    "train_loss": [2.0, 1.0, 0.5],
    "val_loss": [2.1, 1.2, 0.9],
    "train_accuracy": [0.3, 0.6, 0.8],
    "val_accuracy": [0.3, 0.5, 0.7],
}


def labels_of(axes):
    return [line.get_label() for line in axes.lines]


def test_curves_show_losses_left_and_accuracies_right():
    left, right = learning_curves(HISTORY).axes
    assert labels_of(left) == labels_of(right) == ["training", "validation"]
    assert left.lines[1].get_ydata().tolist() == HISTORY["val_loss"]
    assert right.lines[0].get_ydata().tolist() == HISTORY["train_accuracy"]


def test_the_distorted_curve_and_the_kept_epoch_are_drawn_where_they_are_known():
    history = HISTORY | {"val_distorted_accuracy": [0.2, None, 0.4]}
    left, right = learning_curves(history, best_epoch=3).axes
    assert labels_of(left) == ["training", "validation", "weights kept"]
    assert labels_of(right) == ["training", "validation", "validation, distorted", "weights kept"]
    assert right.lines[3].get_xdata() == [3, 3]
    np.testing.assert_array_equal(right.lines[2].get_ydata(), [0.2, np.nan, 0.4])


def test_a_single_epoch_is_a_point_one_can_see():
    one = {column: values[:1] for column, values in HISTORY.items()}
    assert {line.get_marker() for line in learning_curves(one).axes[0].lines} == {"o"}


def test_the_matrix_writes_every_count_and_colours_by_the_share_of_its_row():
    axes = confusion_matrix_figure([[8, 2], [0, 5]], ["ig", "platelet"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["8", "2", "0", "5"]
    colours = axes.collections[0].get_facecolors()
    assert colours[:, 3] == pytest.approx([0.8, 0.2, 0, 1])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ig", "platelet"]
    assert axes.get_xlabel() == "predicted"


def test_the_first_row_of_the_matrix_is_on_top():
    axes = confusion_matrix_figure(np.eye(3, dtype=int), ["a", "b", "c"]).axes[0]
    bottom, top = axes.get_ylim()
    assert bottom > top


def test_a_class_without_samples_has_an_empty_row_and_no_warning():
    axes = confusion_matrix_figure([[0, 0], [1, 3]], ["a", "b"]).axes[0]
    assert axes.collections[0].get_facecolors()[:2, 3].tolist() == [0, 0]


@settings(max_examples=20)
@given(hnp.arrays(np.int64, (4, 4), elements=st.integers(0, 10_000)))
def test_any_matrix_makes_a_figure(matrix):
    axes = confusion_matrix_figure(matrix, list("abcd")).axes[0]
    assert [int(text.get_text()) for text in axes.texts] == matrix.ravel().tolist()


def test_the_diagram_leaves_empty_bins_out():
    confidence = np.array([0.55, 0.95, 0.99, 0.97])
    bins = reliability_bins(confidence, np.array([0, 1, 1, 0]), bins=10)
    top, bottom = reliability_diagram(Reliability.of(bins)).axes
    assert [bar.get_height() for bar in top.patches] == pytest.approx([0, 2 / 3])
    assert [bar.get_height() for bar in bottom.patches] == [1, 3]
    diagonal, against = top.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    assert against.get_xdata() == pytest.approx([0.55, 0.97])


@pytest.mark.parametrize("count", [[0] * 15, [0] * 14 + [1], [0] * 14 + [250_000]])
def test_few_and_many_samples_have_readable_axes(count):
    bins = Reliability(count=tuple(count), confidence=(0.9,) * 15, accuracy=(0.8,) * 15)
    svg = figure_svg(reliability_diagram(bins), label="a")
    assert "mathdefault" not in svg
    assert (">100000<" in svg) == (max(count) > 100_000)


def class_scores(f1, support):
    return ClassScores(precision=0.5, recall=0.5, f1=f1, support=support)


def test_f1_bars_name_the_class_its_support_and_its_score():
    scores = {"ig": class_scores(0.9, 12), "platelet": class_scores(1.0, 3)}
    axes = per_class_f1(scores).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.9, 1.0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ig (n = 12)", "platelet (n = 3)"]
    assert [text.get_text() for text in axes.texts] == ["0.900", "1.000"]


def test_cells_keep_their_colours():
    axes = per_class_f1(dict.fromkeys(CELL_CLASSES, class_scores(0.5, 1))).axes[0]
    drawn = [tuple(round(255 * part) for part in bar.get_facecolor()[:3]) for bar in axes.patches]
    assert drawn == [tuple(bytes.fromhex(colour[1:])) for colour in CLASS_COLOURS.values()]
