"""The challenge file audited, cleaned and split once, for every benchmark that trains on it."""

from pathlib import Path

from hemalens.core.artifacts import read_provenance
from hemalens.data.audit.audit import audit
from hemalens.data.clean import clean
from hemalens.data.sources import open_source
from hemalens.data.split import split


def prepare(source: Path, folder: Path) -> tuple[Path, Path]:
    """Return ``clean.npz`` and ``splits.csv`` of a source in a folder, made anew where they are of other contents."""
    audited, cleaned, splits = folder / "audit", folder / "clean.npz", folder / "splits.csv"
    record = read_provenance(audited) if audited.is_dir() else None
    same = record is not None and record["inputs"].get("source") == open_source(source).fingerprint()
    if not (same and cleaned.exists() and splits.exists() and read_provenance(splits)):
        audit(source, audited, overwrite=True)
        clean(source, cleaned, audit=audited, overwrite=True)
        split(cleaned, splits, overwrite=True)
    return cleaned, splits
