"""The issue table: what an audit looks for, in the order a person would read it, and all that is said of each.

The findings, both pages, ``audit.json`` (and by it the report and the command line) and docs/files.md read these rows
and nothing else. A new check is its file in ``checks/``, a row here and its test. The checks are named, not imported:
who needs only the words (``clean``, ``review``) starts without SciPy and scikit-learn.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["ISSUES", "Gallery", "Issue", "find_issue", "issue_names"]

Gallery = Literal["each", "copies", "pairs", "ranked"]
"""How a page shows findings: images, one of each group first; one image a group, its copies only counted; an image
beside the one it resembles; or the surest ones in order, many of them, because all are to be looked through."""


@dataclass(frozen=True, slots=True)
class Issue:
    """What one row of the table says.

    Attributes:
        name: in ``issues.csv`` and ``audit.json``.
        title: for people, in the plural.
        meaning: one plain sentence on what was found.
        words: the same in the report's table and on the command line, without a capital and a full stop.
        suggestion: what the audit suggests, to follow "Suggested: ".
        checks: ``module.function`` in ``checks/`` that find it; see ``findings`` for what a function may ask for.
        gallery: how a page shows it.
        in_report: whether images of it are kept beside the audit for the report.
        apart_from: an issue whose images are not shown once more under this one in the report.
        last: looked for when all others are found, among the samples that none of them suggests to drop.
    """

    name: str
    title: str
    meaning: str
    words: str
    suggestion: str
    checks: tuple[str, ...]
    gallery: Gallery = "each"
    in_report: bool = False
    apart_from: str = ""
    last: bool = False


ISSUES: tuple[Issue, ...] = (
    Issue(
        "unreadable",
        "Unreadable files",
        "The file holds no image, is damaged, or breaks a safety limit.",
        "the file cannot be read as an image",
        "drop.",
        ("files.find_unreadable",),
    ),
    Issue(
        "converted",
        "Converted images",
        "The image was not stored as 8-bit RGB and was converted; each names the rule.",
        "the image was converted to 8-bit RGB from 16 bit, alpha, a palette or the like",
        "keep.",
        ("files.find_converted",),
    ),
    Issue(
        "odd_size",
        "Odd sizes",
        "The image has another shape or size than most. If one class has more of these, the size gives the class away.",
        "the image has another size than most",
        "keep.",
        ("files.find_odd_sizes",),
    ),
    Issue(
        "exact_duplicate",
        "Exact duplicates",
        "The same pixels occur more than once.",
        "the same pixels occur more than once",
        "keep the first image of each group, drop the others.",
        ("duplicates.find_duplicates",),
        gallery="copies",
    ),
    Issue(
        "near_duplicate",
        "Near duplicates",
        "One image occurs again: saved anew, resized, cropped a little, rotated, mirrored, made brighter or darker.",
        "almost the same image occurs more than once",
        "keep the best image of each group, drop the others; review the group where its labels differ.",
        ("near_duplicates.find_near_duplicates",),
        gallery="pairs",
    ),
    Issue(
        "label_conflict",
        "Label conflicts",
        "One image occurs under several labels, so none of these labels can be trusted.",
        "one image carries several labels",
        "drop equal images, review nearly equal ones.",
        ("duplicates.find_label_conflicts", "near_duplicates.find_near_conflicts"),
        gallery="copies",
    ),
    Issue(
        "foreign",
        "Foreign images",
        "The image shows no stained cell and looks like nothing else in the set.",
        "the image shows no cell",
        "drop where this is certain, otherwise review.",
        ("foreign.find_foreign",),
        gallery="copies",
        in_report=True,
    ),
    Issue(
        "outlier",
        "Outliers",
        "The image differs from most others far more than they differ among themselves. Rare cells do, too.",
        "colours or texture lie far from the rest",
        "review: look at the cell before you drop it.",
        ("outliers.find_outliers",),
        in_report=True,
        apart_from="foreign",  # what is no cell is an outlier, too
    ),
    Issue(
        "background_batch",
        "Background batches",
        "A group of images has a background of its own: probably another microscope, camera or day.",
        "the image belongs to a batch with another background",
        "keep, and compare the scores of the batches after training.",
        ("background.find_background_batches",),
        in_report=True,
    ),
    Issue(
        "blurry",
        "Blurry images",
        "The image is far less sharp than the others.",
        "the image is blurred",
        "review.",
        ("quality.find_blurry",),
    ),
    Issue(
        "dark",
        "Dark images",
        "Almost all of the image is dark.",
        "the image is too dark",
        "review.",
        ("quality.find_dark",),
    ),
    Issue(
        "bright",
        "Bright images",
        "Almost all of the image is white or nearly white.",
        "the image is too bright",
        "review.",
        ("quality.find_bright",),
    ),
    Issue(
        "label_issue",
        "Doubted labels",
        "A model that was not trained on the image finds another class likelier than the label. It may be wrong.",
        "the image looks like another class than its label",
        "review, the least plausible labels first.",
        ("labels.find_label_issues",),
        gallery="ranked",
        last=True,
    ),
    Issue(
        "leakage",
        "Leakage",
        "The same image, almost the same image, or the same patient or slide is in two splits or two sources, "
        "which makes scores too good.",
        "the image, patient or slide occurs in two splits or sources",
        "drop what the other source has, too; review what is in two splits of this one.",
        ("leakage.find_leakage",),
        gallery="pairs",
    ),
)
"""Every issue, in the order of ``issues.csv`` and of the pages."""


def issue_names() -> tuple[str, ...]:
    """Return the names of all issues in their order."""
    return tuple(issue.name for issue in ISSUES)


def find_issue(name: str) -> Issue:
    """Return the row of an issue's name."""
    return next(issue for issue in ISSUES if issue.name == name)
