"""A document to a typeset PDF: two columns on A4, text that can be selected, drawings as vectors.

Typst sets it (a compiled wheel with its own fonts; nothing is fetched). The template never sees a word of the document
as markup: it reads them as JSON, so a class called ``#panic()`` is printed and not run. Needs no torch.
"""

import base64
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
import typst
from matplotlib.ft2font import FT2Font

from hemalens.core.charts import print_svg
from hemalens.report.document.blocks import Document, numbers

__all__ = ["render_images", "render_pdf"]

_TEMPLATE = "document.typ"
# Marks that turn the direction of all that follows: a name with one would turn the rest of its paragraph.
_TURNING = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}")


def render_pdf(document: Document, *, time: datetime | None = None) -> bytes:
    """Return a document as PDF bytes; the same document and time give the same bytes.

    Args:
        document: what to set.
        time: with its zone; printed under the title and written into the file. None leaves both out.
    """
    # Without a time typst writes none where the epoch is given, and the clock's where nothing is.
    pdf = _compile(document, time, {"format": "pdf", "timestamp": time or 0})
    assert isinstance(pdf, bytes)
    return pdf


def render_images(document: Document, *, time: datetime | None = None, ppi: float = 100) -> list[bytes]:
    """Return each page of the PDF as PNG bytes, ``ppi`` pixels an inch."""
    pages = _compile(document, time, {"format": "png", "ppi": ppi})
    return [pages] if isinstance(pages, bytes) else pages


def _compile(document: Document, time: datetime | None, options: Mapping[str, Any]) -> bytes | list[bytes]:
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    with tempfile.TemporaryDirectory(prefix="hemalens-") as name:
        folder = Path(name)
        template = resources.files("hemalens.report.document") / "templates" / _TEMPLATE
        (folder / _TEMPLATE).write_bytes(template.read_bytes())
        facts = _facts(document, folder) | {"time": time.strftime("%Y-%m-%d") if time else None}
        text = json.dumps(facts, ensure_ascii=False).translate(_TURNING)
        (folder / "document.json").write_bytes(text.encode("utf-8", "replace"))  # a lone surrogate is no JSON
        # Fonts of the machine only where ours lack a letter: without them every machine sets the same lines.
        foreign = set(text) - _letters(fonts / "DejaVuSans.ttf") - {"\n"}
        compiler = typst.Compiler(
            folder / _TEMPLATE, root=folder, font_paths=[fonts], ignore_system_fonts=not foreign, sys_inputs={}
        )
        pages = compiler.compile(**options)
        assert pages is not None  # only where a file is named
        return pages


def _letters(font: Path) -> set[str]:
    return {chr(code) for code in FT2Font(str(font)).get_charmap()}


def _facts(document: Document, folder: Path) -> dict[str, Any]:
    """Return the document as JSON holds it, with its drawings and images as files in the folder."""
    facts = asdict(document)
    count = 0
    for section in facts["sections"]:
        for block in section["blocks"]:
            if block["kind"] == "figure":
                count += 1
                block["file"] = f"{count}.svg"
                screen, paper = block.pop("svg"), block.pop("paper")
                (folder / block["file"]).write_text(print_svg(paper or screen), encoding="utf-8")
            for item in block["items"] if block["kind"] == "gallery" else ():
                for shown in (item, *([item["beside"]] if "beside" in item else [])):
                    shown["file"] = None
                    if uri := shown.pop("uri"):
                        count += 1
                        head, _, data = uri.partition(";base64,")
                        shown["file"] = f"{count}.{head.rpartition('/')[2].replace('jpeg', 'jpg')}"
                        (folder / shown["file"]).write_bytes(base64.b64decode(data))
    return facts | {"names": numbers(document)}
