"""What benchmarks record of the conditions they ran under."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLEAN = {"commit": "a" * 40, "dirty": False, "changed": []}
DIRTY = CLEAN | {"dirty": True, "changed": ["src/x.py"]}


@pytest.fixture
def conditions(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import conditions as module

    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    monkeypatch.setattr(module, "tree_state", lambda: CLEAN)
    monkeypatch.setitem(module.START, "tree", CLEAN)
    return module


def record(conditions, figures=None, **words):
    path = conditions.record("speed", figures or {"images_per_second": 3}, folder=conditions.RESULTS, **words)
    return path, json.loads(path.read_text(encoding="utf-8"))


def test_the_command_is_kept_as_it_was_typed(tmp_path):
    script = tmp_path / "bench_this.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "import conditions\nprint(conditions.START['command'])\n",
        encoding="utf-8",
    )
    words = [sys.executable, "-X", "utf8", str(script), "--set", "augment=[{name='flip'}]", "two words"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert shlex.split(done.stdout) == words


def test_a_record_names_cores_load_and_threads(conditions, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(conditions.os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    monkeypatch.setattr(conditions.os, "getloadavg", lambda: (0.123, 4.0, 5.0))
    monkeypatch.setattr(conditions, "START", conditions.conditions_now())
    _, kept = record(conditions, run="runs/robust-1")
    assert kept["hardware"]["cores"] == 2
    assert kept["load_at_start"] == [0.12, 4.0, 5.0]
    assert kept["environment"]["OMP_NUM_THREADS"] == "1"
    assert kept["conditions"] == {"run": "runs/robust-1"}
    assert kept["name"] == "speed"
    assert kept["script"] == Path(sys.argv[0]).name
    assert kept["images_per_second"] == 3
    assert (kept["commit"], kept["dirty"]) == (CLEAN["commit"], False)


@pytest.mark.parametrize("when", ["at the start", "at the end", "a commit between"])
def test_figures_of_a_tree_with_changes_never_lie_among_the_results(conditions, monkeypatch, capsys, when):
    if when == "at the start":
        monkeypatch.setitem(conditions.START, "tree", DIRTY)
    else:
        now = DIRTY if when == "at the end" else CLEAN | {"commit": "b" * 40}
        monkeypatch.setattr(conditions, "tree_state", lambda: now)
    path, kept = record(conditions)
    assert path == conditions.BUILD / "dirty" / "speed.json"
    assert kept["dirty"] is True
    assert kept["changed"]
    assert not conditions.RESULTS.exists()
    assert "no result: uncommitted changes" in capsys.readouterr().err


def test_results_and_documents_leave_a_tree_clean_while_code_does_not(conditions, monkeypatch, tmp_path):
    root = tmp_path / "checkout"
    for name in ("src/a.py", "benchmarks/results/b.json", "docs/c.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1", encoding="utf-8")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "a")
    monkeypatch.undo()
    monkeypatch.setattr(conditions, "__file__", str(root / "benchmarks" / "conditions.py"))
    assert conditions.tree_state()["dirty"] is False
    (root / "benchmarks/results/b.json").write_text("2", encoding="utf-8")
    (root / "benchmarks/results/new.json").write_text("2", encoding="utf-8")
    (root / "docs/c.md").write_text("2", encoding="utf-8")
    assert conditions.tree_state()["dirty"] is False
    (root / "src/new.py").write_text("2", encoding="utf-8")
    assert conditions.tree_state()["changed"] == ["src/new.py"]


def git(root, *words):
    subprocess.run(["git", "-C", str(root), *words], check=True, timeout=60)
