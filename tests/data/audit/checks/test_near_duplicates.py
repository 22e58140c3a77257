"""Nearly equal images: every kind of copy is joined to its original, other cells are not, any crowd is one group."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from hemalens.data.audit.checks.near_duplicates import (
    copies,
    find_near_conflicts,
    find_near_duplicates,
    near_duplicates,
)
from hemalens.data.audit.checks.near_images import near_images, usual_residuals
from hemalens.data.audit.checks.structure_hash import oriented
from hemalens.data.audit.statistics import Statistics, joined
from hemalens.data.synthetic import SyntheticSet
from tests.data.measured import measured, noise, samples_of

Change = Callable[[Image.Image], Image.Image]


def encoded(image: Image.Image, kind: str, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return Image.open(buffer).convert("RGB")


CHANGES: dict[str, Change] = {
    "jpeg": lambda p: encoded(p, "JPEG", 75),
    "webp": lambda p: encoded(p, "WEBP", 80),
    "half": lambda p: p.resize((48, 48), Image.Resampling.LANCZOS),
    "larger": lambda p: p.resize((150, 150), Image.Resampling.BICUBIC),
    "mirrored": ImageOps.mirror,
    "turned": lambda p: p.transpose(Image.Transpose.ROTATE_90),
    "transposed": lambda p: p.transpose(Image.Transpose.TRANSPOSE),
    "brighter": lambda p: p.point(lambda v: min(int(v * 1.1 + 5), 255)),
    "darker": lambda p: p.point(lambda v: int(v * 0.8)),
    "cropped": lambda p: p.crop((2, 2, 94, 94)),
    "one side": lambda p: p.crop((2, 0, 96, 96)),
}


@pytest.fixture(scope="module")
def images(cells: SyntheticSet) -> list[Image.Image]:
    return [Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC) for pixels in cells.images]


@pytest.fixture(scope="module")
def originals(images: list[Image.Image]) -> Statistics:
    return measured(np.asarray(image) for image in images)


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_with_their_originals_and_other_cells_are_left_alone(
    images: list[Image.Image], originals: Statistics, change: str
) -> None:
    chosen = range(0, len(images), 6)
    changed = measured(np.asarray(CHANGES[change](images[index])) for index in chosen)
    groups = near_duplicates(joined(originals, changed)).groups
    expected = {(index, len(images) + row) for row, index in enumerate(chosen)}
    assert len(expected & set(groups)) >= 0.96 * len(expected)
    assert sum(len(group) for group in set(groups) - expected) <= 2


def test_cells_on_one_background_are_no_copies(originals: Statistics) -> None:
    assert near_duplicates(originals).groups == ()


def test_the_limit_falls_where_neighbours_are_near(originals: Statistics) -> None:
    usual = near_duplicates(originals).limit
    blend = (originals.thumbnails[:100] * 0.5 + originals.thumbnails[:1] * 0.5).astype(np.uint8)
    alike = near_images(blend, np.arange(len(blend)))
    assert 0.01 <= alike.limit < usual <= 0.05
    assert len(usual_residuals(originals.thumbnails[:5])) == 0


def test_a_set_full_of_copies_has_the_limit_it_had_without_them(originals: Statistics) -> None:
    few = originals.thumbnails[:60]
    eightfold = np.concatenate([oriented(few, turn) for turn in range(8)])
    alone, together = (near_images(rows, np.arange(len(rows))) for rows in (few, eightfold))
    assert together.limit == pytest.approx(alone.limit, rel=0.3)
    assert sorted(map(len, together.groups)) == [8] * 60


def test_the_best_copy_is_kept_and_the_others_are_dropped(images: list[Image.Image]) -> None:
    first, other = images[0], images[8]
    rows = [CHANGES["half"](first), first, CHANGES["turned"](CHANGES["jpeg"](first)), other]
    statistics = measured(np.asarray(image) for image in rows)
    samples = samples_of(["ig", "ig", "ig", "ig"])
    findings = find_near_duplicates(near_duplicates(statistics), statistics, samples)
    assert {finding.index: finding.suggestion for finding in findings} == {0: "drop", 1: "keep", 2: "drop"}
    assert len({finding.group for finding in findings}) == 1
    assert all(0.5 <= finding.score <= 1 for finding in findings)
    by_index = {finding.index: finding for finding in findings}
    assert all(by_index[index].counterpart in {0, 1, 2} - {index} for index in by_index)
    assert by_index[0].reason.startswith("nearly the same as row-00000")
    assert "turned by" in by_index[2].reason
    assert by_index[1].reason.startswith("best of 3 nearly equal images")


def test_a_labelled_copy_is_kept_before_a_larger_one_without_label(images: list[Image.Image]) -> None:
    statistics = measured(np.asarray(image) for image in (images[0], CHANGES["half"](images[0])))
    findings = find_near_duplicates(near_duplicates(statistics), statistics, samples_of([None, "ig"]))
    assert [(finding.index, finding.suggestion) for finding in findings] == [(0, "drop"), (1, "keep")]


def test_copies_under_several_labels_are_all_for_review(images: list[Image.Image]) -> None:
    rows = [images[0], CHANGES["jpeg"](images[0]), CHANGES["jpeg"](images[0]), images[9]]
    statistics = measured(np.asarray(image) for image in rows)
    samples = samples_of(["ig", "ig", "monocyte", "monocyte"])  # the label of an equal copy counts
    near = near_duplicates(statistics)
    for findings in (find_near_duplicates(near, statistics, samples), find_near_conflicts(near, statistics, samples)):
        assert [(finding.index, finding.suggestion) for finding in findings] == [(0, "review"), (1, "review")]
        assert all("ig, monocyte" in finding.reason for finding in findings)
    assert find_near_conflicts(near, statistics, samples_of(["ig", "ig", "ig", None])) == []
    assert copies(near, statistics) == [[0, 1, 2]]


def test_a_thousand_copies_of_one_image_are_one_group_and_few_looks(
    images: list[Image.Image], originals: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    wobble = generator.integers(-2, 3, (1_600, 16, 16, 3))
    crowd = np.clip(originals.thumbnails[5].astype(np.int64) + wobble, 0, 255).astype(np.uint8)
    looked = []
    monkeypatch.setattr(
        "hemalens.data.audit.checks.near_images.residual",
        lambda one, other, real=near_images.__globals__["residual"]: looked.append(len(one)) or real(one, other),
    )
    thumbnails = np.concatenate([originals.thumbnails, crowd])
    groups = near_images(thumbnails, np.arange(len(thumbnails))).groups
    assert max(map(len, groups)) >= 1_600
    assert sum(looked) < 8 * len(thumbnails)


def test_blanks_noise_and_unreadable_files_are_in_no_group() -> None:
    blanks = [np.full((8, 8, 3), level, np.uint8) for level in range(60, 130)]
    statistics = measured([*blanks, None, *[noise(16, seed) for seed in range(30)]])
    assert near_duplicates(statistics).groups == ()
    assert near_duplicates(measured([None])).groups == ()
