"""Write docs/reference from the code: commands, configuration, recipes, functions. --check compares only."""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

import hemalens
from hemalens.cli import app
from hemalens.core.config import TrainConfig
from hemalens.data.audit.issues import ISSUES
from hemalens.training.augment.augment import COLOUR, FIELD_LIKE, GEOMETRY
from hemalens.training.recipes import find_recipe, recipe_names

REFERENCE = Path(__file__).parent / "reference"
FILES = Path(__file__).parent / "files.md"
NOTE = "<!-- Written by docs/generate.py from the code: edit the code, then run `make docs`. -->\n"


def commands() -> str:
    """Return the page of commands."""
    lines = ["# Commands", "", NOTE, "Every command exits with 0 when done, 2 where input or options were wrong", ""]
    lines[-2] += " (one line on stderr says what, the rule, the next step), 1 for a defect."
    tree: Any = typer.main.get_command(app)
    lines += ["## hemalens", "", tree.help or "", "", *options(tree)]
    for name, command in tree.commands.items():
        lines += [f"## hemalens {name}", "", inspect.cleandoc(command.help or ""), "", *options(command)]
    return "\n".join(lines)


def options(command: Any) -> list[str]:
    """Return the table of a command's arguments and options."""
    rows = ["| argument or option | default | meaning |", "|---|---|---|"]
    for parameter in command.params:
        names = ", ".join(f"`{name}`" for name in parameter.opts)
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or (parameter.name or '').upper()}`"
        blank = (
            parameter.default is None or callable(parameter.default) or repr(parameter.default).startswith("Sentinel")
        )
        default = "required" if parameter.required else "" if blank else f"`{parameter.default}`"
        rows.append(f"| {names} | {default} | {getattr(parameter, 'help', '') or ''} |")
    return [*rows, ""]


def configuration() -> str:
    """Return the page of configuration keys, augmentations and recipes."""
    lines = ["# Configuration of a training run", "", NOTE]
    lines += ["A recipe is a TOML file of these keys; `--set key=value` goes over it; other keys are refused.", ""]
    lines += ["| key | values | default | meaning |", "|---|---|---|---|"]
    schema = TrainConfig.model_json_schema()["properties"]
    for name, field in TrainConfig.model_fields.items():
        facts = schema[name]
        values = ", ".join(f"`{value}`" for value in facts["enum"]) if "enum" in facts else facts.get("type", "")
        limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        values += "".join(f" {sign} {facts[key]:g}" for key, sign in limits.items() if key in facts)
        default = "none" if field.default == () else f"`{field.default}`"
        lines.append(f"| `{name}` | {values} | {default} | {field.description} |")
    lines += [
        "",
        "## Augmentations",
        "",
        "Steps of `augment`, each `{ name = ..., probability = 1.0, strength = 1.0 }`.",
        "",
    ]
    for table, function in ((GEOMETRY, "fill"), (COLOUR, "apply")):
        for name, step in table.items():
            lines.append(f"- `{name}`: {inspect.getdoc(getattr(step, function))}")
    lines += ["", "The field-like distortions of validation and evaluation are: "]
    lines[-1] += ", ".join(f"`{step.name}` x {step.strength:g} ({step.probability:.0%})" for step in FIELD_LIKE) + "."
    lines += ["", "## Recipes", ""]
    for name in recipe_names():
        keys = ", ".join(f"`{key} = {value}`" for key, value in find_recipe(name).items() if key != "augment")
        steps = ", ".join(step["name"] for step in find_recipe(name).get("augment", []))
        lines += [f"- **{name}**: {keys}; augmentations: {steps or 'none'}."]
    return "\n".join([*lines, ""])


def python() -> str:
    """Return the page of public functions and classes."""
    lines = ["# Python", "", NOTE]
    for module in modules():
        public = [name for name in getattr(module, "__all__", ()) if defined_in(module, name)]
        if not public:
            continue
        lines += [f"## {module.__name__}", "", (inspect.getdoc(module) or "").strip(), ""]
        for name in public:
            member = getattr(module, name)
            signature = str(inspect.signature(member)) if inspect.isfunction(member) else ""
            # A function as a default is written by its name: its address changes with every start.
            signature = re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", signature)
            signature = re.sub(r"\b(?:collections\.abc|pathlib|typing|hemalens(?:\.\w+)+)\.", "", signature)
            lines += [f"### {name}", ""]
            if signature:
                lines += ["```python", f"{name}{signature}", "```", ""]
            lines += ["```text", (inspect.getdoc(member) or "").strip(), "```", ""]
    return "\n".join(lines)


def files() -> str:
    """Return the page of files with the list of issues as the issue table has it."""
    marks = "<!-- issues: written by docs/generate.py from the issue table -->", "<!-- end of issues -->"
    before, _, rest = FILES.read_text(encoding="utf-8").partition(marks[0])
    rows = "\n".join(f"- `{issue.name}`: {issue.words}" for issue in ISSUES)
    return f"{before}{marks[0]}\n{rows}\n{marks[1]}{rest.partition(marks[1])[2]}"


def modules() -> Iterator[ModuleType]:
    """Yield the modules of hemalens in order of their names; commands have a page of their own."""
    for found in sorted(pkgutil.walk_packages(hemalens.__path__, "hemalens."), key=lambda found: found.name):
        if found.name.startswith("hemalens.commands"):
            continue
        yield importlib.import_module(found.name)


def defined_in(module: ModuleType, name: str) -> bool:
    """Tell whether a public name is a function or class of this very module."""
    member = getattr(module, name)
    is_code = inspect.isfunction(member) or (inspect.isclass(member) and hasattr(member, "__module__"))
    return is_code and member.__module__ == module.__name__


def main() -> None:
    """Write the pages, or with --check exit with 1 where one differs from the code."""
    pages = {"commands.md": commands(), "configuration.md": configuration(), "python.md": python()}
    stale = [
        name for name, text in pages.items() if not (REFERENCE / name).is_file() or read(name) != text.strip() + "\n"
    ]
    listed = files()
    stale += [] if listed == FILES.read_text(encoding="utf-8") else ["../files.md"]
    if "--check" in sys.argv:
        sys.exit(f"docs/reference/{stale[0]} is not what the code says; run: make docs" if stale else 0)
    REFERENCE.mkdir(exist_ok=True)
    FILES.write_text(listed, encoding="utf-8")
    for name, text in pages.items():
        (REFERENCE / name).write_text(text.strip() + "\n", encoding="utf-8")


def read(name: str) -> str:
    """Return a page as it stands."""
    return (REFERENCE / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
