"""What a document says, as data: sections of paragraphs, tables and figures, for every renderer alike.

Words are plain text and never markup: whatever a file or class is called, a renderer escapes it or passes it on as
data. ``core.page`` makes an HTML page of a document, ``core.document_pdf`` a typeset PDF, ``core.document_markdown`` a
text. Needs nothing but the standard library.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Block",
    "Bullets",
    "Cell",
    "Code",
    "Document",
    "Equation",
    "Facts",
    "Figure",
    "Gallery",
    "Heading",
    "Paragraph",
    "Section",
    "Sentence",
    "Span",
    "Table",
    "code",
    "emphasis",
    "numbers",
    "paragraph",
    "reference",
    "strong",
]

Style = Literal["strong", "emphasis", "code", "subscript", "link", "reference"]
Cell = str | Mapping[str, Any]
"""What stands in a table: a text, or ``lines`` (the later ones small) and whether it is the ``best`` of its column."""


@dataclass(frozen=True, slots=True)
class Span:
    """A few words that stand out.

    Attributes:
        text: the words; of a reference the anchor it speaks of.
        style: how they stand out.
        target: where a link leads, relative to the document.
    """

    text: str
    style: Style
    target: str = ""


Words = str | Span
Sentence = str | Sequence[Words] | None
"""One sentence: a text, or a row of texts and spans; None says nothing."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; a ``note`` is set apart because it says that something is missing."""

    words: tuple[Words, ...]
    note: bool = False
    kind: str = "paragraph"


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section: level 3 under the section's own, 4 under that."""

    text: str
    level: int = 3
    kind: str = "heading"


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of paragraphs."""

    items: tuple[Paragraph, ...]
    kind: str = "bullets"


@dataclass(frozen=True, slots=True)
class Table:
    """A numbered table.

    Attributes:
        anchor: its name in references.
        caption: what it shows.
        headers: of the columns; the first column names the rows.
        rows: cells, as many as headers.
        left: indices of the columns, beside the first, that hold words; all others are set as numbers.
        wide: needs the width of a page, not that of a column.
    """

    anchor: str
    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: tuple[int, ...] = ()
    wide: bool = False
    kind: str = "table"


@dataclass(frozen=True, slots=True)
class Figure:
    """A numbered drawing.

    Attributes:
        anchor: its name in references.
        caption: what it shows.
        svg: one ``<svg>`` element as ``core.charts.figure_svg`` makes it, for a screen.
        paper: the same drawn for the width it has on paper; empty where one drawing serves both.
        label: what is drawn, in words.
        wide: needs the width of a page, not that of a column.
    """

    anchor: str
    caption: str
    svg: str
    label: str
    paper: str = ""
    wide: bool = False
    kind: str = "figure"


@dataclass(frozen=True, slots=True)
class Gallery:
    """A numbered figure of small images.

    Attributes:
        items: mappings with ``uri`` (a ``data:`` address, None where the image is lost), ``alt`` and ``lines``;
            a second image goes ``beside`` the first, a mapping with ``uri`` and ``alt``, and takes a column more.
        columns: images in a row on paper.
    """

    anchor: str
    caption: str
    items: Sequence[Mapping[str, Any]]
    columns: int = 4
    wide: bool = False
    kind: str = "gallery"


@dataclass(frozen=True, slots=True)
class Equation:
    """A formula of our own, in each renderer's language: MathML, typst's math mode, and words for those who listen."""

    mathml: str
    typst: str
    words: str
    kind: str = "equation"


@dataclass(frozen=True, slots=True)
class Code:
    """A command or a piece of a file, as it is typed."""

    text: str
    kind: str = "code"


@dataclass(frozen=True, slots=True)
class Facts:
    """Terms and what is known of each; ``hashes`` sets the values as long code."""

    pairs: Sequence[tuple[str, str]]
    hashes: bool = False
    kind: str = "facts"


Block = Paragraph | Heading | Bullets | Table | Figure | Gallery | Equation | Code | Facts


@dataclass(frozen=True, slots=True)
class Section:
    """A numbered section."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A title, a summary before the first section, the sections, and a line at the foot."""

    title: str
    lead: tuple[Paragraph, ...]
    sections: tuple[Section, ...]
    footer: str

    def blocks(self) -> Iterator[Block]:
        """Walk through the blocks of all sections in order."""
        for section in self.sections:
            yield from section.blocks


def strong(text: str) -> Span:
    """Return words that carry weight."""
    return Span(text, "strong")


def emphasis(text: str) -> Span:
    """Return words or a symbol in italics."""
    return Span(text, "emphasis")


def code(text: str) -> Span:
    """Return what is typed or stands in a file."""
    return Span(text, "code")


def reference(anchor: str) -> Span:
    """Return the place of a table, figure or section, as its name and number."""
    return Span(anchor, "reference")


def paragraph(*sentences: Sentence, note: bool = False) -> Paragraph:
    """Return the sentences with a space between each two; those that are None or empty say nothing.

    >>> paragraph("One.", None, ("Run ", code("x"), ".")).words
    ('One.', ' ', 'Run ', Span(text='x', style='code', target=''), '.')
    """
    words: list[Words] = []
    for sentence in sentences:
        if sentence:
            words += [" "] if words else []
            words += [sentence] if isinstance(sentence, str) else sentence
    return Paragraph(tuple(words), note)


def numbers(document: Document) -> dict[str, str]:
    """Return what each anchor is called: ``Table 2``, ``Figure 1``, ``section 3``.

    >>> numbers(Document("t", (), (Section("s", "S", (Figure("f", "", "", ""), Table("t", "", (), ()))),), ""))
    {'s': 'section 1', 'f': 'Figure 1', 't': 'Table 1'}
    """
    found: dict[str, str] = {}
    tables = figures = 0
    for index, section in enumerate(document.sections, 1):
        found[section.anchor] = f"section {index}"
        for block in section.blocks:
            if isinstance(block, Table):
                tables += 1
                found[block.anchor] = f"Table {tables}"
            elif isinstance(block, (Figure, Gallery)):
                figures += 1
                found[block.anchor] = f"Figure {figures}"
    return found
