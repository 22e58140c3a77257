"""What is installed: pinned with hashes, under licences that are allowed."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SUPPLY = runpy.run_path(str(ROOT / "docs" / "supply.py"))
allowed, faults, page, sets = (SUPPLY[name] for name in ("allowed", "faults", "page", "sets"))
PINNED = ROOT / "requirements.txt"
PIN = re.compile(
    r"^([a-z0-9.-]+)==(\S+)(?: ; ([^\\]+))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def pins() -> dict[str, str]:
    return {name: version for name, version, _, _ in PIN.findall(PINNED.read_text())}


def test_requirements_hold_pins_with_hashes_and_nothing_else() -> None:
    rest = PIN.sub("", PINNED.read_text())
    assert [line for line in rest.splitlines() if not line.startswith("#")] == [], (
        "an option, an address or a bare name"
    )
    assert len(pins()) > 100


def test_every_requirement_is_pinned_at_a_version_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [Requirement(line) for line in project["project"]["dependencies"] + project["build-system"]["requires"]]
    wanted += [Requirement(line) for extra in ("train", "serve", "dev") for line in extras[extra]]
    versions = pins()
    wrong = [str(one) for one in wanted if versions.get(canonicalize_name(one.name), "0") not in one.specifier]
    assert wrong == [], "write requirements.txt anew (CONTRIBUTING.md, Pinned versions)"


def test_whatever_users_install_is_pinned_and_its_licence_is_listed() -> None:
    found = sets()
    assert {name for packages in found.values() for name in packages} - pins().keys() == set()
    assert faults(found, page(found)) == []
    assert len(faults(found, "")) == sum(map(len, found.values()))


@pytest.mark.parametrize(
    ("words", "extra", "verdict"),
    [
        ("MIT", "", True),
        ("MIT AND Zlib", "", True),
        ("GPL-3.0-only OR MIT", "", True),
        ("MIT, Apache-2.0", "", True),
        ("MIT AND GPL-3.0-only", "", False),
        ("MIT, GPL-3.0-only", "", False),
        ("(MIT OR GPL-3.0-only) AND GPL-3.0-only", "", False),
        ("NVIDIA's own licence", "train", True),
        ("NVIDIA's own licence", "", False),
        ("", "", False),
    ],
)
def test_a_licence_is_allowed_only_where_each_part_is(words: str, extra: str, verdict: bool) -> None:
    assert allowed(words, extra) is verdict
