"""A document to Markdown: headings, lists, tables and code; drawings and images stay out.

Needs neither torch nor anything else but the words.
"""

import re
from collections.abc import Mapping

from hemalens.core.text import markdown
from hemalens.report.document.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Equation,
    Facts,
    Heading,
    Paragraph,
    Section,
    Table,
    Words,
    numbers,
)

__all__ = ["render_markdown"]

_MARKS = {"strong": "**", "emphasis": "*"}


def render_markdown(document: Document) -> str:
    r"""Return a document as Markdown with tables (GitHub's), every word of it escaped.

    >>> render_markdown(Document("A|b", (Paragraph(("x<y",)),), (), "end"))
    '# A\\|b\n\nx\\<y\n\nend\n'
    """
    names = numbers(document)
    parts = [f"# {markdown(document.title)}", *(_line(one, names) for one in document.lead)]
    for section in document.sections:
        parts += _section(section, names)
    parts.append(markdown(document.footer))
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section, names: Mapping[str, str]) -> list[str]:
    return [f"## {markdown(section.title)}", *(_block(block, names) for block in section.blocks)]


def _block(block: Block, names: Mapping[str, str]) -> str:
    match block:
        case Paragraph():
            return _line(block, names)
        case Heading(text, level):
            return f"{'#' * level} {markdown(text)}"
        case Bullets(items):
            return "\n".join(f"- {_line(item, names)}" for item in items)
        case Table():
            return f"{names[block.anchor]}. {markdown(block.caption)}\n\n{_table(block)}"
        case Facts(pairs, hashes):
            rows = [[_escaped(term), _tick(value) if hashes else _escaped(value)] for term, value in pairs]
            return "\n".join(["| fact | value |", "|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])
        case Code(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"
        case Equation(words=words):
            return markdown(words)
        case _:
            return ""


def _line(one: Paragraph, names: Mapping[str, str]) -> str:
    return "".join(_words(word, names) for word in one.words)


def _words(word: Words, names: Mapping[str, str]) -> str:
    if isinstance(word, str):
        return _escaped(word)
    if word.style == "code":
        return _tick(word.text)
    text = names.get(word.text, word.text) if word.style == "reference" else word.text
    mark = _MARKS.get(word.style, "")
    return f"{mark}{markdown(text)}{mark}"


def _escaped(text: str) -> str:
    """Escape text and keep the spaces at its ends, which part it from a span beside it."""
    inner = _plain(text)
    if not inner:
        return " " if text else ""
    return f"{' ' if text[0].isspace() else ''}{inner}{' ' if text[-1].isspace() else ''}"


def _plain(text: str) -> str:
    """Escape text, but for the brackets of an interval, which make no link where no address follows them."""
    return re.sub(r"\\\[([\d., ]+)\\\](?![(\[:])", r"[\1]", markdown(text))


def _tick(text: str) -> str:
    """Set text as code where that is safe; a backtick or a bar in it would end the code or the cell."""
    return markdown(text) if not text.strip() or set("`|\n\r") & set(text) else f"`{text}`"


def _table(table: Table) -> str:
    marks = ["---" if index == 0 or index in table.left else "---:" for index in range(len(table.headers))]
    lines = [f"| {' | '.join(map(markdown, table.headers))} |", f"|{'|'.join(marks)}|"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in table.rows]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _plain(cell)
    words = [_plain(line) for line in cell["lines"]]
    return " ".join([f"**{words[0]}**" if cell.get("best") else words[0], *words[1:]])
