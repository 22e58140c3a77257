"""The audit of a folder, an array or a heap of rubbish: nothing is lost, what is planted is found, the tables fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hemalens.core.artifacts import PROVENANCE
from hemalens.core.audit_summary import AuditSummary, ClassCount, ClassShare
from hemalens.core.errors import ArtifactError
from hemalens.core.recorded import open_record
from hemalens.core.types import Images
from hemalens.data.audit.audit import audit
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.findings import suggested_drops
from hemalens.data.audit.issues import issue_names
from hemalens.data.synthetic import SyntheticSet, synthetic_set
from hemalens.data.synthetic.foreign import colour_chart, landscape
from tests.data.conftest import Audited
from tests.data.hostile import (
    cell,
    encode,
    exif_rotated,
    frames,
    mutate,
    png,
    png_16_bit_colour,
    tiff_header,
    webp_header,
    write_tar,
)
from tests.data.measured import page_of_text

MANIFEST = ["sample_id", "label", "group", "width", "height", "mode", "bytes", "sha256", "phash"]
ISSUE_COLUMNS = ["sample_id", "label", "issue", "score", "group", "suggestion", "reason"]

UNREADABLE = {
    "ig/cut.png": encode(cell())[:70],
    "ig/empty.png": b"",
    "ig/text.jpg": b"this is no image",
    "ig/page.png": b"<html><script>alert(1)</script></html>",
    "ig/bomb.png": png(60_000, 60_000),
    "ig/moving.gif": frames(3, "GIF"),
    "ig/hollow.webp": webp_header(40, 40),
    "ig/hollow.tif": tiff_header(40, 40),
    "ig/half.jpg": encode(cell(32), "JPEG")[:300],
    "monocyte/scrambled.png": mutate(encode(cell(16)), 3, 12),
}
CONVERTED = {
    "monocyte/deep.png": png_16_bit_colour(np.full((8, 8, 3), 9_000, np.uint16)),
    "monocyte/clear.png": encode(np.dstack([cell(8, 1), np.full((8, 8), 77, np.uint8)])),
    "monocyte/turned.png": exif_rotated(cell(8, 2), 6),
    "monocyte/lying.jpg": encode(cell(8, 3)),
    "monocyte/grey.png": encode(cell(8, 4)[..., 0]),
}
SOUND = {f"platelet/{n}.png": encode(cell(8, 10 + n)) for n in range(4)}
IGNORED = {".hidden.png": b"x", "ig/notes.txt": b"x", "labels.csv": b"path\n", "ig/Thumbs.db": b"x"}


def found_of(summary: AuditSummary, issue: str) -> tuple[int, int]:
    return summary.issues[issue].samples, summary.issues[issue].groups


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "cells"
    for name, data in (UNREADABLE | CONVERTED | SOUND | IGNORED).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root.parent / "secret.png").write_bytes(encode(cell()))
    (root / "ig" / "link.png").symlink_to(root.parent / "secret.png")
    (root / "ig" / "nowhere.png").symlink_to("gone.png")
    (root / "ig" / "loop").symlink_to(root)
    os.mkfifo(root / "ig" / "pipe.png")
    return root


def test_every_file_of_a_hostile_folder_is_accounted_for(hostile_folder: Path, tmp_path: Path) -> None:
    summary = audit(hostile_folder, tmp_path / "audit", workers=0)
    manifest = pl.read_csv(tmp_path / "audit" / "manifest.csv")
    ignored = [entry.name for entry in summary.ignored]
    found = (path for path in hostile_folder.glob("**/*") if path.is_symlink() or not path.is_dir())
    inside = {path.relative_to(hostile_folder).as_posix() for path in found if "loop/" not in path.as_posix()}
    assert {*manifest["sample_id"], *ignored} == inside
    assert manifest.height + len(ignored) == len(inside) == len(UNREADABLE | CONVERTED | SOUND | IGNORED) + 4
    assert summary.n_samples == manifest.height
    assert summary.n_ignored == len(ignored) == len(IGNORED) + 2  # the loop and the pipe
    assert all(entry.reason for entry in summary.ignored)


def test_each_unreadable_file_is_listed_with_its_reason_and_each_conversion_with_its_rule(
    hostile_folder: Path, tmp_path: Path
) -> None:
    summary = audit(hostile_folder, tmp_path / "audit", workers=0)
    issues = pl.read_csv(tmp_path / "audit" / "issues.csv")
    unreadable = issues.filter(pl.col("issue") == "unreadable")
    assert set(unreadable["sample_id"]) == {*UNREADABLE, "ig/link.png", "ig/nowhere.png"}
    assert set(unreadable["suggestion"]) == {"drop"}
    assert unreadable["reason"].str.len_chars().min() > 10
    reasons = dict(unreadable.select("sample_id", "reason").iter_rows())
    assert "out of the source" in reasons["ig/link.png"]
    assert "3,600,000,000 pixels" in reasons["ig/bomb.png"]
    assert "3 frames" in reasons["ig/moving.gif"]
    converted = issues.filter(pl.col("issue") == "converted")
    assert set(converted["sample_id"]) == set(CONVERTED)
    assert set(converted["suggestion"]) == {"keep"}
    assert summary.n_unreadable == summary.suggested_drops == len(UNREADABLE) + 2
    assert summary.classes["platelet"] == ClassCount(before=4, after=4)
    manifest = pl.read_csv(tmp_path / "audit" / "manifest.csv")
    assert set(manifest.filter(pl.col("width").is_null())["sample_id"]) == set(unreadable["sample_id"])


def test_what_is_planted_is_suggested_to_drop_and_hardly_a_cell_beside_it(audited: Audited) -> None:
    issues = pl.read_csv(audited.out / "issues.csv")
    dropped = set(issues.filter(pl.col("suggestion") == "drop")["sample_id"])
    planted = audited.planted_ids()
    assert planted <= dropped
    assert len(dropped - planted) <= 2
    foreign = set(issues.filter(pl.col("issue") == "foreign")["sample_id"])
    assert {f"row-{row:06d}" for row, why in enumerate(audited.made.reasons) if why == "foreign"} <= foreign


def test_a_bluish_background_is_reported_and_kept(tmp_path: Path, cells: SyntheticSet) -> None:
    others = synthetic_set(5, size=48, seed=5, contamination=False)
    batch = np.clip(others.images * np.array([0.875, 0.945, 1.17]), 0, 255).astype(np.uint8)
    labels = [*cells.labels, *others.labels]
    np.savez(tmp_path / "two.npz", images=[*cells.images, *batch], labels=labels)
    summary = audit(tmp_path / "two.npz", tmp_path / "audit", workers=0)
    assert found_of(summary, "background_batch") == (len(batch), 1)
    assert summary.suggested_drops <= 1


def test_tables_have_the_promised_columns_and_a_row_a_sample(audited: Audited) -> None:
    manifest, statistics, issues = (
        pl.read_csv(audited.out / name) for name in ("manifest.csv", "statistics.csv", "issues.csv")
    )
    ids = [f"row-{row:06d}" for row in range(len(audited.made.labels))]
    assert manifest.columns == MANIFEST
    assert manifest["sample_id"].to_list() == statistics["sample_id"].to_list() == ids
    assert manifest["label"].to_list() == [audited.made.classes[label] for label in audited.made.labels]
    assert set(manifest["width"]) == set(manifest["height"]) == {48}
    assert manifest["sha256"].str.len_chars().unique().to_list() == [64]
    assert issues.columns == ISSUE_COLUMNS
    assert set(issues["issue"]) <= set(issue_names())
    assert set(issues["suggestion"]) <= {"keep", "drop", "review"}
    assert issues["score"].is_between(0, 1).all()
    assert issues["reason"].null_count() == 0
    assert set(issues["sample_id"]) <= set(ids)


def test_the_summary_agrees_with_the_tables(audited: Audited) -> None:
    summary = open_record(audited.out, "audit").read("audit.json", AuditSummary)
    assert summary == audited.summary
    said = json.loads((audited.out / "audit.json").read_text())
    assert {"n_samples", "n_unreadable", "classes", "issues", "suggested_drops", "seconds"} <= set(said)
    assert not {"labels", "against", "n_against"} & set(said)
    manifest, issues = pl.read_csv(audited.out / "manifest.csv"), pl.read_csv(audited.out / "issues.csv")
    counts = summary.classes.values()
    assert sum(count.before for count in counts) == summary.n_samples == manifest.height
    assert sum(count.before - count.after for count in counts) == summary.suggested_drops
    dropped = issues.filter(pl.col("suggestion") == "drop")["sample_id"].n_unique()
    assert summary.suggested_drops == dropped
    for issue, found in summary.issues.items():
        rows = issues.filter(pl.col("issue") == issue)
        groups = set(rows["group"]) - {None, ""}
        assert (found.samples, found.groups) == (rows["sample_id"].n_unique(), len(groups))
    assert set(summary.issues) == set(issues["issue"])


def test_the_provenance_names_all_that_was_written(audited: Audited) -> None:
    record = json.loads((audited.out / PROVENANCE).read_text())
    files = (path for path in audited.out.rglob("*") if path.is_file())
    written = {path.relative_to(audited.out).as_posix() for path in files} - {PROVENANCE}
    assert set(record["outputs"]) == written
    own = {name for name in written if not name.startswith("images/")}
    assert own == {"manifest.csv", "statistics.csv", "thumbnails.npy", "issues.csv", "audit.json", "audit.html"}
    assert record["command"] == "audit"


def test_probabilities_make_findings_a_summary_and_a_ranked_gallery(audited: Audited, tmp_path: Path) -> None:
    labels = audited.made.labels
    chances = np.full((len(labels), len(audited.made.classes)), 0.02)
    chances[np.arange(len(labels)), labels] = 0.86
    doubted = np.flatnonzero(~audited.made.planted)[:60:4]
    other = (labels[doubted] + 1) % len(audited.made.classes)
    chances[doubted, labels[doubted]], chances[doubted, other] = 0.02, 0.86
    np.save(tmp_path / "p.npy", chances)
    summary = audit(audited.source, tmp_path / "audit", probabilities=tmp_path / "p.npy", workers=0)
    issues = pl.read_csv(tmp_path / "audit" / "issues.csv")
    rows = issues.filter(pl.col("issue") == "label_issue")
    dropped = set(issues.filter(pl.col("suggestion") == "drop")["sample_id"])
    expected = {f"row-{row:06d}" for row in doubted} - dropped
    assert set(rows["sample_id"]) == expected
    assert set(rows["suggestion"]) == {"review"}
    assert rows["score"].unique().to_list() == pytest.approx([0.92])
    assert found_of(summary, "label_issue") == (len(expected), 0)
    assert sum(pair.samples for pair in summary.labels.pairs) == len(expected)
    assert summary.suggested_drops == audited.summary.suggested_drops
    record = json.loads((tmp_path / "audit" / PROVENANCE).read_text())
    assert set(record["inputs"]) == {"source", "probabilities"}
    page = (tmp_path / "audit" / "audit.html").read_text()
    section = page.partition('id="label_issue"')[2]
    assert section.count("<li>") >= len(expected) > 12
    assert "looks like" in section


def test_a_size_that_only_one_class_has_is_a_shortcut_in_summary_and_page(tmp_path: Path) -> None:
    for label in ("ig", "monocyte"):
        for n in range(40):
            path = tmp_path / "cells" / label / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(cell(9 if label == "ig" and n % 2 else 8, n + 100 * (label == "ig"))))
    summary = audit(tmp_path / "cells", tmp_path / "audit", workers=0)
    size = next(one for one in summary.shortcuts if one.attribute == "image size")
    assert {leak.label for leak in size.leaks} == {"ig", "monocyte"}
    assert size.accuracy.value == pytest.approx(0.75)
    assert (size.where, size.samples) == ("width 9, height 9", 20)
    assert size.shares == (ClassShare(label="ig", share=1.0, usual=0.5),)
    assert "order in the source" not in {one.attribute for one in summary.shortcuts}
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "width 9, height 9" in page.partition('id="shortcut-table"')[2]


def small_set(folder: Path, images: Images | None = None) -> Path:
    images = np.stack([cell(8, seed) for seed in range(6)]) if images is None else images
    np.savez(folder / "small.npz", images=images, labels=np.arange(len(images)) % 3)
    return folder / "small.npz"


def test_a_source_is_audited_against_another_and_along_a_split(tmp_path: Path, cells: SyntheticSet) -> None:
    def images(name: str, rows: Images) -> Path:
        np.savez(tmp_path / name, images=rows, labels=np.zeros(len(rows), int))
        return tmp_path / name

    turned = np.ascontiguousarray(cells.images[:2, ::-1])
    here = images("here.npz", np.concatenate([cells.images[:30], turned]))
    there = images("there.npz", np.concatenate([cells.images[30:50], cells.images[2:3], turned]))
    summary = audit(here, tmp_path / "against", against=there, workers=0)
    assert found_of(summary, "leakage") == (5, 3)
    assert summary.n_samples == 32
    assert summary.n_against == 23
    leaks = pl.read_csv(tmp_path / "against" / "issues.csv").filter(pl.col("issue") == "leakage")
    assert set(leaks["sample_id"]) == {f"row-{row:06d}" for row in (0, 1, 2, 30, 31)}
    assert set(leaks["suggestion"]) == {"drop"}
    assert leaks["reason"].str.contains("there.npz").all()
    record = json.loads((tmp_path / "against" / PROVENANCE).read_text())
    assert set(record["inputs"]) == {"source", "against"}
    page = (tmp_path / "against" / "audit.html").read_text()
    assert 'id="leakage"' in page
    assert page.count('<li class="pair">') == 2 + 5  # one of each pair of copies, each leak
    assert "right: row-000020 (basophil)" in page

    ids = [f"row-{row:06d}" for row in range(32)]
    pl.DataFrame({"sample_id": ids, "split": ["train"] * 30 + ["test", "train"]}).write_csv(tmp_path / "splits.csv")
    summary = audit(here, tmp_path / "along", splits=tmp_path / "splits.csv", workers=0)
    leaks = pl.read_csv(tmp_path / "along" / "issues.csv").filter(pl.col("issue") == "leakage")
    assert leaks["sample_id"].to_list() == ["row-000000", "row-000030"]
    assert leaks["reason"][1] == "in test, nearly the same image as row-000000 in train"
    assert found_of(summary, "near_duplicate") == (4, 2)


def test_the_splits_a_source_brings_are_looked_at_without_asking(tmp_path: Path, cells: SyntheticSet) -> None:
    rows = np.concatenate([cells.images[:10], cells.images[:1]])
    np.savez(tmp_path / "own.npz", images=rows, labels=np.zeros(11, int), splits=["train"] * 10 + ["test"])
    assert audit(tmp_path / "own.npz", tmp_path / "audit", workers=0).issues["leakage"].samples == 2


def test_an_existing_output_is_refused_unless_overwritten_and_comes_out_the_same(tmp_path: Path) -> None:
    source, out = small_set(tmp_path), tmp_path / "audit"
    audit(source, out, workers=0)
    before = {name: (out / name).read_bytes() for name in ("manifest.csv", "issues.csv", "statistics.csv")}
    with pytest.raises(ArtifactError, match="--overwrite"):
        audit(source, out, workers=0)
    audit(source, out, workers=0, overwrite=True)
    assert before == {name: (out / name).read_bytes() for name in before}


def test_named_classes_replace_the_sources_own(tmp_path: Path) -> None:
    summary = audit(small_set(tmp_path), tmp_path / "audit", classes=["red", "white", "blue"], workers=0)
    assert summary.classes == {name: ClassCount(before=2, after=2) for name in ("red", "white", "blue")}
    assert not summary.are_blood_cells


def test_unlabelled_images_are_counted_under_no_name(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.stack([cell(8, seed) for seed in range(3)]))
    summary = audit(tmp_path / "plain.npy", tmp_path / "audit", workers=0)
    assert summary.classes == {"": ClassCount(before=3, after=3)}


@pytest.mark.parametrize(
    "images",
    [
        np.stack([cell()] * 60),
        np.arange(60, 130, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8),
        np.zeros((1, 1, 1, 3), np.uint8),
        np.stack([cell(2, seed) for seed in range(60)]),
        np.stack([cell(8, seed)[..., 0] for seed in range(60)]),
    ],
    ids=["60 copies", "70 blanks", "one pixel", "tiny", "grey"],
)
def test_odd_sets_are_audited_to_the_end(tmp_path: Path, images: Images) -> None:
    summary = audit(small_set(tmp_path, images), tmp_path / "audit", workers=0)
    assert summary.n_samples == len(images)
    assert (tmp_path / "audit" / PROVENANCE).exists()


def test_a_source_of_rubbish_alone_is_audited_and_all_of_it_dropped(tmp_path: Path) -> None:
    write_tar(tmp_path / "bad.tar", [(name, data) for name, data in UNREADABLE.items() if data])
    summary = audit(tmp_path / "bad.tar", tmp_path / "audit", workers=0)
    assert summary.n_unreadable == summary.suggested_drops == summary.n_samples == len(UNREADABLE) - 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_names_that_are_no_utf8_are_escaped_in_all_outputs(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    (root / "ig").mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(root) + b"/ig/\xff<b>.png")).write_bytes(encode(cell()))
    summary = audit(root, tmp_path / "audit", workers=0)
    assert summary.source.endswith("caf\\xe9")
    assert pl.read_csv(tmp_path / "audit" / "manifest.csv")["sample_id"].to_list() == ["ig/\\xff<b>.png"]


def test_one_drop_among_a_samples_findings_is_enough() -> None:
    rows = [(3, "keep"), (3, "drop"), (4, "review"), (5, "keep")]
    findings = [Finding(index, "converted", 1.0, "", suggestion, "") for index, suggestion in rows]
    assert suggested_drops(findings) == {3}


WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from hemalens.cli import main
main()
"""


def test_the_audit_needs_no_torch_and_training_without_it_names_the_extra(tmp_path: Path) -> None:
    source = small_set(tmp_path)

    def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, timeout=60)

    done = command("audit", source, "--out", tmp_path / "audit", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_samples"] == 6
    for words in (
        ["train", source, "--out", tmp_path / "run"],
        ["audit", source, "--out", tmp_path / "b", "--label-issues"],
    ):
        refused = command(*words)
        assert refused.returncode == 2
        assert "pip install 'hemalens[train]'" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert "option --label-issues: needs" in refused.stderr


@pytest.mark.real_data
def test_five_foreign_images_among_real_cells_are_found_and_hardly_a_cell_is_called_one(
    real_data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cells"
    subprocess.run(["tar", "-xf", real_data / "pbc" / "val-000.tar", "--one-top-level=" + str(root)], check=True)
    strangers = {path.name: path.read_bytes() for path in sorted((real_data / "foreign").glob("*.png"))[:2]}
    drawn = {"text.png": page_of_text(224), "chart.png": colour_chart(224, 1), "hills.png": landscape(224, 1)}
    strangers |= {name: encode(pixels) for name, pixels in drawn.items()}
    assert len(strangers) == 5
    for name, data in strangers.items():
        (root / "monocyte" / f"planted-{name}").write_bytes(data)
    summary = audit(root, tmp_path / "audit")
    assert summary.n_samples > 1700
    foreign = pl.read_csv(tmp_path / "audit" / "issues.csv").filter(pl.col("issue") == "foreign")
    found = set(foreign["sample_id"])
    planted = {f"monocyte/planted-{name}" for name in strangers}
    assert planted <= set(foreign.filter(pl.col("suggestion") == "drop")["sample_id"])
    assert len(found - planted) <= 0.002 * summary.n_samples
