import hashlib
import json
import subprocess
import sys
from datetime import datetime
from importlib import metadata

from hemalens.core import provenance as module
from hemalens.core.provenance import provenance, sha256_file, version


def test_a_file_hash_is_that_of_its_bytes_across_blocks(tmp_path):
    content = bytes(range(256)) * 5000  # 1.28 MB: more than one block
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_record_holds_what_is_needed_and_is_json(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hemalens", "train", "x.npz", "--out", "a b"])
    record = provenance("train", seed=3, inputs={"source": "00"}, options={"epochs": 2})
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["command"] == "train"
    assert record["argv"] == ["train", "x.npz", "--out", "a b"]
    assert (record["seed"], record["inputs"], record["options"]) == (3, {"source": "00"}, {"epochs": 2})
    assert record["version"] == version() == metadata.version("hemalens")
    assert record["libraries"]["numpy"] == metadata.version("numpy")
    assert record["hardware"]["cores"] >= 1
    assert datetime.fromisoformat(record["time"]).utcoffset().total_seconds() == 0


def test_a_library_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "_LIBRARIES", ("numpy", "no-such-distribution"))
    assert set(provenance("x", seed=None, inputs={})["libraries"]) == {"python", "numpy"}


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "c" / "provenance.py"))
    record = provenance("x", seed=None, inputs={})
    assert (record["commit"], record["dirty"]) == (None, None)


def _checkout(root):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", "-C", root, *identity, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (root / "tracked").write_text("one")
    git("add", "tracked")
    git("commit", "-q", "-m", "first")
    return git("rev-parse", "HEAD")


def test_in_a_checkout_the_commit_is_named_and_changes_make_it_dirty(monkeypatch, tmp_path):
    commit = _checkout(tmp_path)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "src" / "hemalens" / "core" / "provenance.py"))
    (tmp_path / "untracked").write_text("an output, no change of the code")
    record = provenance("x", seed=None, inputs={})
    assert (record["commit"], record["dirty"]) == (commit, False)
    (tmp_path / "tracked").write_text("two")
    assert provenance("x", seed=None, inputs={})["dirty"] is True


def test_a_missing_git_is_no_error(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "src" / "hemalens" / "core" / "provenance.py"))
    monkeypatch.setenv("PATH", "")
    record = provenance("x", seed=None, inputs={})
    assert (record["commit"], record["dirty"]) == (None, None)


def test_torch_is_named_without_being_imported():
    code = "import sys; from hemalens.core.provenance import provenance; provenance('x', seed=None, inputs={}); "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"
