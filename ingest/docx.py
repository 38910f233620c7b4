"""DOCX into blocks: headings by style, lists, tables, in the order of the document."""

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import docx
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.exceptions import PackageNotFoundError
from docx.oxml.ns import qn
from lxml import etree  # type: ignore[import-untyped]

from ingest.cleaning import clean
from ingest.package import open_package
from ingest.readers import Draft, FormatReader
from tandem.errors import DocumentError

_HEADING = re.compile(r"heading\s*(\d)", re.IGNORECASE)

_P, _TBL, _TR, _TC, _R, _T = (qn(f"w:{name}") for name in ("p", "tbl", "tr", "tc", "r", "t"))
_TAB, _BR, _CR, _SDT, _SDT_CONTENT = (qn(f"w:{name}") for name in ("tab", "br", "cr", "sdt", "sdtContent"))
# Text that was deleted, moved away, or repeated for older readers is no part of what a person sees.
_UNSEEN = frozenset(
    {
        qn("w:del"),
        qn("w:moveFrom"),
        qn("w:instrText"),
        "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
    }
)


class DocxReader(FormatReader):
    """Word documents. Paragraphs in a heading style are headings; hidden and deleted text is left out."""

    def fill(self, draft: Draft, data: bytes) -> None:
        open_package(data, "DOCX", self._limits)
        try:
            document = docx.Document(io.BytesIO(data))
            body = document.element.body
            styles = _styles(document)
            draft.title = clean(document.core_properties.title or "").text.replace("\n", " ")
        except (
            PackageNotFoundError,
            KeyError,
            ValueError,
            AttributeError,
            etree.XMLSyntaxError,
            zipfile.BadZipFile,
        ) as exc:
            raise DocumentError(
                "corrupt",
                f"It cannot be read as DOCX ({type(exc).__name__}). Open it in a word processor and save it again.",
            ) from exc
        if body is None:
            raise DocumentError("corrupt", "Its document has no body. Open it in a word processor and save it again.")
        _fill_body(draft, body, styles)


def _styles(document: Any) -> dict[str, Any]:
    try:
        document.part.part_related_by(RELATIONSHIP_TYPE.STYLES)
    except KeyError:  # the library would open a file of its own for it, which a confined reader may not
        return {}
    return {style.style_id: style for style in document.styles}


def _fill_body(draft: Draft, body: Any, styles: dict[str, Any]) -> None:
    items: list[str] = []

    def close_list() -> None:
        draft.add("\n".join(items), "list")
        items.clear()

    for element in _content(body):
        if element.tag == _TBL:
            close_list()
            draft.table(_rows(element))
            continue
        text = _text(element)
        if not text.strip():
            continue
        level, is_item = _role(element, styles)
        if is_item:
            items.append("- " + " ".join(text.split()))
            continue
        close_list()
        if level is None:
            draft.add(text)
        elif level == 0:
            draft.title = draft.title or clean(text).text.replace("\n", " ")
            draft.heading(0, text)
        else:
            draft.heading(level, text)
    close_list()


def _content(parent: Any) -> Iterator[Any]:
    """Paragraphs and tables in order, those inside content controls included."""
    stack = list(reversed(list(parent)))
    while stack:
        element = stack.pop()
        if element.tag in (_P, _TBL):
            yield element
        elif element.tag == _SDT:
            content = element.find(_SDT_CONTENT)
            stack.extend(reversed(list(content)) if content is not None else [])


def _role(paragraph: Any, styles: dict[str, Any]) -> tuple[int | None, bool]:
    """The heading level (0 for the title, None for none) and whether the paragraph is a list item."""
    properties = paragraph.find(qn("w:pPr"))
    if properties is None:
        return None, False
    reference = properties.find(qn("w:pStyle"))
    style = styles.get(reference.get(qn("w:val"))) if reference is not None else None
    is_item = properties.find(qn("w:numPr")) is not None
    seen = 0
    while style is not None and seen < 10:  # a style is based on another
        name = style.name or ""
        match = _HEADING.search(name)
        if match:
            return int(match.group(1)) or 1, False
        if name.lower() == "title":
            return 0, False
        is_item = is_item or name.lower().startswith("list")
        style, seen = getattr(style, "base_style", None), seen + 1
    return None, is_item


def _rows(table: Any) -> Iterator[list[str]]:
    # Read from the XML: python-docx works out merged cells anew for each cell, which is quadratic.
    for row in table.iterchildren(_TR):
        yield [" ".join(_text(paragraph) for paragraph in cell.iter(_P)) for cell in row.iterchildren(_TC)]


def _text(paragraph: Any) -> str:
    parts: list[str] = []
    stack = list(reversed(list(paragraph)))
    while stack:
        element = stack.pop()
        tag = element.tag
        if tag in _UNSEEN or not isinstance(tag, str) or (tag == _R and _hidden(element)):
            continue
        if tag == _T:
            parts.append(element.text or "")
        elif tag == _TAB:
            parts.append(" ")
        elif tag in (_BR, _CR):
            parts.append("\n")
        else:
            stack.extend(reversed(list(element)))
    return "".join(parts)


def _hidden(run: Any) -> bool:
    properties = run.find(qn("w:rPr"))
    if properties is None:
        return False
    vanish = properties.find(qn("w:vanish"))
    if vanish is not None and vanish.get(qn("w:val"), "true") not in ("0", "false", "off"):
        return True
    size = properties.find(qn("w:sz"))
    if size is not None and size.get(qn("w:val"), "24").isdigit() and int(size.get(qn("w:val"), "24")) <= 2:
        return True
    colour = properties.find(qn("w:color"))
    white = colour is not None and colour.get(qn("w:val"), "").upper() == "FFFFFF"
    shaded = properties.find(qn("w:shd")) is not None or properties.find(qn("w:highlight")) is not None
    # In a table, white letters stand on a coloured header row more often than not.
    return bool(white and not shaded and next(run.iterancestors(_TC), None) is None)
