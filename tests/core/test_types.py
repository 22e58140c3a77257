import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.core.types import CELL_CLASSES, Sample, canonical_class, class_order, encode_labels, no_progress


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("Immature Granulocytes", "ig"),
        ("immature granulocytes(myelocytes, metamyelocytes and promyelocytes)", "ig"),
        ("IG", "ig"),
        ("Normoblast", "erythroblast"),
        ("nucleated red blood cell", "erythroblast"),
        ("thrombocytes", "platelet"),
        (" Neutrophils ", "neutrophil"),
        ("6_neutrophil", "neutrophil"),
    ],
)
def test_synonyms_of_the_eight_cells_are_understood(name, cell):
    assert canonical_class(name) == cell


@pytest.mark.parametrize("name", ["myeloblast", "Smudge cell", "细胞", "7", ""])
def test_other_names_stay_as_they_are(name):
    assert canonical_class(f" {name} ") == name


@given(st.text())
def test_naming_a_class_twice_changes_nothing(name):
    assert canonical_class(canonical_class(name)) == canonical_class(name)


@given(st.sets(st.sampled_from(CELL_CLASSES)))
def test_known_cells_come_in_the_challenge_order(names):
    assert class_order(names) == tuple(cell for cell in CELL_CLASSES if cell in names)


@given(st.lists(st.text()), st.text().filter(lambda name: name not in CELL_CLASSES))
def test_one_unknown_name_sorts_them_all_and_repetitions_vanish(names, other):
    assert class_order([*names, other, other]) == tuple(sorted({*names, other}))


def test_labels_become_numbers_and_what_is_no_class_becomes_minus_one():
    numbers = encode_labels(["b", None, "a", "x", "b"], ["a", "b"])
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [1, -1, 0, -1, 1]


def test_a_sample_is_frozen_and_knows_nothing_it_was_not_told():
    sample = Sample("a/b.png")
    assert (sample.label, sample.group, sample.split, sample.unreadable) == (None, None, None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.label = "ig"


def test_no_progress_takes_what_a_progress_takes(capsys):
    no_progress("reading", 1, 2)
    assert capsys.readouterr() == ("", "")
