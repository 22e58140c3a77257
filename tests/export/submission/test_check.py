"""Submissions tried in a clean process: the score of good ones, the reason why wrong ones are refused."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.data.synthetic import synthetic_set
from hemalens.evaluation.evaluate import evaluate
from hemalens.export.submission.check import check
from hemalens.export.submission.package import package
from tests.exported import Fp32

CONSTANT = """
import numpy as np
class Model:
    def predict(self, X):
        return np.zeros(len(X), int)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = synthetic_set(5, size=96, seed=9, contamination=False)
    path = tmp_path_factory.mktemp("source") / "cells.npz"
    np.savez(path, images=made.images, labels=made.labels)
    return path


def packed(folder: Path, code: str, **members: str) -> Path:
    path = folder / "submission.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.py", code)
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_the_score_is_exactly_that_of_evaluate_clean_and_distorted(fp32: Fp32, source, tmp_path, undrawn) -> None:
    wanted = evaluate(fp32.run, source, tmp_path / "evaluation").to_json()
    package([fp32.run], tmp_path / "submission.zip")
    found = check(tmp_path / "submission.zip", source, distorted=True)
    keys = ("value", "low", "high")
    for score in ("accuracy", "macro_f1", "distorted"):
        assert [found[score][key] for key in keys] == [wanted[score][key] for key in keys]
    assert found["confusion_matrix"] == wanted["confusion_matrix"]
    assert (found["n"], found["runtime"], found["notes"]) == (wanted["n"], "numpy", [])
    assert found["images_per_second"] > 0
    assert 10 < found["peak_memory_mb"] < 2000


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_other_runtimes_are_let_in_where_the_zip_names_them(runtime, fp32: Fp32, source, tmp_path) -> None:
    package([fp32.run], tmp_path / "submission.zip", runtime=runtime)
    found = check(tmp_path / "submission.zip", source)
    assert (found["runtime"], found["notes"]) == (runtime, [])
    with pytest.raises(ArtifactError, match=r"needs the package '(onnxruntime|torch)' .* runtime numpy does not have"):
        check(tmp_path / "submission.zip", source, runtime="numpy")


def test_a_zip_of_other_make_is_scored_in_the_challenges_order(source, tmp_path) -> None:
    found = check(packed(tmp_path, CONSTANT), source)
    assert found["accuracy"]["value"] == 1 / 8
    assert found["classes"][0] == "basophil"


PREDICT = "import numpy as np\nclass Model:\n    def predict(self, X):\n        "
WRONG = {
    "missing class": ("x = 1", "no class Model"),
    "no class but a function": ("def Model(): ...", "no class Model"),
    "missing method": ("class Model: ...", "no method predict"),
    "constructor with arguments": ("class Model:\n def __init__(self, path): ...", r"needs arguments \(path\)"),
    "import error": ("import nowhere_to_be_found", "needs the package 'nowhere_to_be_found' while importing"),
    "a package that is not there": ("import scipy", "needs the package 'scipy' .* the runtime numpy does not have"),
    "syntax error": ("class Model", r"fails while importing model\.py \(SyntaxError"),
    "error": (PREDICT + "raise KeyError(3)", r"fails while predicting 16 images \(KeyError: 3\)"),
    "wrong shape": (PREDICT + "return np.zeros((len(X), 1), int)", r"returns an array of shape \(16, 1\)"),
    "one-hot": (PREDICT + "return np.eye(8)[[0] * len(X)]", r"returns \(16, 8\), as of one-hot .*argmax"),
    "floats": (PREDICT + "return np.zeros(len(X))", "returns float64 labels"),
    "strings": (PREDICT + "return ['basophil'] * len(X)", "returns text or objects"),
    "nothing": (PREDICT + "return None", "returns text or objects"),
    "out of range": (PREDICT + "return np.full(len(X), 8)", "returns the label 8; return integers .* from 0 to 7"),
    "negative": (PREDICT + "return np.full(len(X), -1)", "returns the label -1"),
    "NaN": (PREDICT + "return np.full(len(X), np.nan)", "returns NaN"),
    "wrong length": (PREDICT + "return np.zeros(len(X) - 1, int)", "returns 15 labels for 16 images"),
    "mutates": (PREDICT + "X //= 2; return np.zeros(len(X), int)", "changes the images"),
    "writes outside": (PREDICT + "open('/log.txt', 'w')", r"may not use '/log\.txt' while predicting"),
    "writes beside itself": (
        PREDICT + "open(__file__ + '.log', 'w')",
        r"may not use '.*model\.py\.log' while predicting",
    ),
    "needs network": (
        "import urllib.request\nclass Model:\n def __init__(self): urllib.request.urlopen('http://localhost/w')",
        r"needs the network while constructing Model\(\)",
    ),
    "starts programs": (PREDICT + "import subprocess; subprocess.run(['ls'])", "does not find 'ls' while"),
    "working directory": (PREDICT + "open('weights.npz')", r"does not find 'weights\.npz' .*; look beside model\.py"),
    "exits": (PREDICT + "import sys; sys.exit(0)", r"ends the process \(sys\.exit\)"),
    "crashes": (PREDICT + "import os; os.abort()", "ends the process by signal SIGABRT while predicting 16"),
    "ends": (PREDICT + "import os; os._exit(3)", "ends the process with exit code 3 while predicting"),
    "draws": (PREDICT + "return np.random.randint(0, 8, len(X))", "other labels for the same images"),
    "floats differ": (PREDICT + "return np.full(len(X), int(X.dtype == np.uint8))", "other labels for float than for"),
    "batches": (PREDICT + "return np.arange(len(X)) % 8", "when the images come alone or in another order"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_submission_is_refused_with_the_reason(kind, source, tmp_path) -> None:
    code, words = WRONG[kind]
    with pytest.raises(ArtifactError, match=f"submission .*: .*{words}"):
        check(packed(tmp_path, code), source)


def test_a_file_elsewhere_on_this_machine_may_not_be_read(source, tmp_path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"mine")
    code = f"import numpy as np\nclass Model:\n def __init__(self): np.load({str(tmp_path / 'weights.npz')!r})"
    with pytest.raises(ArtifactError, match=r"does not find '.*weights\.npz' while constructing"):
        check(packed(tmp_path, code), source)


def test_what_is_too_slow_is_stopped(source, tmp_path) -> None:
    code = PREDICT + "\n        while True: pass"
    with pytest.raises(ArtifactError, match=r"is too slow: stopped after 3 s while predicting 16 images; .*--seconds"):
        check(packed(tmp_path, code), source, seconds=3)


def test_what_needs_too_much_memory_is_refused(source, tmp_path) -> None:
    code = PREDICT + "return np.ones((len(X), 1 << 30)).argmin(1)"
    with pytest.raises(ArtifactError, match=r"needs more than 4 GB of memory while predicting .*--memory-gb"):
        check(packed(tmp_path, code), source, memory_gb=4)


def test_prints_are_noted(source, tmp_path) -> None:
    notes = check(packed(tmp_path, PREDICT + "print('no log'); return np.zeros(len(X), int)"), source)["notes"]
    assert re.fullmatch(r"it prints \d+ bytes: who reads its output may stumble over them", notes[0])


def test_a_submission_finds_modules_and_files_beside_it(source, tmp_path) -> None:
    code = (
        "import numpy as np, pathlib, tempfile, mine.names\nHERE = pathlib.Path(__file__).parent\nclass Model:\n"
        " def __init__(self): self.label = int((HERE / 'label.txt').read_text()); tempfile.TemporaryFile().close()\n"
        " def predict(self, X): return [self.label] * len(X)\n"
    )
    path = packed(tmp_path, code, **{"label.txt": "3", "mine/names.py": "import json"})
    assert np.array(check(path, source)["confusion_matrix"])[:, 3].sum() == 40


def test_sources_and_runtimes_that_do_not_fit_are_refused(source, tmp_path) -> None:
    path = packed(tmp_path, CONSTANT)
    with pytest.raises(ConfigError, match="must be one of numpy, onnx, torch"):
        check(path, source, runtime="keras")
    np.save(tmp_path / "bare.npy", np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(SourceError, match="no sample labelled with a class of the submission"):
        check(path, tmp_path / "bare.npy")
