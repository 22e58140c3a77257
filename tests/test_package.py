"""What a user meets first: the package's names, its version, ``python -m hemalens``, ``-h``, completion."""

import os
import subprocess
import sys

import pytest
import typer

import hemalens
from hemalens import cli
from hemalens.core.provenance import version

TREE = typer.main.get_command(cli.app)


def start(*words, **environment):
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout, done.stderr


def test_dir_names_all_that_is_public_and_each_name_is_there():
    assert set(hemalens.__all__) <= set(dir(hemalens))
    assert set(hemalens.__all__) == {"Classifier", "Model", "__version__", "load"}
    assert hemalens.Classifier.__module__ == "hemalens.training.estimator"
    assert isinstance(hemalens.load(), hemalens.Model)
    assert hemalens.__version__ == version()
    with pytest.raises(AttributeError, match="has no attribute 'clasifier'"):
        _ = hemalens.clasifier


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, hemalens; dir(hemalens); print(sorted({'numpy', 'sklearn', 'onnxruntime'} & set(sys.modules)))"
    assert start("-c", code) == (0, "[]\n", "")


def test_the_module_is_the_command_line():
    assert start("-m", "hemalens", "--version") == (0, f"{version()}\n", "")
    code, _, error = start("-m", "hemalens", "audit", "nowhere", "--out", "nowhere-else")
    assert code == 2
    assert error.startswith("error: source nowhere: does not exist")


@pytest.mark.parametrize("name", [None, *TREE.commands])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_explains_itself(monkeypatch, capsys, name, flag):
    monkeypatch.setattr(sys, "argv", ["hemalens", *([name] if name else []), flag])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    shown = capsys.readouterr()
    assert (caught.value.code, shown.err) == (0, "")
    assert f"Usage: hemalens {name or '[OPTIONS]'}" in shown.out


@pytest.mark.parametrize(("typed", "offered"), [("hemalens pred", "predict"), ("hemalens predict --mo", "--model")])
def test_the_shell_is_told_how_a_word_goes_on(typed, offered):
    words = {"_HEMALENS_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    code, out, _ = start("-m", "hemalens", **words)
    assert code == 0
    assert offered in out.split()


def test_the_script_for_the_shell_names_the_command():
    code, out, _ = start("-m", "hemalens", "--show-completion", "bash")
    assert code == 0
    assert "_HEMALENS_COMPLETE=complete_bash" in out
    assert "hemalens" in out.split()[-1]
