"""PPTX into blocks: a heading for each slide, its number as the page, the speaker's notes marked as such."""

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import pptx
from lxml import etree  # type: ignore[import-untyped]
from pptx.enum.shapes import PP_PLACEHOLDER
from pptx.exc import PythonPptxError
from pptx.oxml.ns import qn

from ingest.formats.cleaning import clean
from ingest.formats.package import open_package
from ingest.readers import Draft, FormatReader, Kind
from tandem.errors import DocumentError

_FURNITURE = frozenset({PP_PLACEHOLDER.FOOTER, PP_PLACEHOLDER.DATE, PP_PLACEHOLDER.SLIDE_NUMBER})
_TITLES = frozenset({PP_PLACEHOLDER.TITLE, PP_PLACEHOLDER.CENTER_TITLE, PP_PLACEHOLDER.VERTICAL_TITLE})
# What the programs write into the title of a presentation that nobody named.
_UNNAMED = re.compile(r"power ?point|^(?:slide|folie|presentation)\s*\d*$", re.IGNORECASE)
_TINY = 200  # hundredths of a point
_DIAGRAM = "http://schemas.openxmlformats.org/drawingml/2006/diagram"
_BROKEN = (
    PythonPptxError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    etree.LxmlError,
    zipfile.BadZipFile,
)


class PptxReader(FormatReader):
    """PowerPoint presentations. Hidden slides, and shapes that are hidden or off the slide, are left out."""

    def fill(self, draft: Draft, data: bytes) -> None:
        open_package(data, "PPTX", self._limits)
        try:
            deck = pptx.Presentation(io.BytesIO(data))
            title = clean(deck.core_properties.title or "").text.replace("\n", " ")
            draft.title = "" if _UNNAMED.search(title) else title
            self._fill_slides(draft, deck)
        except DocumentError:
            raise
        except _BROKEN as exc:
            raise DocumentError(
                "corrupt",
                f"It cannot be read as PPTX ({type(exc).__name__}). Open it in a presentation program and save it "
                "again.",
            ) from exc

    @staticmethod
    def _fill_slides(draft: Draft, deck: Any) -> None:
        size = (deck.slide_width or 0, deck.slide_height or 0)
        hidden: list[int] = []
        for number, slide in enumerate(deck.slides, start=1):
            if slide._element.get("show") in ("0", "false"):
                hidden.append(number)
            else:
                _fill_slide(draft, slide, number, size)
        if hidden:
            draft.warn(f"{len(hidden)} hidden slides were left out: {', '.join(map(str, hidden))[:200]}.")


def _fill_slide(draft: Draft, slide: Any, number: int, size: tuple[int, int]) -> None:
    shapes = [shape for shape in _shapes(slide.shapes) if not _unseen(shape, size)]
    title = next((shape for shape in shapes if _placeholder(shape) in _TITLES), None)
    name = _joined(title) if title is not None else ""
    # Without a heading of its own, a slide would seem to go on under that of the slide before.
    draft.heading(1, name or f"Slide {number}", number, is_name=bool(name))
    others = [shape for shape in shapes if shape is not title]
    if name and not any(shape.has_text_frame and shape.text_frame.text.strip() for shape in others):
        draft.add(name, page=number)  # what stands alone on a slide is its text
    for shape in others:
        if shape.has_text_frame:
            _fill_text(draft, shape, number)
        elif getattr(shape, "has_table", False):
            draft.table([[cell.text for cell in row.cells] for row in shape.table.rows], number)
        elif getattr(shape, "has_chart", False):
            draft.table(_chart_rows(shape.chart), number)
        else:
            draft.add("\n".join(f"- {text}" for text in _diagram(slide, shape)), "list", number)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = slide.notes_slide.notes_text_frame.text.replace("\v", "\n").strip()
        if notes:
            draft.add(f"Speaker notes: {notes}", page=number)


def _shapes(shapes: Any) -> Iterator[Any]:
    """All shapes in order, those inside groups included."""
    stack = [iter(shapes)]
    while stack:
        shape = next(stack[-1], None)
        if shape is None:
            stack.pop()
        elif shape.shape_type is not None and hasattr(shape, "shapes"):
            stack.append(iter(shape.shapes))
        else:
            yield shape


def _placeholder(shape: Any) -> Any:
    return shape.placeholder_format.type if shape.is_placeholder else None


def _unseen(shape: Any, size: tuple[int, int]) -> bool:
    properties = next(shape._element.iter(qn("p:cNvPr")), None)
    if properties is not None and properties.get("hidden") in ("1", "true"):
        return True
    if _placeholder(shape) in _FURNITURE:
        return True
    parent = shape._element.getparent()
    if parent is not None and parent.tag == qn("p:grpSp"):
        return False  # measured in its group's own scale
    left, top, width, height = shape.left, shape.top, shape.width, shape.height
    if None in (left, top, width, height) or not all(size):
        return False
    return bool(left >= size[0] or top >= size[1] or left + width < 0 or top + height < 0)


def _fill_text(draft: Draft, shape: Any, number: int) -> None:
    """Adds a text frame: as a list where it has the bullets of a body placeholder, else as paragraphs."""
    lines = [text for paragraph in shape.text_frame.paragraphs if (text := _paragraph(paragraph))]
    listed = _placeholder(shape) in (PP_PLACEHOLDER.BODY, PP_PLACEHOLDER.OBJECT) and len(lines) > 1
    kind: Kind = "list" if listed else "text"
    draft.add("\n".join(f"- {line}" if listed else line for line in lines), kind, number)


def _paragraph(paragraph: Any) -> str:
    """The text of a paragraph without runs that are too small to be seen."""
    parts: list[str] = []
    for element in paragraph._p.iter(qn("a:t"), qn("a:br")):
        if element.tag == qn("a:br"):
            parts.append(" ")
            continue
        properties = element.getparent().find(qn("a:rPr"))
        size = properties.get("sz", "1800") if properties is not None else "1800"
        if not size.isdigit() or int(size) > _TINY:
            parts.append(element.text or "")
    return " ".join("".join(parts).split())


def _joined(shape: Any) -> str:
    return " ".join(text for paragraph in shape.text_frame.paragraphs if (text := _paragraph(paragraph)))


def _chart_rows(chart: Any) -> Iterator[list[str]]:
    """A chart's figures as a table: a row for each category, a column for each series."""
    for plot in chart.plots:
        series = list(plot.series)
        yield ["", *(str(one.name) for one in series)]
        columns = [list(one.values) for one in series]
        for n, category in enumerate(plot.categories):
            values = [column[n] if n < len(column) else None for column in columns]
            yield [str(category), *("" if value is None else f"{value:g}" for value in values)]


def _diagram(slide: Any, shape: Any) -> Iterator[str]:
    """The texts of a SmartArt diagram, which lie in a part of their own."""
    reference = next(shape._element.iter(f"{{{_DIAGRAM}}}relIds"), None)
    if reference is None:
        return
    part = slide.part.related_part(reference.get(qn("r:dm")))
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    for paragraph in etree.fromstring(part.blob, parser).iter(qn("a:p")):
        text = "".join(piece.text or "" for piece in paragraph.iter(qn("a:t"))).strip()
        if text:
            yield text
