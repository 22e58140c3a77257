"""Whatever is changed in what a stage wrote is refused by name by who reads it, and named by ``verify``."""

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemalens.core.abstention import confidence_rule
from hemalens.core.artifacts import output_directory, write_json
from hemalens.core.decisions import read_issues
from hemalens.core.errors import ArtifactError, SourceError, UserError
from hemalens.data.audit.audit import audit
from hemalens.data.clean import clean
from hemalens.data.sources import open_source
from hemalens.data.split import read_splits, split
from hemalens.evaluation.groups import background_batch
from hemalens.export.signing import sign_model, signature_path
from hemalens.export.submission.package import package
from hemalens.export.verify import verify
from hemalens.inference.sidecar import find_onnx, read_exported, sidecar_path
from hemalens.report.inputs import load_inputs
from hemalens.training.checkpoint import load_model, read_abstention, read_validation, save_model, save_validation
from hemalens.training.models import Normalised, build_model
from tests.data.hostile import cell, encode
from tests.evaluation.factory import CONFIG, confusion, predictions, scores, trained_model

TRAINED = "3dd1fd5304dee8f3b9d2b213c00e92e8f396206b5e1078964975dce4c23ebc45"
"""SHA-256 of the embedded model as it was exported, before it named its sidecar: 93 bytes at its end."""
CLASSES = [f"c{number}" for number in range(3)]


def make_run(path: Path, seed: int) -> Path:
    """Write what training writes, of a network that was never trained."""
    torch.manual_seed(seed)
    module = Normalised(build_model("compact", 3, image_size=16), torch.zeros(3), torch.ones(3))
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    draw = np.random.default_rng(seed)
    logits, labels = draw.normal(size=(30, 3)).astype(np.float32), np.arange(30) % 3
    with output_directory(path, "train", seed=seed, inputs={"source": "a" * 64}) as out:
        card = trained_model(parameters=1, classes=CLASSES, image_size=16, train_seconds=1.0)
        save_model(out, module, card)
        save_validation(out, logits, labels.astype(np.int64))
        write_json(out / "abstention.json", confidence_rule(logits, labels).to_json())
        write_json(out / "config.json", CONFIG | {"seed": seed})
        history = {"epoch": [1], "train_loss": [1.0], "train_accuracy": [0.5], "val_loss": [1.0], "val_accuracy": [0.5]}
        pl.DataFrame(history).write_csv(out / "history.csv")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything under ``one``, and again, otherwise, under ``two``; nobody may write to them."""
    home = tmp_path_factory.mktemp("made")
    for number, name in enumerate(("one", "two")):
        root = home / name
        for kind in ("ig", "platelet"):
            (root / "cells" / kind).mkdir(parents=True)
            for index in range(4):
                data = encode(cell(12, 100 * number + 10 * index + (kind == "ig")))
                (root / "cells" / kind / f"{index}.png").write_bytes(data)
        shutil.copyfile(root / "cells" / "ig" / f"{3 - number}.png", root / "cells" / "platelet" / "copy.png")
        audit(root / "cells", root / "audit", workers=0)
        clean(root / "cells", root / "clean", audit=root / "audit")
        (root / "arrays").mkdir()
        arrays = {"images": np.stack([cell(12, 50 + index) for index in range(6)]), "labels": np.arange(6) % 2}
        np.savez(root / "arrays" / "cells.npz", **arrays)
        audit(root / "arrays" / "cells.npz", root / "arrays" / "audit", workers=0)
        clean(root / "arrays" / "cells.npz", root / "arrays" / "clean.npz", audit=root / "arrays" / "audit")
        split(root / "clean", root / "splits.csv", ratios="2:1:1", seed=number)
        make_run(root / "train", number)
        matrix = confusion(CLASSES) + number
        inputs = {"model": _weights(root / "train"), "source": "b" * 64}
        with output_directory(root / "evaluation", "evaluate", inputs=inputs) as out:
            write_json(out / "evaluation.json", scores(matrix, CLASSES))
            predictions(matrix, CLASSES).write_csv(out / "predictions.csv")
        (root / "models").mkdir()
        for name_ in ("embedded.onnx", "embedded.json", "parity.json"):
            shutil.copyfile(find_onnx("embedded").with_name(name_), root / "models" / name_)
    package(["embedded"], home / "one" / "submission.zip")
    return home


def _weights(run: Path) -> str:
    digest: str = json.loads((run / "provenance.json").read_text())["outputs"]["model.safetensors"]
    return digest


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "made", copy_function=shutil.copy2)
    return tmp_path / "made" / "one"


def read_run(root: Path) -> None:
    load_model(root / "train")
    read_validation(root / "train")
    read_abstention(root / "train")
    load_inputs([root / "train"])


def read_report(root: Path) -> None:
    load_inputs([root / "train"], [root / "evaluation"])
    load_inputs([root / "train", root.parent / "two" / "train"], [root / "evaluation", root.parent / "two/evaluation"])


def read_audit(root: Path) -> None:
    clean(root / "cells", root / "again", audit=root / "audit")
    background_batch(root / "audit")
    shutil.rmtree(root / "again")


def read_clean(root: Path) -> None:
    source = open_source(root / "clean")
    for index in range(len(source)):
        source.read(index)


def read_arrays(root: Path) -> None:
    open_source(root / "arrays" / "clean.npz").image(0)


def read_the_splits(root: Path) -> None:
    read_splits(root / "splits.csv", open_source(root / "clean").samples)


def read_model(root: Path) -> None:
    read_exported(root / "models" / "embedded.onnx")


def read_zip(root: Path) -> None:
    found = verify([root / "submission.zip"])
    if not found["holds"]:
        raise ArtifactError("zip", str([one for one in found["files"] if one["status"] != "ok"]))


Change = Callable[[Path], None]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def junk(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\njunk")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


def swap(file: Path) -> None:
    """Put what the other run, audit or model has there."""
    parts = list(file.parts)
    parts[len(parts) - 1 - parts[::-1].index("one")] = "two"
    shutil.copyfile(Path(*parts), file)


def forget(file: Path) -> None:
    """Delete the recorded hash, and change the file too."""
    for record in (file.with_name(f"{file.name}.provenance.json"), *(one / "provenance.json" for one in file.parents)):
        if record.is_file():
            facts = json.loads(record.read_text())
            name = file.relative_to(record.parent).as_posix()
            del facts["outputs"][name]
            record.write_text(json.dumps(facts))
            break
    junk(file)


def nested(file: Path) -> None:
    file.write_text('{"a":' * 100_000)


@dataclass(frozen=True)
class Tampering:
    file: str
    change: Change
    read: Callable[[Path], None]
    words: str = ""

    def __str__(self) -> str:
        return f"{self.file}-{self.change.__name__}"


def kinds() -> Iterator[Tampering]:
    for name in ("model.safetensors", "model.json", "validation.safetensors", "abstention.json"):
        for change in (flip, swap, remove, forget, empty) if name != "model.json" else (flip, remove, forget, nested):
            yield Tampering(f"train/{name}", change, read_run, name)
    for name in ("config.json", "history.csv"):
        for change in (flip, remove, forget, junk):
            yield Tampering(f"train/{name}", change, read_run, name)
    for change in (flip, swap, remove, forget, junk, nested):
        yield Tampering("evaluation/evaluation.json", change, read_report, "evaluation.json")
    for change in (flip, swap, remove, forget, shorten, junk):
        yield Tampering("evaluation/predictions.csv", change, read_report, "predictions.csv")
    for change in (flip, swap, remove, forget, junk, shorten, empty):
        yield Tampering("audit/manifest.csv", change, read_audit, "manifest.csv")
    for change in (swap, remove, junk, empty):
        yield Tampering("audit/issues.csv", change, read_audit, "issues.csv")
    for name in ("clean/ig/0.png", "clean/platelet/2.png"):
        for change in (flip, swap, remove, forget, shorten):
            yield Tampering(name, change, read_clean, Path(name).name)
    for change in (flip, swap, junk, forget):
        yield (
            Tampering("arrays/clean.npz", change, read_arrays, "clean.npz")
            if change is not swap
            else Tampering("splits.csv", swap, read_the_splits, "splits.csv")
        )
    for change in (flip, shorten, forget, junk, empty):
        yield Tampering("splits.csv", change, read_the_splits, "splits.csv")
    for change in (flip, shorten, junk, remove, empty):
        yield Tampering("models/embedded.onnx", change, read_model, "embedded")
    for change in (flip, shorten, junk, remove, empty, nested):
        yield Tampering("models/embedded.json", change, read_model, "embedded")
    for change in (flip, shorten, empty):
        yield Tampering("submission.zip", change, read_zip, "")
    for stage, read in (("train", read_run), ("evaluation", read_report), ("audit", read_audit)):
        for change in (remove, empty, nested, shorten):
            yield Tampering(f"{stage}/provenance.json", change, read, stage)


KINDS = list(kinds())


def test_there_are_sixty_kinds() -> None:
    assert len({str(one) for one in KINDS}) >= 60


def test_what_nobody_changed_is_read_and_holds(copy: Path) -> None:
    for read in {one.read for one in KINDS}:
        read(copy)
    paths = ["train", "evaluation", "audit", "clean", "splits.csv", "models/embedded.onnx", "submission.zip"]
    found = verify([copy / path for path in paths])
    assert found["holds"]
    assert found["not_recorded"] == found["differs"] == found["missing"] == 0
    assert found["ok"] > 20


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_change_is_refused_by_name(copy: Path, kind: Tampering) -> None:
    kind.change(copy / kind.file)
    with pytest.raises(UserError) as caught:
        kind.read(copy)
    assert kind.words in str(caught.value)
    assert "; " in str(caught.value) or kind.read is read_zip


def edit_sidecar(copy: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = copy / "models" / "embedded.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["classes"].reverse(),
        lambda facts: facts.update(classes="basophil"),
        lambda facts: facts.update(classes=[["a"]] * 8),
        lambda facts: facts.update(classes=["a"] * 8),
        lambda facts: facts.update(temperature=float("inf")),
        lambda facts: facts.update(temperature=float("nan")),
        lambda facts: facts.update(threshold=-0.1),
        lambda facts: facts.update(abstention=[]),
        lambda facts: facts.update(abstention=None),
        lambda facts: facts.update(image_size=95),
        lambda facts: facts["abstention"].update(distance_limit=1e9),
        lambda facts: facts["run"].update(val_accuracy=1.0),
        lambda facts: facts.update(intended_use="Diagnosis."),
    ],
)
def test_a_changed_sidecar_is_refused_whatever_was_changed(copy: Path, change: Any) -> None:
    edit_sidecar(copy, change)
    with pytest.raises(ArtifactError, match=r"embedded\.json.*export the run again"):
        read_model(copy)
    assert not verify([copy / "models" / "embedded.onnx"])["holds"]


def test_an_export_of_before_that_names_no_sidecar_is_refused(copy: Path) -> None:
    path = copy / "models" / "embedded.onnx"
    path.write_bytes(path.read_bytes()[:-93])  # what binding added
    edit_sidecar(copy, lambda facts: facts.update(onnx_sha256=TRAINED))
    with pytest.raises(ArtifactError, match=r"of an earlier version of hemalens.*export the run again"):
        read_model(copy)


def test_a_image_that_changed_after_its_audit_in_size_and_time_alike_is_not_cleaned(copy: Path) -> None:
    path = copy / "cells" / "ig" / "1.png"
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(SourceError, match=r"ig/1\.png.*has changed since the audit.*audit the source again"):
        read_audit(copy)


def test_a_image_moved_to_another_class_or_added_is_refused(copy: Path) -> None:
    (copy / "clean" / "ig" / "0.png").rename(copy / "clean" / "platelet" / "moved.png")
    with pytest.raises(ArtifactError, match=r"ig/0\.png"):
        read_clean(copy)
    (copy / "clean" / "platelet" / "moved.png").rename(copy / "clean" / "ig" / "0.png")
    shutil.copyfile(copy / "clean" / "ig" / "0.png", copy / "clean" / "ig" / "more.png")
    with pytest.raises(ArtifactError, match=r"more\.png.*--accept"):
        read_clean(copy)


def add_issue(root: Path) -> Path:
    """Make an audit with findings: a copy of an image in another class."""
    shutil.copyfile(root / "cells" / "ig" / "0.png", root / "cells" / "platelet" / "copy.png")
    shutil.rmtree(root / "audit")
    audit(root / "cells", root / "audit", workers=0)
    return root / "audit" / "issues.csv"


def test_a_person_decides_and_may_sort_and_nothing_else(copy: Path) -> None:
    path = add_issue(copy)
    table = pl.read_csv(path, infer_schema=False)
    assert table.height >= 2
    table.with_columns(pl.lit("keep").alias("suggestion")).reverse().write_csv(path, line_terminator="\r\n")
    assert set(read_issues(copy / "audit")["suggestion"]) == {"keep"}
    found = verify([copy / "audit"])
    assert found["holds"]
    assert any("decisions" in one["note"] for one in found["files"])
    for name in ("sample_id", "label", "issue", "score", "group", "reason"):
        table.with_columns(pl.lit("0.5" if name == "score" else "other").alias(name)).write_csv(path)
        with pytest.raises(ArtifactError, match=r"issues\.csv: was changed beyond its column 'suggestion'"):
            read_audit(copy)
        assert not verify([copy / "audit"])["holds"]
    for rows in (table.head(1), pl.concat([table, table.head(1)])):
        rows.write_csv(path)
        with pytest.raises(ArtifactError, match="was changed beyond"):
            read_audit(copy)


def test_a_change_on_purpose_is_accepted_when_said_and_then_spoken_of(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = copy / "train" / "config.json"
    write_json(path, json.loads(path.read_text()) | {"epochs": 41})
    with pytest.raises(ArtifactError, match=r"hemalens verify \S+train/config\.json --accept") as caught:
        read_run(copy)
    assert str(path) in caught.value.step
    assert verify([path], accept=True)["holds"]
    read_run(copy)
    assert "config.json was changed by hand (accepted " in caplog.text
    (copy / "clean" / "ig" / "0.png").unlink()
    assert verify([copy / "clean"], accept=True)["holds"]
    read_clean(copy)
    for fixed in ("audit", "submission.zip"):
        with pytest.raises(ArtifactError, match="are not changed by hand"):
            verify([copy / fixed], accept=True)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_one_byte_changed_is_noticed_by_verify_and_by_who_reads_it(copy: Path, data: st.DataObject) -> None:
    stage, read = data.draw(st.sampled_from([("train", read_run), ("evaluation", read_report), ("clean", read_clean)]))
    outputs = sorted(json.loads((copy / stage / "provenance.json").read_text())["outputs"])
    file = copy / stage / data.draw(st.sampled_from(outputs))
    before = file.read_bytes()
    index = data.draw(st.integers(0, max(len(before) - 1, 0)))
    changed = bytearray(before or b"\0")
    changed[index] ^= data.draw(st.integers(1, 255))
    file.write_bytes(changed)
    try:
        found = verify([copy / stage])
        assert [one["file"] for one in found["files"] if one["status"] == "differs"] == [str(file)]
        if file.name not in ("dropped.csv", "relabelled.csv"):  # which a source does not read
            with pytest.raises(UserError):
                read(copy)
    finally:
        file.write_bytes(before)


def test_a_member_changed_packed_anew_added_or_taken_away_is_named(copy: Path) -> None:
    path = copy / "submission.zip"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    cases = {
        "model.py": members | {"model.py": members["model.py"] + b"\n# more"},
        "added.py": members | {"added.py": b"x"},
        "README.txt": {name: value for name, value in members.items() if name != "README.txt"},
    }
    for name, contents in cases.items():
        with zipfile.ZipFile(path, "w") as archive:
            for member, value in contents.items():
                archive.writestr(member, value)
        found = verify([path])
        assert not found["holds"]
        assert any(one["file"].endswith(f":{name}") and one["status"] != "ok" for one in found["files"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.py", b"")
    with pytest.raises(ArtifactError, match="holds no SHA256SUMS"):
        verify([path])


def test_the_embedded_model_is_the_one_that_was_trained() -> None:
    data, sidecar = read_exported(find_onnx("embedded"))
    # Binding it to its sidecar added these bytes at its end and changed no other.
    assert hashlib.sha256(data[:-93]).hexdigest() == TRAINED
    assert sidecar_path(find_onnx("embedded")).is_file()
    assert sidecar.facts["onnx_sha256"] == hashlib.sha256(data).hexdigest()


def test_a_signature_holds_for_its_key_and_its_bytes_alone(copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="needs the extra sign")
    for name in ("ours", "theirs"):
        key = tmp_path / f"{name}.pem"
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
        words = ["openssl", "ec", "-in", key, "-pubout", "-out", tmp_path / f"{name}.pub"]
        subprocess.run(words, check=True, capture_output=True)
    model = copy / "models" / "embedded.onnx"
    assert sign_model(model, tmp_path / "ours.pem") == signature_path(model)
    assert verify([model], public_key=tmp_path / "ours.pub")["holds"]
    assert not verify([model], public_key=tmp_path / "theirs.pub")["holds"]
    junk(model)
    assert not verify([model], public_key=tmp_path / "ours.pub")["holds"]
    signature_path(model).unlink()
    assert verify([model], public_key=tmp_path / "ours.pub")["missing"] == 1
