"""Strangers' submissions: none reads, writes, forks out, outlives or scores itself, and honest ones run as they are."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.deployment import sandbox, submission_process
from hemalens.deployment.submission_check import check
from tests.deployment.attacks import HONEST, LOUD, NEEDING, PROCESSES, QUIET, RUNTIMES, honest, quiet

N = 8
SANDBOXES = {"bubblewrap": "bwrap", "unshare": "unshare"}
GOOD = {"model.py": "class Model:\n    def predict(self, X): return [0] * len(X)"}


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of the machine: what lies there is nobody's, and must lie there unchanged afterwards."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text("secret")
    rng = np.random.default_rng(0)
    np.savez(folder / "cells.npz", images=rng.integers(0, 256, (N, 96, 96, 3), np.uint8), labels=np.arange(N))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    yield folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "something was written"
    for _ in range(50):
        if not (left := marked(str(folder))):
            return
        time.sleep(0.1)
    pytest.fail(f"outlives the check: {left}")


def marked(words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [int(path.parent.name)] * (words.encode() in path.read_bytes())
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Allow one sandbox, and skip the test by name where it is missing."""
    name = str(getattr(request, "param", "bubblewrap"))
    if sys.platform != "linux" or shutil.which(SANDBOXES[name]) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(submission_process, "SANDBOXES", {name: sandbox.SANDBOXES[name]})
    return name


def run(outside: Path, members: dict[str, str], **options: Any) -> dict[str, Any]:
    path = outside.with_name(outside.name + ".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return check(path, outside / "cells.npz", **options)


@pytest.fixture
def facts(outside: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int, str, str]]:
    """Where what is attacked lies; something listens there meanwhile."""
    monkeypatch.setenv("HEMALENS_SECRET", "secret")
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_UNIX) as abstract:
        port = listening.getsockname()[1]
        abstract.bind(f"\0hemalens-{port}")
        abstract.listen()
        yield str(outside), port, sysconfig.get_path("purelib"), str(Path.home())


@pytest.mark.parametrize("name", QUIET)
def test_an_attack_is_held_back(name, only, outside, facts) -> None:
    found = run(outside, {"model.py": quiet((name,), facts)})
    assert found["isolation"] == only
    assert found["accuracy"]["value"] == 1 / N


@pytest.mark.parametrize("only", ["unshare"], indirect=True)
def test_all_attacks_are_held_back_by_the_other_sandbox(only, outside, facts) -> None:
    assert run(outside, {"model.py": quiet(QUIET, facts)})["isolation"] == only


@pytest.mark.parametrize(
    ("only", "name"),
    [*(("bubblewrap", name) for name in LOUD), *(("unshare", name) for name in PROCESSES)],
    indirect=["only"],
)
def test_an_attack_is_refused(name, only, outside) -> None:
    code, words = LOUD[name]
    with pytest.raises(ArtifactError, match=words) as caught:
        run(
            outside,
            {"model.py": code.replace("MARK", str(outside))},
            seconds=4 if "too slow" in words else 60,
            memory_gb=1,
        )
    assert str(caught.value).isprintable()


def test_the_time_is_the_parents(only, outside) -> None:
    code = "import time\nsleep = time.sleep\ntime.time = time.monotonic = time.perf_counter = lambda: 0.0\n"
    found = run(outside, {"model.py": code + "class Model:\n    def predict(self, X): sleep(0.1); return [0] * len(X)"})
    assert found["pictures_per_second"] < N / 0.1


FACTS = {"classes": ["basophil", "eosinophil"], "labels": [0, 1], "image_sizes": [96], "runtime": "numpy"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", [0, 0]),
        ("labels", [0, 1, 2]),
        ("labels", None),
        ("classes", ["basophil", "basophil"]),
        ("classes", "basophil"),
        ("classes", [["basophil"], "eosinophil"]),
        ("image_sizes", [1 << 30]),
        ("image_sizes", 96),
        ("runtime", ["numpy"]),
    ],
)
def test_a_zip_cannot_choose_what_counts(key, value, outside) -> None:
    with pytest.raises(ArtifactError, match=rf"its submission\.json has a wrong {key}"):
        run(outside, GOOD | {"submission.json": json.dumps(FACTS | {key: value})})


def test_a_zip_that_knows_some_classes_is_scored_on_them_and_says_so(only, outside) -> None:
    found = run(outside, GOOD | {"submission.json": json.dumps(FACTS)})
    assert (found["n"], found["notes"]) == (2, ["6 pictures are not counted: it does not know their class"])


def test_a_deep_file_of_facts_is_refused(outside) -> None:
    with pytest.raises(ArtifactError, match=r"submission\.json"):
        run(outside, GOOD | {"submission.json": "[" * 100_000})


@pytest.mark.parametrize(
    ("only", "name"),
    [*(("bubblewrap", name) for name in HONEST), *(("unshare", name) for name in NEEDING)],
    indirect=["only"],
)
def test_an_honest_submission_is_scored(name, only, outside) -> None:
    found = run(outside, honest(name), runtime=RUNTIMES.get(name, "numpy"))
    assert (found["isolation"], found["accuracy"]["value"]) == (only, 1 / N)
    assert any("prints" in note for note in found["notes"]) == (name in {"prints", "warns and logs"})


def test_what_fills_its_scratch_meets_the_end_of_it(only, outside, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "_TMP_BYTES", 1 << 24)
    code = "def predict(self, X):\n        open('/tmp/much', 'wb').write(bytes(1 << 25))"
    with pytest.raises(ArtifactError, match="No space left"):
        run(outside, {"model.py": f"class Model:\n    {code}"})


def test_without_a_sandbox_it_runs_only_where_it_is_trusted(outside, monkeypatch) -> None:
    def broken(binds: object, words: object) -> list[str]:
        return ["sh", "-c", "echo no namespaces here >&2; exit 1"]

    def open_inside(binds: object, words: list[str]) -> list[str]:
        return [word.replace("/check_process.py", str(submission_process._SCRIPT)) for word in words]

    monkeypatch.setattr(submission_process, "SANDBOXES", {"first": broken, "second": open_inside})
    with pytest.raises(ConfigError, match=r"not isolated.*first: no namespaces here; second: .*; .*--trust") as caught:
        run(outside, GOOD)
    assert caught.value.what.startswith("submission")
    found = run(outside, GOOD, trust=True)
    assert (found["isolation"], found["accuracy"]["value"]) == ("not isolated", 1 / N)
    with pytest.raises(ArtifactError, match=r"needs the package 'scipy'"):
        run(outside, {"model.py": "import scipy"}, trust=True)


@pytest.mark.parametrize("only", SANDBOXES, indirect=True)
def test_everything_inside_dies_with_the_check(only, outside, tmp_path) -> None:
    code = LOUD["orphan"][0].replace("raise KeyError(1)", "time.sleep(900)").replace("MARK", str(outside))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("model.py", code)
    words = (
        "import sys\nfrom pathlib import Path\nfrom hemalens.deployment import sandbox, submission_process as one\n"
        "one.SANDBOXES = {sys.argv[1]: sandbox.SANDBOXES[sys.argv[1]]}\n"
        "from hemalens.deployment.submission_check import check\ncheck(Path(sys.argv[2]), sys.argv[3])"
    )
    given = [only, str(tmp_path / "s.zip"), str(shutil.copy(outside / "cells.npz", tmp_path))]
    with subprocess.Popen([sys.executable, "-c", words, *given]) as process:
        for _ in range(300):
            if marked(f"#{outside}"):
                break
            time.sleep(0.1)
        assert marked(f"#{outside}"), "it never started"
        process.kill()
