"""The command line: thin, parseable by machines, one line for every error, options as in the functions behind it."""

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from hemalens import cli
from hemalens.commands import options
from hemalens.core.errors import UserError
from hemalens.core.provenance import version
from hemalens.data.synthetic import synthetic_set
from hemalens.export.submission import check as submission_check
from hemalens.export.submission import package as submission
from hemalens.inference.serve.access import Access

STAGES = {
    "audit": "hemalens.data.audit.audit",
    "clean": "hemalens.data.clean",
    "split": "hemalens.data.split",
    "find-lr": "hemalens.training.finder",
    "overfit-check": "hemalens.training.overfit",
    "train": "hemalens.training.train",
    "evaluate": "hemalens.evaluation.evaluate",
    "explain": "hemalens.evaluation.explain",
    "report": "hemalens.report.report",
    "export": "hemalens.export.export",
    "predict": "hemalens.inference.predict",
    "serve": "hemalens.inference.serve.serve",
    "package": "hemalens.export.submission.package",
    "verify": "hemalens.export.verify",
    "run": "hemalens.pipeline",
    "demo": "hemalens.pipeline",
}
COMMANDS = {one.callback.__name__: one.callback for one in cli.app.registered_commands if one.callback}
QUICK = ("image_size=16", "epochs=1", "batch_size=16", "per_class=16", "threads=1", "device=cpu", "precision=fp32")
SETTINGS = [word for setting in QUICK for word in ("--set", setting)]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process; return exit code, stdout and stderr."""

    def perform(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hemalens", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return perform


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = synthetic_set({"basophil": 14, "lymphocyte": 14, "platelet": 14}, size=24)
    np.savez(tmp_path / "cells.npz", images=made.images, labels=made.labels)
    return tmp_path / "cells.npz"


def is_one_line(text: str) -> bool:
    return text.startswith("error: ") and text.endswith("\n") and text.count("\n") == 1 and "Traceback" not in text


def fail_with(error: BaseException) -> Callable[..., None]:
    def stage(*_: object, **__: object) -> None:
        raise error

    return stage


@pytest.mark.parametrize("command", STAGES)
def test_every_command_has_help_with_an_example_of_itself(command: str, call: Call) -> None:
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert re.search(rf"Example:\s+hemalens {command} ", out)


def test_the_help_lists_every_command_and_nothing_else(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    assert set(re.findall(r"^│ ([a-z][a-z-]*) ", out, re.MULTILINE)) == set(STAGES)


def test_the_version_is_printed_alone(call: Call) -> None:
    assert call("--version") == (0, f"{version()}\n", "")


@pytest.mark.parametrize("command", STAGES.keys() - {"package"})
def test_options_and_defaults_are_those_of_the_function(command: str) -> None:
    name = command.replace("-", "_")
    stage = getattr(importlib.import_module(STAGES[command]), name)
    behind = {name: one.default for name, one in inspect.signature(stage).parameters.items() if name != "progress"}
    offered = {name: one.default for name, one in inspect.signature(COMMANDS[name]).parameters.items()}
    assert offered.pop("as_json") is False
    if command == "audit":  # training for probabilities and the review are functions of their own, before and after it
        assert offered.pop("label_issues") is False
        review = inspect.signature(importlib.import_module("hemalens.data.review.review").review).parameters
        assert (offered.pop("review"), offered.pop("port")) == (False, review["port"].default)
    if command == "serve":  # announced on stderr; the limits are for tests and programs
        assert (behind.pop("announce"), behind.pop("limits")) == (inspect.Parameter.empty, None)
        assert behind.pop("access") is None  # a record, whose fields are options
        behind |= {name: one.default for name, one in inspect.signature(Access).parameters.items()}
    assert offered.keys() == behind.keys()
    for option, default in behind.items():
        assert offered[option] == (None if default == () else default), option


def test_packages_options_are_those_of_its_two_functions() -> None:
    behind = inspect.signature(submission.package).parameters | inspect.signature(submission_check.check).parameters
    offered = inspect.signature(COMMANDS["package"]).parameters
    assert offered.keys() - {"given", "check", "as_json"} == behind.keys() - {
        *("models", "submission", "source", "progress")
    }
    for name in ("tta", "distorted", "seconds", "memory_gb", "overwrite"):
        assert offered[name].default == behind[name].default


def test_a_zip_is_packed_and_checked_from_the_command_line(
    source: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    found = {"accuracy": interval, "macro_f1": interval, "n": 42, "images_per_second": 9.0, "peak_memory_mb": 80.0}
    given: dict[str, Any] = {}

    def check(*words: object, **options: object) -> dict[str, Any]:
        given.update(options, words=words)
        return found | {"isolation": "bubblewrap", "notes": ["it prints"]}

    monkeypatch.setattr(submission_check, "check", check)
    code, out, err = call("package", "--check", "s.zip", source, "--distorted", "--seconds", 5, "--trust")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "accuracy: 50.00 % [25.00, 75.00]"
    assert out.splitlines()[2:] == ["42 images, 9 a second, 80 MB at most; sandbox: bubblewrap", "it prints"]
    assert given["words"] == (Path("s.zip"), str(source))
    assert (given["distorted"], given["seconds"], given["memory_gb"], given["trust"]) == (True, 5.0, 8.0, True)


def test_every_stage_has_a_command_and_a_function_of_its_name(
    source: Path, tmp_path: Path, call: Call, undrawn: None
) -> None:
    audit, cleaned, splits = tmp_path / "audit", tmp_path / "clean.npz", tmp_path / "splits.csv"
    trained, evaluated = tmp_path / "train", tmp_path / "evaluate"
    found, memory = tmp_path / "lr", tmp_path / "overfit"
    exported, table = tmp_path / "model.onnx", tmp_path / "predictions.csv"
    steps: list[tuple[list[object], list[str]]] = [
        (["audit", source, "--out", audit, "--workers", 0], ["n_samples", "n_unreadable", "issues", "suggested_drops"]),
        (["clean", source, "--audit", audit, "--out", cleaned], ["n_samples", "kept", "dropped"]),
        (["split", cleaned, "--out", splits, "--ratios", "6:2:2"], ["n_samples", "splits"]),
        (["find-lr", cleaned, "--out", found, "--splits", splits, *SETTINGS], ["suggestion", "curve"]),
        (["overfit-check", cleaned, "--out", memory, "--splits", splits, *SETTINGS], ["reached", "never_learned"]),
        (["train", cleaned, "--out", trained, "--splits", splits, *SETTINGS], ["best_epoch", "val_accuracy"]),
        (["evaluate", trained, cleaned, "--out", evaluated, "--splits", splits], ["n", "accuracy", "confusion_matrix"]),
        (["explain", trained, cleaned, "--out", tmp_path / "explained", "--limit", 3], ["n_explained", "check"]),
        (["report", trained, "--out", tmp_path / "report"], ["runs", "files"]),
        (["export", trained, "--out", exported, "--source", cleaned], ["n", "labels_equal", "logits_max_difference"]),
        (["package", trained, "--out", tmp_path / "s.zip"], ["runtime", "labels", "compared", "bytes"]),
        (["predict", cleaned, "--out", table, "--model", exported, "--workers", 0], ["n_samples", "predicted", "out"]),
        (["evaluate", exported, cleaned, "--out", tmp_path / "e", "--splits", splits], ["n", "accuracy", "distorted"]),
        (
            ["explain", exported, cleaned, "--out", tmp_path / "side", "--splits", splits, "--split", "val"],
            ["split", "n_explained"],
        ),
    ]
    for words, keys in steps:
        code, out, err = call(*words, "--json")
        assert (code, err) == (0, ""), words
        assert out.count("\n") == 1
        summary = json.loads(out)
        assert set(keys) <= summary.keys(), words
        code, _, err = call(*words)
        assert code == 2, words
        assert is_one_line(err), words
        assert "exists already" in err
        assert "--overwrite" in err
    dropped = pl.read_csv(tmp_path / "dropped.csv", infer_schema=False)["sample_id"][0]
    code, out, err = call("clean", source, "--audit", audit, "--out", cleaned, "--restore", dropped)
    assert (code, err) == (0, "")
    assert "kept" in out
    with np.load(cleaned) as arrays:
        assert dropped in arrays["ids"]


def test_label_issues_trains_beside_the_audit_once_it_is_sure_that_the_audit_may_be_written(
    source: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def stage(source: str, out: Path, **options: object) -> dict[str, Any]:
        asked.append(out)
        out.mkdir()
        chances = {f"p_{name}": [0.01] * 42 for name in ("basophil", "lymphocyte", "platelet")}
        chances["p_basophil"] = [0.98] * 42
        pl.DataFrame({"sample_id": [f"row-{row:06d}" for row in range(42)], **chances}).write_csv(
            out / "out_of_fold.csv"
        )
        return {}

    monkeypatch.setattr("hemalens.training.out_of_fold.out_of_fold", stage)
    words = ["audit", source, "--out", tmp_path / "audit", "--workers", 0, "--label-issues"]
    code, out, err = call(*words, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["labels"]["agreement"] == pytest.approx(1 / 3, abs=0.05)
    assert asked == [tmp_path / "audit-out-of-fold"]
    code, _, err = call(*words)
    assert code == 2
    assert "exists already" in err
    code, _, err = call(*words, "--overwrite", "--probabilities", "mine.csv")
    assert code == 2
    assert "--label-issues" in err
    assert len(asked) == 1


def test_a_review_follows_an_audit_and_does_not_repeat_one(
    source: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def review(*_: object, announce: Callable[[str], None], **options: Any) -> dict[str, Any]:
        announce("http://127.0.0.1:1/x/")
        asked.append(options)
        return {"kept": 3, "dropped": 2, "relabelled": 1, "command": "hemalens clean"}

    monkeypatch.setattr("hemalens.data.review.review.review", review)
    words = ["audit", source, "--out", tmp_path / "audit", "--workers", 0, "--review"]
    code, out, err = call(*words)
    assert (code, err.splitlines()[0]) == (0, "review at http://127.0.0.1:1/x/")
    assert "suggested to drop" in out
    assert out.endswith("3 samples kept, 1 of them under another label, 2 dropped; next: hemalens clean\n")
    written = (tmp_path / "audit" / "audit.json").read_bytes()
    code, out, _ = call(*words, "--port", 8700, "--json")
    assert code == 0
    assert json.loads(out)["review"]["relabelled"] == 1
    assert asked[-1]["port"] == 8700
    assert (tmp_path / "audit" / "audit.json").read_bytes() == written


def test_a_run_without_json_says_its_scores_and_where_to_look(
    source: Path, tmp_path: Path, call: Call, undrawn: None
) -> None:
    code, out, err = call("run", source, "--out", tmp_path / "out", "--ratios", "6:2:2", *SETTINGS)
    assert (code, err) == (0, "")
    assert re.search(r"^accuracy: [\d.]+ % \[[\d.]+, [\d.]+\]$", out, re.MULTILINE)
    assert str(tmp_path / "out" / "report.html") in out


def test_the_demo_works_with_small_settings(tmp_path: Path, call: Call, undrawn: None) -> None:
    code, out, err = call("demo", "--out", tmp_path, "--per-class", 20, *SETTINGS, "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary["n_samples"] > 160
    assert Path(summary["report"]).is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "nowhere", "--out", "a"],
        ["split", "{source}", "--out", "s.csv", "--ratios", "83:13"],
        ["split", "{source}", "--out", "s.csv", "--seed", "-1"],
        ["train", "{source}", "--out", "t", "--set", "learning_rate=1"],
        ["train", "{source}", "--out", "t", "--set", "augment=[{name='twirl'}]"],
        ["train", "{source}", "--out", "t", "--recipe", "nonesuch"],
        ["train", "{source}", "--out", "t", "--set", "lr=1e30", *SETTINGS, "--set", "model=baseline"],
        ["evaluate", "nowhere", "{source}", "--out", "e"],
        ["evaluate", "nowhere", "{source}", "--out", "e", "--split", "holdout"],
        ["evaluate", "nowhere.onnx", "{source}", "--out", "e"],
        ["explain", "embedded", "{source}", "--out", "e", "--split", "val"],
        ["explain", "embedded", "{source}", "--out", "e", "--splits", "nowhere.csv"],
        ["report", "nowhere", "--out", "r"],
        ["export", "nowhere", "--out", "m.onnx"],
        ["package", "nowhere", "--out", "s.zip"],
        ["package", "nowhere"],
        ["package", "nowhere", "--out", "s.zip", "--runtime", "jax"],
        ["package", "--check", "nowhere.zip", "{source}"],
        ["package", "--check", "nowhere.zip", "{source}", "--out", "s.zip"],
        ["predict", "{source}", "--out", "p.csv", "--model", "nowhere.onnx"],
        ["predict", "{source}", "--out", "p.txt"],
        ["clean", "{source}", "--audit", "nowhere", "--out", "c.npz"],
        ["demo", "--out", "d", "--per-class", "3"],
        ["audit", "--out", "a", "--colour"],
        ["audit", "{source}"],
        ["audit", "{source}", "--out"],
        ["diagnose", "{source}"],
        [],
    ],
)
def test_what_the_user_can_mend_is_one_line_on_stderr_and_exit_code_2(
    words: list[str], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*[word.format(source=source) if word == "{source}" else word for word in words])
    assert code == 2
    assert is_one_line(err), err
    assert err.count(";") >= 1  # what and rule, then the next step


def test_an_error_in_the_middle_of_the_work_is_one_line_too(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    def stage(*_: Any, progress: Callable[[str, int, int], None], **__: Any) -> None:
        progress("doing something", 1, 3)
        raise UserError("labels (3, 2)", "must be one number\na sample", "mend them")

    monkeypatch.setattr("hemalens.data.audit.audit.audit", stage)
    code, out, err = call("audit", source, "--out", tmp_path / "out", "--json")
    assert (code, out) == (2, "")
    assert is_one_line(err), err


def test_a_defect_is_one_line_with_exit_code_1(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("hemalens.data.audit.audit.audit", fail_with(ZeroDivisionError("by nothing")))
    code, out, err = call("audit", source, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert is_one_line(err), err
    assert "defect: ZeroDivisionError: by nothing" in err
    assert "--debug" in err


def test_a_defect_whose_message_has_several_lines_stays_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("hemalens.data.audit.audit.audit", fail_with(RuntimeError("first\nsecond\x1b[31m")))
    _, _, err = call("audit", source, "--out", tmp_path / "out")
    assert is_one_line(err), err
    assert "\x1b" not in err


def test_debug_shows_the_traceback(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.data.audit.audit.audit", fail_with(ZeroDivisionError("by nothing")))
    monkeypatch.setattr(sys, "argv", ["hemalens", "--debug", "audit", str(source), "--out", str(tmp_path / "out")])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_an_interrupt_says_how_to_go_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("hemalens.data.audit.audit.audit", fail_with(KeyboardInterrupt()))
    code, out, err = call("audit", source, "--out", tmp_path / "out")
    assert (code, out) == (130, "")
    assert is_one_line(err), err
    assert "repeat the command to continue" in err


def test_a_missing_library_names_the_extra_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    def lacks_torch(_: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

    monkeypatch.setattr(options.importlib, "import_module", lacks_torch)
    code, _, err = call("train", source, "--out", tmp_path / "out")
    assert code == 2
    assert is_one_line(err)
    assert "pip install 'hemalens[train]'" in err


def test_a_source_with_named_classes_takes_their_order_from_the_option(
    source: Path, tmp_path: Path, call: Call
) -> None:
    names = [f"kind{number}" for number in range(8)]
    code, out, _ = call("audit", source, "--out", tmp_path / "out", "--classes", ", ".join(names), "--json")
    assert code == 0
    assert next(iter(json.loads(out)["classes"])) == "kind0"


def spawn(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hemalens.cli", *words], capture_output=True, text=True, check=False)


def test_in_a_process_of_its_own_stdout_holds_the_json_and_nothing_else(source: Path, tmp_path: Path) -> None:
    done = spawn("split", str(source), "--out", str(tmp_path / "splits.csv"), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["n_samples"] > 40
    again = spawn("split", str(source), "--out", str(tmp_path / "splits.csv"), "--json")
    assert (again.returncode, again.stdout) == (2, "")
    assert is_one_line(again.stderr)


def test_help_and_the_audit_import_no_torch() -> None:
    code = (
        "import sys; import hemalens.cli, hemalens.data.audit.audit, hemalens.data.clean, hemalens.data.split; "
        "print(sorted({'torch', 'torchvision', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
