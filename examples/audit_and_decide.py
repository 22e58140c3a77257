"""Audit a dirty set, overrule one suggestion by hand, write the clean samples.

python examples/audit_and_decide.py FOLDER
"""

import sys
from pathlib import Path

import polars as pl

from hemalens.data.audit.audit import audit
from hemalens.data.clean import clean
from hemalens.data.synthetic import write_synthetic


def main(folder: Path) -> None:
    """Write a small synthetic set, its audit and its clean samples into a folder."""
    dirty = folder / "dirty.npz"
    write_synthetic(dirty, 25, size=48)
    summary = audit(dirty, folder / "audit")
    print(f"{summary.n_samples} samples, {summary.suggested_drops} suggested to drop")
    for name, found in summary.issues.items():
        print(f"{name}: {found.samples} ({found.words})")

    # A decision is a word in a table. Here a person takes the first of the suggested copies back.
    table = folder / "audit" / "issues.csv"
    issues = pl.read_csv(table, infer_schema=False)
    taken_back = issues.filter(pl.col("issue") == "exact_duplicate", pl.col("suggestion") == "drop")["sample_id"][0]
    mine = pl.when(pl.col("sample_id") == taken_back).then(pl.lit("keep")).otherwise("suggestion").alias("suggestion")
    issues.with_columns(mine).write_csv(table)

    result = clean(dirty, folder / "clean.npz", audit=folder / "audit")
    print(f"kept {result['kept']}, dropped {result['dropped']}; taken back: {taken_back}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
