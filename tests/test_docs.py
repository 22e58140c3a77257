"""The documents speak of commands, options, keys and files that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from hemalens.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "how-to").glob("*.md"))
COMMAND = re.compile(r"^ {4}(?:\.venv/bin/)?hemalens (.+)$|`(?:\.venv/bin/)?hemalens (\w+ [^`]+)`", re.MULTILINE)
TREE = typer.main.get_command(app)


def commands():
    for page in PAGES:
        for match in COMMAND.finditer(page.read_text(encoding="utf-8")):
            yield pytest.param(match[1] or match[2], id=f"{page.name}: {match[1] or match[2]}")


@pytest.mark.parametrize("line", list(commands()))
def test_documented_command_parses(line):
    name, *words = shlex.split(line)
    command = TREE.commands[name]
    if "--help" in words or "..." in line:
        return
    command.make_context(name, words, resilient_parsing=False)


@pytest.mark.parametrize("name", list(TREE.commands))
def test_every_command_is_in_the_reference_with_an_example(name):
    text = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    section = text.split(f"## hemalens {name}\n")[1].split("\n## ")[0]
    assert f"Example: `hemalens {name} " in section


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_is_listed_and_there_are_ten_at_most():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split())
    described = set(re.findall(r"^([a-z]+):.*##", text, re.MULTILINE))
    assert phony == described
    assert len(phony) <= 10
