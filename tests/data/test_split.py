"""Splits: near the shares in every class, nothing that belongs together torn, the same for the same seed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.types import Sample
from hemalens.data.sources import open_source
from hemalens.data.split import (
    SPLITS,
    assign,
    choose_splits,
    linked_units,
    parse_ratios,
    read_splits,
    split,
    splits_table,
)
from hemalens.data.synthetic import SyntheticSet
from tests.data.hostile import cell, encode

SHARES = st.tuples(st.integers(1, 100), st.integers(0, 100), st.integers(0, 100)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)
LABELS = st.lists(st.sampled_from("abc"), min_size=1, max_size=120)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("83:13:4", (0.83, 0.13, 0.04)),
        ("1:0:0", (1, 0, 0)),
        ("8 : 1 : 1", (0.8, 0.1, 0.1)),
        ("0.5:0.25:0.25", (0.5, 0.25, 0.25)),
    ],
)
def test_ratios_are_shares_of_their_sum(text: str, shares: tuple[float, float, float]) -> None:
    assert parse_ratios(text) == pytest.approx(shares)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "83:13",
        "83:13:4:1",
        "a:b:c",
        "83;13;4",
        "-1:1:1",
        "0:1:1",
        "0:0:0",
        "nan:1:1",
        "inf:1:1",
        "1e308:1e308:1",
        "1::1",
    ],
)
def test_ratios_that_are_none_are_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="write for example 83:13:4"):
        parse_ratios(text)


@settings(max_examples=150, deadline=None)
@given(labels=LABELS, shares=SHARES, seed=st.integers(0, 2**32))
def test_without_groups_every_class_is_within_one_of_its_share_in_every_split(labels, shares, seed) -> None:
    drawn = assign(labels, np.arange(len(labels)), shares=shares, seed=seed)
    assert len(drawn) == len(labels)
    for name, count in Counter(labels).items():
        in_split = np.bincount(drawn[np.array(labels) == name], minlength=3)
        assert (np.abs(in_split - np.array(shares) * count) < 1).all()
        assert in_split.sum() == count


@settings(max_examples=150, deadline=None)
@given(data=st.data(), labels=LABELS, shares=SHARES, seed=st.integers(0, 2**32))
def test_no_unit_is_in_two_splits_and_no_sample_in_none(data, labels, shares, seed) -> None:
    units = np.array(data.draw(st.lists(st.integers(0, 30), min_size=len(labels), max_size=len(labels))))
    drawn = assign(labels, units, shares=shares, seed=seed)
    assert len(drawn) == len(labels)
    assert all(len(set(drawn[units == unit])) == 1 for unit in set(units.tolist()))
    assert all(shares[number] > 0 for number in set(drawn.tolist()))
    assert np.array_equal(drawn, assign(labels, units, shares=shares, seed=seed))


def test_groups_of_moderate_size_leave_the_shares_near_what_was_asked() -> None:
    rng = np.random.default_rng(0)
    labels, units = rng.choice(list("abc"), 3000).tolist(), rng.integers(0, 200, 3000)
    drawn = assign(labels, units, shares=(0.8, 0.15, 0.05), seed=1)
    for name in "abc":
        in_split = np.bincount(drawn[np.array(labels) == name], minlength=3)
        assert in_split / in_split.sum() == pytest.approx([0.8, 0.15, 0.05], abs=0.03)


def test_another_seed_draws_another_split() -> None:
    labels, units = ["a"] * 200, np.arange(200)
    assert not np.array_equal(
        assign(labels, units, shares=(0.5, 0.3, 0.2)), assign(labels, units, shares=(0.5, 0.3, 0.2), seed=1)
    )


def copies_of(hashes: list[str | None]) -> list[list[int]]:
    return [[n for n, found in enumerate(hashes) if found == digest] for digest in sorted({*hashes} - {None})]


def test_links_reach_from_group_to_copy_to_group() -> None:
    groups = ["p1", "p1", None, "p2", "p2", None, "p3"]
    hashes = ["h0", "h1", "h1", "h1", "h4", None, None]
    units = linked_units([Sample(str(n), group=group) for n, group in enumerate(groups)], copies_of(hashes))
    assert len(set(units[:5])) == 1
    assert len(set(units.tolist())) == 3


LINK = st.tuples(st.none() | st.integers(0, 5).map(str), st.none() | st.integers(0, 9).map(str))


@settings(max_examples=150, deadline=None)
@given(links=st.lists(LINK, max_size=25))
def test_units_are_the_connected_components(links: list[tuple[str | None, str | None]]) -> None:
    samples = [Sample(str(n), group=group) for n, (group, _) in enumerate(links)]
    units = linked_units(samples, copies_of([digest for _, digest in links]))
    expected = [{n} for n in range(len(links))]
    for one, (group, digest) in enumerate(links):
        for other in range(one):
            if (group is not None and links[other][0] == group) or (digest is not None and links[other][1] == digest):
                merged = expected[one] | expected[other]
                for member in merged:
                    expected[member] = merged
    for one in range(len(links)):
        assert {n for n in range(len(links)) if units[n] == units[one]} == expected[one]


def write_rows(path: Path, count: int = 60, **arrays: object) -> Path:
    images = np.stack([cell(4, seed) for seed in range(count)])
    np.savez(path, **({"images": images, "labels": np.arange(count) % 3} | arrays))
    return path


def test_the_table_has_a_row_a_sample_and_the_summary_counts_it(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.npz")
    summary = split(source, tmp_path / "splits.csv", ratios="60:20:20", seed=4)
    table = pl.read_csv(tmp_path / "splits.csv")
    assert table.columns == ["sample_id", "label", "group", "split"]
    assert table["sample_id"].to_list() == [f"row-{n:06d}" for n in range(60)]
    assert summary["n_samples"] == 60
    each = {
        name: dict.fromkeys(("basophil", "eosinophil", "erythroblast"), n)
        for name, n in zip(SPLITS, (12, 4, 4), strict=True)
    }
    assert summary["splits"] == each
    assert [list(counts) for counts in summary["splits"].values()] == [sorted(each["val"])] * 3
    for (name, label), rows in table.group_by("split", "label"):
        assert rows.height == each[str(name)][str(label)]


def test_the_same_seed_gives_the_same_file_and_existing_ones_are_an_error(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.npz")
    split(source, tmp_path / "a.csv", seed=1)
    split(source, tmp_path / "b.csv", seed=1)
    split(source, tmp_path / "c.csv", seed=2)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes() != (tmp_path / "c.csv").read_bytes()
    with pytest.raises(ArtifactError, match="--overwrite"):
        split(source, tmp_path / "a.csv", seed=1)
    split(source, tmp_path / "a.csv", seed=2, overwrite=True)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()
    assert json.loads((tmp_path / "a.csv.provenance.json").read_text())["seed"] == 2


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_on_one_side(tmp_path: Path, seed: int) -> None:
    images = np.stack([cell(4, index % 20) for index in range(60)])
    drawn = choose_splits(
        open_source(write_rows(tmp_path / "rows.npz", images=images)), shares=(0.5, 0.3, 0.2), seed=seed
    )
    assert all(drawn[index] == drawn[index + 20] == drawn[index + 40] for index in range(20))
    assert set(drawn) == set(SPLITS)


@pytest.mark.parametrize("seed", range(5))
def test_groups_and_the_copies_that_join_them_are_on_one_side(tmp_path: Path, seed: int) -> None:
    seeds = list(range(60))
    seeds[7] = 3  # a copy of an image of group 0 in group 1
    arrays = {"images": np.stack([cell(4, n) for n in seeds]), "groups": [f"p{n // 5}" for n in range(60)]}
    drawn = choose_splits(open_source(write_rows(tmp_path / "rows.npz", **arrays)), shares=(0.5, 0.3, 0.2), seed=seed)
    assert len(set(drawn[:10])) == 1
    assert all(len(set(drawn[n : n + 5])) == 1 for n in range(0, 60, 5))


def test_copies_encoded_anew_and_turned_are_on_one_side_where_they_are_no_equal_bytes(
    tmp_path: Path, cells: SyntheticSet
) -> None:
    for index in range(40):
        image = Image.fromarray(cells.images[index])
        (tmp_path / "cells" / "ig").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "cells" / "ig" / f"{index:02d}.png")
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "cells" / "ig" / f"{index:02d}.jpg", quality=85)
    split(tmp_path / "cells", tmp_path / "splits.csv", ratios="5:3:2", seed=1)
    drawn = dict(pl.read_csv(tmp_path / "splits.csv").select("sample_id", "split").iter_rows())
    assert all(drawn[f"ig/{index:02d}.png"] == drawn[f"ig/{index:02d}.jpg"] for index in range(40))
    assert set(drawn.values()) == set(SPLITS)


def test_the_splits_a_source_brings_are_obeyed(tmp_path: Path) -> None:
    own = [SPLITS[index * 7 % 3] for index in range(60)]
    source = write_rows(tmp_path / "rows.npz", splits=own)
    split(source, tmp_path / "splits.csv", ratios="1:0:0")
    assert pl.read_csv(tmp_path / "splits.csv")["split"].to_list() == own


def test_a_source_that_brings_splits_for_some_samples_only_is_an_error(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.npz", splits=["train"] * 59 + [""])
    with pytest.raises(SourceError, match="row-000059: has no split while other samples"):
        split(source, tmp_path / "splits.csv")
    assert not (tmp_path / "splits.csv").exists()


def test_unreadable_and_unlabelled_samples_get_a_side_too(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    for index in range(10):
        (tmp_path / "cells" / f"{index}.png").write_bytes(encode(cell(4, index)))
    (tmp_path / "cells" / "gone.png").symlink_to("nowhere.png")
    summary = split(tmp_path / "cells", tmp_path / "splits.csv", ratios="6:3:2")
    assert {name: sum(counts.values()) for name, counts in summary["splits"].items()} == {
        "train": 6,
        "val": 3,
        "test": 2,
    }


def test_an_array_file_that_cannot_be_read_is_not_split_blindly(tmp_path: Path) -> None:
    source = open_source(write_rows(tmp_path / "rows.npz"))
    (tmp_path / "rows.npz").write_bytes(b"gone")
    with pytest.raises(SourceError):
        choose_splits(source, shares=(0.5, 0.3, 0.2))


SAMPLES = [Sample("a"), Sample("b"), Sample("c")]


def test_a_table_is_read_back_in_the_order_of_the_samples(tmp_path: Path) -> None:
    splits_table(SAMPLES, ["train", "val", "test"]).reverse().write_csv(tmp_path / "splits.csv")
    assert read_splits(tmp_path / "splits.csv", SAMPLES) == ["train", "val", "test"]
    assert read_splits(tmp_path / "splits.csv", SAMPLES[1:]) == ["val", "test"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample_id,split\na,train\nb,val\n", r"sample c: is not in .* \(1 of 3 samples are not\)"),
        ("sample_id,split\na,train\nb,valid\nc,test\n", "split 'valid' in line 3 .* must be one of train, val, test"),
        ("sample_id,split\na,train\nb,\nc,x\n", "split None in line 3"),
        (
            "sample_id,split\na,train\nb,val\nc,test\na,test\n",
            "sample a in line 5 .* is in test and, further up, in train",
        ),
        ("sample_id,half\na,train\n", "lacks the column 'split'"),
        ("", "cannot be read"),
        (None, "does not exist"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(ArtifactError, match=words):
        read_splits(tmp_path / "splits.csv", SAMPLES)
