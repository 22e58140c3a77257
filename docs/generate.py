"""Write the pages that follow from code and records: commands, configuration, decisions, benchmarks (or --check)."""

import inspect
import sys
from pathlib import Path
from typing import Any

import typer
from figures import benchmarks

from hemalens.cli import app
from hemalens.core.config import TrainConfig
from hemalens.data.audit.issues import ISSUES
from hemalens.training.augment.augment import COLOUR, FIELD_LIKE, GEOMETRY
from hemalens.training.recipes import find_recipe, recipe_names

DOCS = Path(__file__).parent
NOT_WRITTEN = {"0006": "never written: numbers were given out to work done side by side, and this part decided nothing"}
NOTE = "<!-- Written by docs/generate.py: edit what it reads, then run `make docs`. -->\n"


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


def files() -> str:
    """Return the page of files with the list of issues as the issue table has it."""
    marks = "<!-- issues: written by docs/generate.py from the issue table -->", "<!-- end of issues -->"
    before, _, rest = read("files.md").partition(marks[0])
    rows = "\n".join(f"- `{issue.name}`: {issue.words}" for issue in ISSUES)
    return f"{before}{marks[0]}\n{rows}\n{marks[1]}{rest.partition(marks[1])[2]}"


def decisions() -> str:
    """Return the page that lists the decisions."""
    lines = ["# Decisions", "", NOTE, "What was decided, why, what it costs and what was rejected; newest last.", ""]
    lines += ["| number | decision |", "|---|---|"]
    titles = {page.name[:4]: (page.name, page.read_text("utf-8")) for page in (DOCS / "decisions").glob("0*.md")}
    for number in sorted({*titles, *NOT_WRITTEN}):
        if number in titles:
            name, text = titles[number]
            title = text.splitlines()[0].removeprefix(f"# {number} ").strip()
            lines.append(f"| [{number}]({name}) | {title} |")
        else:
            lines.append(f"| {number} | {NOT_WRITTEN[number]} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Write the pages, or with --check exit with 1 where one differs from what it is made of."""
    pages = {
        "reference/commands.md": commands(),
        "reference/configuration.md": configuration(),
        "decisions/index.md": decisions(),
        "benchmarks.md": benchmarks(),
        "files.md": files(),
    }
    stale = [name for name, text in pages.items() if read(name) != text.strip() + "\n"]
    if "--check" in sys.argv:
        sys.exit(f"docs/{stale[0]} is not what code and records say; run: make docs" if stale else 0)
    for name in stale:
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(pages[name].strip() + "\n", encoding="utf-8")


def read(name: str) -> str | None:
    """Return a page as it stands, None where there is none."""
    page = DOCS / name
    return page.read_text(encoding="utf-8") if page.is_file() else None


if __name__ == "__main__":
    main()
