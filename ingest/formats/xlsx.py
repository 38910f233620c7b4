"""XLSX into blocks: a heading for each sheet, its cells as tables, with the figures as a person sees them."""

import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import openpyxl
from lxml import etree  # type: ignore[import-untyped]
from openpyxl.utils.cell import coordinate_to_tuple
from openpyxl.utils.exceptions import InvalidFileException

from ingest.formats.cleaning import clean
from ingest.formats.number_format import shown
from ingest.formats.package import Package, open_package
from ingest.readers import Draft, FormatReader
from tandem.errors import DocumentError

_MAX_COLUMNS = 1_000  # what is farther right is cut: each row takes memory for all columns of the sheet
_MAX_GRID = 5_000_000  # cells, empty ones included: each of them is gone through
_BROKEN = (
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    OSError,
    etree.LxmlError,
    SyntaxError,
    zipfile.BadZipFile,
    InvalidFileException,
)


@dataclass(frozen=True)
class _Layout:
    """What a sheet does not show, and how wide it is.

    Attributes:
        hidden_rows, hidden_columns: Their numbers, from 1.
        width, height: The numbers of the last column and of the last row in use.
        uncomputed: Formulas that were never computed, so that no value is stored for them.
    """

    hidden_rows: frozenset[int]
    hidden_columns: frozenset[int]
    width: int
    height: int
    uncomputed: int


@dataclass(frozen=True)
class _Row:
    """A row: its cells as text, and whether all of them are words, as in a header."""

    cells: tuple[str, ...]
    words: bool

    @property
    def filled(self) -> int:
        return sum(bool(cell) for cell in self.cells)


class XlsxReader(FormatReader):
    """Excel workbooks. Formulas give the value that was stored with them; what is hidden is left out and named."""

    def fill(self, draft: Draft, data: bytes) -> None:
        package = open_package(data, "XLSX", self._limits, weight=2)
        try:
            # Read-only: that reads cells and nothing else, so that merged ranges and pictures cannot be bombs.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
                draft.title = clean(book.properties.title or "").text.replace("\n", " ")
                self._fill_sheets(draft, book, package)
        except DocumentError:
            raise
        except _BROKEN as exc:
            raise DocumentError(
                "corrupt",
                f"It cannot be read as XLSX ({type(exc).__name__}). Open it in its program and save it again.",
            ) from exc

    def _fill_sheets(self, draft: Draft, book: Any, package: Package) -> None:
        hidden = [sheet.title for sheet in book.worksheets if sheet.sheet_state != "visible"]
        if hidden:
            draft.warn(f"{len(hidden)} hidden sheets were left out: {', '.join(hidden)[:200]}.")
        for sheet in book.worksheets:
            if sheet.sheet_state != "visible":
                continue
            layout = _layout(package.read(sheet._worksheet_path))
            _warn(draft, sheet.title, layout)
            draft.heading(1, sheet.title, is_name=False)
            _fill_tables(draft, _rows(sheet, layout))


def _layout(xml: bytes) -> _Layout:
    hidden_rows: set[int] = set()
    hidden_columns: set[int] = set()
    width = uncomputed = number = 0
    for _, element in etree.iterparse(
        io.BytesIO(xml),
        tag=("{*}row", "{*}col"),
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=True,  # the package's own limits hold
    ):
        invisible = element.get("hidden") in ("1", "true")
        if etree.QName(element).localname == "col":
            if invisible or element.get("width") == "0":
                first, last = int(element.get("min", 1)), int(element.get("max", 1))
                hidden_columns.update(range(first, min(last, _MAX_COLUMNS) + 1))
            continue
        number = int(float(element.get("r", number + 1)))
        if invisible or element.get("ht") == "0":
            hidden_rows.add(number)
        else:
            for column, cell in enumerate(element, start=1):
                reference = cell.get("r")
                width = max(width, coordinate_to_tuple(reference)[1] if reference else column)
                uncomputed += cell.find("{*}f") is not None and cell.get("t") != "str" and not cell.findtext("{*}v")
        element.clear()
    return _Layout(frozenset(hidden_rows), frozenset(hidden_columns), width, number, uncomputed)


def _warn(draft: Draft, title: str, layout: _Layout) -> None:
    if layout.hidden_rows or layout.hidden_columns:
        draft.warn(
            f"In the sheet {title!r}, {len(layout.hidden_rows)} hidden rows and {len(layout.hidden_columns)} hidden "
            "columns were left out."
        )
    if layout.width > _MAX_COLUMNS:
        draft.warn(f"The sheet {title!r} is read to column {_MAX_COLUMNS}; it has {layout.width}.")
    if layout.uncomputed:
        draft.warn(
            f"In the sheet {title!r}, {layout.uncomputed} formulas have no stored value. Open it in a spreadsheet "
            "program and save it again."
        )


def _rows(sheet: Any, layout: _Layout) -> Iterator[_Row]:
    """All rows, empty ones included: they part the tables of a sheet."""
    if not layout.width:
        return
    if layout.height * min(layout.width, _MAX_COLUMNS) > _MAX_GRID:
        raise DocumentError(
            "too_large",
            f"The sheet {sheet.title!r} has {layout.height} rows of {layout.width} columns, most of them empty. "
            "Delete what lies far off and save it again.",
        )
    sheet.reset_dimensions()  # the size that is declared may be wrong, and rows beyond it would be lost
    for number, cells in enumerate(sheet.iter_rows(max_col=min(layout.width, _MAX_COLUMNS)), start=1):
        if number in layout.hidden_rows:
            continue
        texts: list[str] = []
        words = True
        for column, cell in enumerate(cells, start=1):
            value = cell.value
            if value is None or column in layout.hidden_columns:
                texts.append("")
                continue
            words = words and isinstance(value, str)
            texts.append(value if isinstance(value, str) else shown(value, cell.number_format or "General"))
        yield _Row(tuple(texts), words)


def _fill_tables(draft: Draft, rows: Iterator[_Row]) -> None:
    """Adds the tables of a sheet. After an empty row, a row of words is the header of a new one."""
    table: list[_Row] = []
    gap = False
    for row in rows:
        if not row.filled:
            gap = True
            continue
        if gap and row.words:
            _add(draft, table)
            table = []
        table.append(row)
        gap = False
    _add(draft, table)


def _add(draft: Draft, table: Sequence[_Row]) -> None:
    start = 0
    while start < len(table) and table[start].filled == 1 and any(row.filled > 1 for row in table[start + 1 :][:1]):
        draft.add(" ".join(table[start].cells).strip())  # a line above a table is its caption
        start += 1
    rest = table[start:]
    if len(rest) == 1 and rest[0].filled == 1:
        draft.add(" ".join(rest[0].cells).strip())
        return
    used = [n for n in range(max((len(row.cells) for row in rest), default=0)) if any(row.cells[n] for row in rest)]
    draft.table([row.cells[n] for n in used] for row in rest)
