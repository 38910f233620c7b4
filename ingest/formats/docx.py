"""DOCX into blocks: headings by style, lists, tables, in the order of the document."""

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import docx
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.exceptions import PackageNotFoundError
from docx.oxml import parse_xml
from docx.oxml.ns import qn
from lxml import etree  # type: ignore[import-untyped]

from ingest.formats.cleaning import clean
from ingest.formats.docx_looks import Looks
from ingest.formats.package import open_package
from ingest.readers import Draft, FormatReader
from tandem.errors import DocumentError

_HEADING = re.compile(r"heading\s*(\d)", re.IGNORECASE)

_P, _TBL, _TR, _TC, _R, _T = (qn(f"w:{name}") for name in ("p", "tbl", "tr", "tc", "r", "t"))
_TAB, _BR, _CR, _SDT, _SDT_CONTENT = (qn(f"w:{name}") for name in ("tab", "br", "cr", "sdt", "sdtContent"))
_REFERENCES = (qn("w:footnoteReference"), qn("w:endnoteReference"))
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
            sheet = _style_sheet(document)
            styles = {style.style_id: style for style in document.styles} if sheet is not None else {}
            notes = _notes(document)
            looks = Looks(etree.Element(qn("w:styles")) if sheet is None else sheet, document.element)
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
        _fill_body(draft, body, styles, looks, notes)


def _style_sheet(document: Any) -> Any:
    try:
        document.part.part_related_by(RELATIONSHIP_TYPE.STYLES)
    except KeyError:  # the library would open a file of its own for it, which a confined reader may not
        return None
    return document.styles.element


def _fill_body(
    draft: Draft, body: Any, styles: dict[str, Any], looks: Looks, notes: dict[tuple[str, str], Any]
) -> None:
    items: list[str] = []

    def close_list() -> None:
        draft.add("\n".join(items), "list")
        items.clear()

    for element in _content(body):
        if element.tag == _TBL:
            close_list()
            draft.table(_rows(draft, element, looks))
            continue
        text = _text(draft, element, looks)
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
        for reference in element.iter(*_REFERENCES):  # a note is read where it is called
            note = notes.get((reference.tag, reference.get(qn("w:id"), "")))
            if note is not None:
                draft.add("\n".join(_text(draft, paragraph, looks) for paragraph in note.iter(_P)))
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


def _rows(draft: Draft, table: Any, looks: Looks) -> Iterator[list[str]]:
    # Read from the XML: python-docx works out merged cells anew for each cell, which is quadratic.
    for row in table.iterchildren(_TR):
        why = looks.unseen(row)
        if why:
            draft.leave_out(why, "".join(text.text or "" for text in row.iter(_T)))
        else:
            yield [
                " ".join(_text(draft, paragraph, looks) for paragraph in cell.iter(_P))
                for cell in row.iterchildren(_TC)
            ]


def _text(draft: Draft, paragraph: Any, looks: Looks) -> str:
    """What is seen of a paragraph; what is not is told to `draft`."""
    parts: list[str] = []
    stack = list(reversed(list(paragraph)))
    while stack:
        element = stack.pop()
        tag = element.tag
        if tag in _UNSEEN or not isinstance(tag, str):
            continue
        why = looks.unseen(element)
        if why:
            draft.leave_out(why, "".join(text.text or "" for text in element.iter(_T)))
        elif tag == _T:
            parts.append(element.text or "")
        elif tag == _TAB:
            parts.append(" ")
        elif tag in (_BR, _CR):
            parts.append("\n")
        else:
            stack.extend(reversed(list(element)))
    return "".join(parts)


def _notes(document: Any) -> dict[tuple[str, str], Any]:
    """Footnotes and endnotes by the tag of their reference and their number."""
    found: dict[tuple[str, str], Any] = {}
    for relation in document.part.rels.values():
        kind = relation.reltype.rsplit("/", 1)[-1]
        if kind in ("footnotes", "endnotes") and not relation.is_external:
            name = kind.removesuffix("s")
            root = parse_xml(relation.target_part.blob)
            for note in root.iterchildren(qn(f"w:{name}")):
                found[qn(f"w:{name}Reference"), note.get(qn("w:id"), "")] = note
    return found
