"""ODT into blocks: headings, paragraphs, lists and tables, in the order of the document.

Read from the XML: libraries for OpenDocument write out repeated rows and cells, of which a few bytes declare millions.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from ingest.formats.cleaning import clean
from ingest.formats.package import Package, open_package
from ingest.readers import Draft, FormatReader, too_long
from tandem.errors import DocumentError

_NAMESPACES = {
    name: f"urn:oasis:names:tc:opendocument:xmlns:{path}:1.0"
    for name, path in {
        "office": "office",
        "text": "text",
        "table": "table",
        "style": "style",
        "fo": "xsl-fo-compatible",
        "draw": "drawing",
        "manifest": "manifest",
    }.items()
}


def _q(name: str) -> str:
    prefix, local = name.split(":")
    return f"{{{_NAMESPACES[prefix]}}}{local}"


_H, _P, _LIST, _ITEM, _HEADER = (_q(f"text:{n}") for n in ("h", "p", "list", "list-item", "list-header"))
_TABLE, _ROW, _CELL, _COVERED = (_q(f"table:{n}") for n in ("table", "table-row", "table-cell", "covered-table-cell"))
_SPAN, _SPACE, _TAB, _BREAK = (_q(f"text:{n}") for n in ("span", "s", "tab", "line-break"))
# Deleted text, comments, conditions that hide, forms and what programs read.
_UNSEEN = frozenset(
    map(
        _q,
        (
            "text:tracked-changes",
            "text:hidden-text",
            "text:hidden-paragraph",
            "text:note-citation",
            "text:sequence-decls",
            "text:variable-decls",
            "text:user-field-decls",
            "office:annotation",
            "office:forms",
            "table:shapes",
        ),
    )
)
# Text of their own inside a paragraph: read after it, not in the middle of a sentence.
_APART = frozenset({_q("text:note"), _q("draw:frame"), _q("draw:custom-shape"), _q("draw:text-box")})
_MAX_REPEATED = 100


class OdtReader(FormatReader):
    """OpenDocument texts. Deleted and hidden text and comments are left out; notes follow their paragraph."""

    def fill(self, draft: Draft, data: bytes) -> None:
        package = open_package(data, "ODT", self._limits)
        _check_lock(package)
        body = package.xml("content.xml").find(f"{_q('office:body')}/{_q('office:text')}")
        if body is None:
            raise DocumentError("corrupt", "It holds no text document. Open it in a word processor and save it again.")
        if "meta.xml" in package:
            title = package.xml("meta.xml").findtext(".//{http://purl.org/dc/elements/1.1/}title")
            draft.title = clean(title or "").text.replace("\n", " ")
        _Walker(draft, _hidden_styles(package), self._limits.max_chars).walk(body)


def _check_lock(package: Package) -> None:
    if "META-INF/manifest.xml" in package:
        manifest = package.xml("META-INF/manifest.xml")
        if next(manifest.iter(_q("manifest:encryption-data")), None) is not None:
            raise DocumentError("encrypted", "It is encrypted. Save it without a password and ingest it again.")


def _hidden_styles(package: Package) -> frozenset[str]:
    """Names of styles whose text nobody sees: not displayed, of no size, or white on nothing."""
    found: set[str] = set()
    for part in ("styles.xml", "content.xml"):
        if part not in package:
            continue
        for style in package.xml(part).iter(_q("style:style")):
            for properties in style.iterchildren(_q("style:text-properties")):
                size = re.fullmatch(r"(\d+(?:\.\d+)?)pt", properties.get(_q("fo:font-size"), ""))
                white = properties.get(_q("fo:color"), "").lower() == "#ffffff"
                backed = properties.get(_q("fo:background-color"), "transparent") != "transparent"
                if (
                    properties.get(_q("text:display")) == "none"
                    or (size and float(size.group(1)) <= 1)
                    or (white and not backed and style.get(_q("style:family")) == "text")
                ):
                    found.add(style.get(_q("style:name"), ""))
    return frozenset(found)


class _Walker:
    """Goes through the body once."""

    def __init__(self, draft: Draft, hidden: frozenset[str], max_chars: int) -> None:
        self._draft = draft
        self._max_chars = max_chars
        self._hidden = hidden

    def walk(self, parent: Any) -> None:
        stack = list(reversed(list(parent)))
        while stack:
            element = stack.pop()
            if element.tag in (_H, _P):
                self._paragraph(element)
            elif element.tag == _LIST:
                self._list(element)
            elif element.tag == _TABLE:
                self._table(element)
            elif not self._unseen(element):
                stack.extend(reversed(list(element)))  # a section, an index, a frame

    def _paragraph(self, element: Any) -> None:
        apart: list[Any] = []
        text = self._text(element, apart.append)
        if element.tag == _H:
            level = element.get(_q("text:outline-level"), "1")
            self._draft.heading(int(level) if level.isdigit() else 1, text)
        else:
            self._draft.add(text)
        for other in apart:
            self.walk(other)

    def _list(self, element: Any) -> None:
        lines: list[str] = []
        apart: list[Any] = []
        stack = list(reversed(list(element)))
        fresh = True
        while stack:
            inner = stack.pop()
            if inner.tag in (_P, _H):
                text = clean(self._text(inner, apart.append)).text.replace("\n", " ")
                if text:
                    lines.append(f"- {text}" if fresh else text)
                    fresh = False
            elif inner.tag == _TABLE:
                apart.append(inner)
            elif not self._unseen(inner):
                fresh = fresh or inner.tag in (_ITEM, _HEADER)
                stack.extend(reversed(list(inner)))
        headings = list(element.iter(_H))
        if headings and len(headings) == len(lines):  # numbered headings are written as lists
            for heading in headings:
                self._paragraph(heading)
            return
        self._draft.add("\n".join(lines), "list")
        for other in apart:
            self.walk([other])

    def _table(self, element: Any) -> None:
        rows: list[list[str]] = []
        size = 0
        for row in _rows(element):
            cells: list[str] = []
            for cell in row.iterchildren(_CELL, _COVERED):
                # A cell of a table may hold paragraphs, lists and tables: their text in one line.
                texts = (self._text(inner, lambda _: None) for inner in cell.iter(_P, _H))
                text = " ".join(" ".join(texts).split())
                cells.extend([text] * _repeated(cell, "columns"))
            times = _repeated(row, "rows") if any(cells) else 1
            size += times * sum(map(len, cells))
            if size > self._max_chars:  # before each cell is gone through
                raise too_long(self._max_chars)
            rows.extend([cells] * times)
        self._draft.table(rows)

    def _text(self, paragraph: Any, set_apart: Callable[[Any], None]) -> str:
        if paragraph.get(_q("text:style-name")) in self._hidden:
            return ""
        parts: list[str] = [paragraph.text or ""]
        stack: list[Any] = list(reversed(list(paragraph)))
        while stack:
            element = stack.pop()
            if isinstance(element, str):
                parts.append(element)
                continue
            stack.append(element.tail or "")
            if element.tag in _APART:
                set_apart(element)
            elif element.tag in (_SPACE, _TAB):
                parts.append(" ")
            elif element.tag == _BREAK:
                parts.append("\n")
            elif not self._unseen(element):
                parts.append(element.text or "")
                stack.extend(reversed(list(element)))
        return "".join(parts)

    def _unseen(self, element: Any) -> bool:
        return (
            not isinstance(element.tag, str)
            or element.tag in _UNSEEN
            or (element.get(_q("text:style-name")) in self._hidden)
            or (element.get(_q("text:display")) == "none")
        )


def _rows(table: Any) -> Iterator[Any]:
    """The rows of a table, those in its header and in groups first to last, without those of tables inside."""
    stack = list(reversed(list(table)))
    while stack:
        element = stack.pop()
        if element.tag == _ROW:
            yield element
        elif element.tag not in (_TABLE, _CELL):
            stack.extend(reversed(list(element)))


def _repeated(element: Any, what: str) -> int:
    """How often a row or a cell stands here; what is repeated more often pads the table."""
    count = element.get(_q(f"table:number-{what}-repeated"), "1")
    return min(int(count), _MAX_REPEATED) if count.isdigit() else 1
