"""List what hemalens installs for its users: a page of licences, checked against what is allowed, and a CycloneDX file.

python docs/supply.py [--check]
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"
SBOM = ROOT / "build" / "sbom.cdx.json"

ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
NVIDIA = "NVIDIA's own licence"
# Only PyTorch's builds for Linux bring these, by the extra `train`.
EXCEPTIONS = {"train": NVIDIA}
# Packages whose metadata name no licence: the first only brings others, the second has MIT's text in its LICENSE.
SILENT = {"cuda-toolkit": NVIDIA, "sigstore-models": "MIT"}
# What packages write that is no SPDX name, in lower case.
WORDS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD",
    "isc license (iscl)": "ISC",
    "licenseref-nvidia-proprietary": NVIDIA,
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "nvidia proprietary software": NVIDIA,
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
HEAD = """# Licences of what is installed

Written by `make docs` from the metadata of the installed packages; `make lint` fails where a package has no line here
or a licence that is not allowed. Versions and hashes are in `requirements.txt`; `make docs` also writes them with these
licences to `build/sbom.cdx.json` (CycloneDX), which each release carries.

"""


def installed(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Return the packages that requirements bring here, name -> its metadata, whatever brings them in turn."""
    found: dict[str, Distribution] = {}
    waiting, seen = [Requirement(text) for text in requirements], set()
    while waiting:
        wanted = waiting.pop()
        marker, name = wanted.marker, canonicalize_name(wanted.name)
        if str(wanted) in seen or (marker and not marker.evaluate()):
            continue
        seen.add(str(wanted))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"package {name}: is needed and not installed; run: make setup")
        for further in map(Requirement, found[name].requires or []):
            by = further.marker
            if not by or any(by.evaluate({"extra": extra}) for extra in {"", *wanted.extras}):
                further.marker = None
                waiting.append(further)
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """Return a package's licence as an SPDX expression where it says one, else in its own words ("" for none)."""
    said = package.metadata.get("License-Expression")
    if said:
        return WORDS.get(said.lower(), said)
    classifiers = package.metadata.get_all("Classifier", [])
    names = {line.rpartition(" :: ")[2].lower() for line in classifiers if line.startswith("License :: ")}
    named = sorted(WORDS.get(name, name) for name in names - {"osi approved"})
    text = (package.metadata.get("License") or "").strip().partition("\n")[0]
    return ", ".join(named) or WORDS.get(text.lower(), text) or SILENT.get(canonicalize_name(package.name), "")


def allowed(words: str, extra: str = "") -> bool:
    """Tell whether every licence of a list, every part of an AND and one side of an OR is allowed."""
    if words == EXCEPTIONS.get(extra):
        return True
    if ", " in words:
        return all(map(allowed, words.split(", ")))
    parts = [part.split(" AND ") for part in words.split(" OR ")]  # with brackets it is no name and so not allowed
    return any(all(name in ALLOWED for name in part) for part in parts)


def sets() -> dict[str, dict[str, Distribution]]:
    """Return what a plain install brings ("") and what each extra for users adds to it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plain = installed(project["dependencies"])
    found = {"": plain}
    for extra, requirements in project["optional-dependencies"].items():
        if extra != "dev":
            added = installed(requirements)
            found[extra] = {name: package for name, package in added.items() if name not in plain}
    return found


def page(found: dict[str, dict[str, Distribution]]) -> str:
    """Return the page of licences."""
    lines = [f"Allowed: {', '.join(sorted(ALLOWED))}.", f"For the extra `train` also: {NVIDIA} (CUDA, on Linux)."]
    for extra, packages in found.items():
        lines += ["", f"## The extra `{extra}` adds" if extra else "## `pip install hemalens`", ""]
        lines += ["| package | licence |", "|---|---|"]
        lines += [f"| {name} | {licence(package)} |" for name, package in packages.items()]
    return HEAD + "\n".join(lines) + "\n"


def faults(found: dict[str, dict[str, Distribution]], written: str) -> list[str]:
    """Return what is wrong with the licences of the packages that are installed here, one line each."""
    said = []
    for extra, packages in found.items():
        for name, package in packages.items():
            words = licence(package)
            if not allowed(words, extra):
                said.append(f"package {name}: has the licence {words!r}, which is not allowed; do without it")
            elif f"| {name} | {words} |" not in written:
                said.append(f"package {name}: has no line in docs/licences.md; run: make docs")
    return said


def sbom(found: dict[str, dict[str, Distribution]]) -> dict[str, Any]:
    """Return the CycloneDX record of the packages that users install; development's are left out."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--mc-type", "library", "--output-reproducible", "--no-validate", sys.executable]
    record: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    users = {name: package for packages in found.values() for name, package in packages.items()}
    record["components"] = [one for one in record["components"] if canonicalize_name(one["name"]) in users]
    for component in record["components"]:
        words = licence(users[canonicalize_name(component["name"])])
        component.setdefault("licenses", [{"license": {"name": words}}])
    kept = {component["bom-ref"] for component in record["components"]} | {"root-component"}
    for entry in record["dependencies"]:
        entry["dependsOn"] = [ref for ref in entry.get("dependsOn", []) if ref in kept]
    record["dependencies"] = [entry for entry in record["dependencies"] if entry["ref"] in kept]
    return record


def main() -> None:
    """Write the page and the record, or compare the page with what is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page or a licence is wrong")
    check = parser.parse_args().check
    found = sets()
    if not check:
        PAGE.write_text(page(found), encoding="utf-8")
        SBOM.parent.mkdir(exist_ok=True)
        SBOM.write_text(json.dumps(sbom(found), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    wrong = faults(found, PAGE.read_text(encoding="utf-8"))
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
