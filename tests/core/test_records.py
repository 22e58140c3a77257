"""Nobody reads what a stage wrote past its record."""

import re
from pathlib import Path

import hemalens

RAW = re.compile(r"\b(?:read_json|read_table|safe_open|pl\.read_csv|pl\.read_parquet|np\.load)\(")
# What no finished directory vouches for: work under way, a user's own files, and files that are checked in another way.
UNRECORDED = {
    "core/artifacts.py": "parses bytes for records",
    "core/records.py": "reads the records themselves",
    "core/strict_json.py": "defines the reader",
    "data/probabilities.py": "a user's own probabilities; recorded ones by their record",
    "data/sources/arrays.py": "a source, checked when it is opened",
    "data/sources/manifests.py": "a source, checked when it is opened",
    "data/split.py": "a user's own splits; recorded ones by their record",
    "deployment/check_process.py": "of a submission under test",
    "deployment/export.py": "looks what would be overwritten",
    "deployment/predict.py": "the plan of unfinished predictions",
    "deployment/sidecar.py": "bound to the model by digests",
    "deployment/submission_check.py": "of a submission under test",
    "deployment/submission_zip.py": "of a submission under test",
    "deployment/submitted/numpy_runtime.py": "runs where there is no hemalens",
    "deployment/verify.py": "compares it with the model",
    "pipeline.py": "which stages an unfinished run has completed",
    "training/estimator.py": "bytes that a record gave",
    "training/out_of_fold.py": "folds of unfinished work",
    "training/train.py": "the plan of unfinished training",
    "training/weights.py": "a user's own weights; recorded ones by their record",
}


def test_every_raw_reader_is_known_with_its_reason() -> None:
    root = Path(hemalens.__file__).parent
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if RAW.search(path.read_text("utf-8"))}
    assert found <= set(UNRECORDED)
