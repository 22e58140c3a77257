"""The documents speak of commands, options, keys and files that exist; their site builds strictly and stays at home."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from jinja2 import UndefinedError

import hemalens
from hemalens.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^ {4}(?:\.venv/bin/)?hemalens (.+)$|`(?:\.venv/bin/)?hemalens (\w+ [^`]+)`", re.MULTILINE)
TREE = typer.main.get_command(app)


def commands():
    for page in PAGES:
        for match in COMMAND.finditer(page.read_text(encoding="utf-8")):
            yield pytest.param(match[1] or match[2], id=f"{page.name}: {match[1] or match[2]}")


class Fetched(HTMLParser):
    """What a page makes a browser fetch, of pages elsewhere its links do not count."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(found.get("href"))
        elif tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object"):
            self.addresses += [found.get("src"), found.get("data")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does; it cannot be where a link, an anchor or a picture leads nowhere."""
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    # Other proxies lead nowhere: building must not ask another host for anything.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.parametrize("line", list(commands()))
def test_documented_command_parses(line):
    name, *words = shlex.split(line)
    if name.startswith("-"):
        assert name in [option for parameter in TREE.params for option in parameter.opts]
        return
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


def test_the_site_builds_strictly_and_fetches_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        parser = Fetched()
        parser.feed(page.read_text(encoding="utf-8"))
        away = [one for one in parser.addresses if one and re.match(r"(https?:)?//", one)]
        assert not away, f"{page.relative_to(site)} fetches {away}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_a_dead_link_fails_the_build(tmp_path):
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "src").symlink_to(ROOT / "src")
    with (tmp_path / "docs" / "tutorial.md").open("a", encoding="utf-8") as page:
        page.write("\n[dead](explanation.md#no-such-part)\n")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "no-such-part" in done.stdout + done.stderr


def test_the_site_asks_nobody_and_no_page_is_wider_than_a_phone(site, open_page):
    page = open_page()
    page.set_viewport_size({"width": 390, "height": 800})
    for path in (
        sorted(site.glob("*.html")) + sorted(site.glob("how-to/*.html")) + sorted(site.glob("reference/*.html"))
    ):
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path.name
    assert page.asked
    assert {address.split(":")[0] for address in page.asked} <= {"file", "data", "blob"}


def test_the_reference_names_what_is_public_and_the_function_of_every_command(site):
    text = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in hemalens.__all__:
        assert f"hemalens.{name}" in text
    functions = set(
        re.findall(r"^::: (\S+)$", (ROOT / "docs/reference/api.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {function.rpartition(".")[2].replace("_", "-") for function in functions} >= set(TREE.commands)
    for function in functions:
        module, _, name = function.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
        assert f'id="{function}"' in text


def test_pictures_are_small():
    for picture in (ROOT / "docs").rglob("*.jpg"):
        assert picture.stat().st_size < 200_000, picture.name


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("figures")


@pytest.fixture
def results(tmp_path):
    return Path(shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "results"))


def change(path, **facts):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | facts), encoding="utf-8")


def test_the_page_of_benchmarks_says_what_the_records_say(figures, results):
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").strip()
    assert figures.benchmarks(results).strip() == page
    change(results / "audit_speed.json", ratio_median=3.21)
    assert "a ratio of\n3.21" in figures.benchmarks(results)


def test_the_page_of_benchmarks_marks_records_of_a_tree_with_changes(figures, results):
    assert "`run.json`, 2026-11-25, commit 5e67dbee82, 2 cores." in figures.benchmarks(results)
    change(results / "run.json", dirty=True)
    assert "`run.json`, 2026-11-25, commit 5e67dbee82, 2 cores, **with uncommitted changes**." in figures.benchmarks(
        results
    )


def test_the_page_of_benchmarks_shows_commands_only_where_they_were_kept_as_typed(figures, results):
    assert "| `run` | not kept |" in figures.benchmarks(results)
    typed = "python benchmarks/bench_run.py --fast"
    change(results / "run.json", script="bench_run.py", command=typed, load_at_start=[1.5])
    row = next(line for line in figures.benchmarks(results).splitlines() if line.startswith("| `run` |"))
    assert row == f"| `run` | `{typed}` | 2026-11-25 | 5e67dbee82 | clean | 2 | 1.5 |"


def test_a_figure_that_a_record_lacks_and_a_run_of_another_name_end_the_page(figures, results):
    kept = (results / "run.json").read_text(encoding="utf-8")
    (results / "run.json").write_text(kept.replace("accuracy_median", "accuracy_mean"), encoding="utf-8")
    with pytest.raises(UndefinedError, match="accuracy_median"):
        figures.benchmarks(results)
    (results / "run.json").write_text(kept, encoding="utf-8")
    sizes = (results / "sizes.json").read_text(encoding="utf-8")
    (results / "sizes.json").write_text(sizes.replace("robust96-1", "other-1"), encoding="utf-8")
    with pytest.raises(LookupError, match="0 runs are named robust96-1"):
        figures.benchmarks(results)


def test_numbers_are_rounded_half_up_as_readers_do(figures):
    assert figures.percent([0.98845, 0.5], 2) == "98.85, 50.00 %"
    assert figures.fixed(93.85) == "93.9"
    assert figures.fixed(1234567, 0) == "1,234,567"
    assert figures.interval({"value": 0.5, "low": 0.4, "high": 0.625}) == "50.0 % [40.0, 62.5]"
    assert figures.spread([3.0, 2.0, 2.5], 1) == "2.0 to 3.0"


def test_every_make_target_is_listed_and_there_are_ten_at_most():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split())
    described = set(re.findall(r"^([a-z]+):.*##", text, re.MULTILINE))
    assert phony == described
    assert len(phony) <= 10
