"""A document to one self-contained page with a list of its sections beside it."""

from hemalens.core.page import render_page
from hemalens.report.document.blocks import Document, numbers

__all__ = ["render_document"]


def render_document(document: Document) -> str:
    """Return a document as one self-contained page with a list of its sections beside it."""
    sections = {section.anchor: section.title for section in document.sections}
    context = {"title": document.title, "document": document, "sections": sections, "names": numbers(document)}
    return render_page("document.html", "hemalens.report.document", context)
