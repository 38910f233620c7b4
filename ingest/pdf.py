"""PDF into blocks: page by page, lines joined into paragraphs, headings guessed from the size of the type."""

import io
import logging
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pypdf import PageObject
from pypdf import PdfReader as Pdf
from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError, PyPdfError

from ingest.cleaning import clean
from ingest.pdf_content import check_content
from ingest.readers import ITEM, Draft, FormatReader, join_lines
from tandem.errors import DocumentError

_ENCRYPTED = "It is encrypted. Save it without a password and ingest it again."
# The sign of a list item; fonts of signs often map it to no letter at all, so any lone sign will do.
_MARKER = re.compile(r"(?:[^\w\s\"'“„(\[$€£]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+")
_PAGE_NUMBER = re.compile(r"(?:page|seite|p\.)?\s*[-–]?\s*\d{1,4}\s*(?:(?:/|of|von)\s*\d{1,4})?\s*[-–]?", re.IGNORECASE)


@dataclass(frozen=True)
class _Line:
    """A line of a page: its cells from left to right (mostly one), where each starts, its height on the page, and the
    size of its type. All in points."""

    cells: tuple[str, ...]
    starts: tuple[float, ...]
    y: float
    size: float

    @property
    def text(self) -> str:
        return " ".join(self.cells)


class PdfReader(FormatReader):
    """PDF with a text layer. Scans without one are `no_text`."""

    def fill(self, draft: Draft, data: bytes) -> None:
        logging.getLogger("pypdf").setLevel(logging.CRITICAL)
        try:
            pdf = self._open(data)
            check_content(pdf, len(data), self._limits)
            pages = [list(_lines(page)) for page in pdf.pages]
            title = (pdf.metadata.title if pdf.metadata else None) or ""
        except DocumentError:
            raise
        except (FileNotDecryptedError, DependencyError) as exc:
            raise DocumentError("encrypted", _ENCRYPTED) from exc
        except LimitReachedError as exc:
            raise DocumentError(
                "hostile", f"It expands beyond all measure ({exc}). Save it again from its source."
            ) from exc
        except (
            PyPdfError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            IndexError,
            RecursionError,
            OSError,
        ) as exc:
            detail = str(exc).splitlines()[0][:120] if str(exc) else type(exc).__name__
            raise DocumentError(
                "corrupt", f"It cannot be read as PDF ({detail}). Save it again from its source."
            ) from exc
        _check_text(pages)
        draft.title = clean(title).text.replace("\n", " ") if _is_title(title) else ""
        self._fill_pages(draft, pages)

    def _open(self, data: bytes) -> Pdf:
        if b"%PDF" not in data[:1024]:
            raise DocumentError("corrupt", "It is not a PDF, whatever its name says. Save it again from its source.")
        pdf = Pdf(io.BytesIO(data), strict=False)
        # Many files are locked with an empty password, which every viewer opens without asking.
        if pdf.is_encrypted and not pdf.decrypt(""):
            raise DocumentError("encrypted", _ENCRYPTED)
        return pdf

    def _fill_pages(self, draft: Draft, pages: Sequence[Sequence[_Line]]) -> None:
        furniture = _repeated(pages)
        if all(_furniture_key(line.text) in furniture for lines in pages for line in lines):
            furniture = frozenset()  # every page says the same: then that is what the document says
        sizes: Counter[float] = Counter()
        for lines in pages:
            for line in lines:
                sizes[line.size] += len(line.text)
        body = sizes.most_common(1)[0][0]
        larger = sorted({size for size in sizes if size > body * 1.12}, reverse=True)
        levels = {size: min(rank, 4) for rank, size in enumerate(larger, start=1)}
        for number, lines in enumerate(pages, start=1):
            kept = [line for line in lines if _furniture_key(line.text) not in furniture]
            for n, group in enumerate(_groups(kept)):
                opening = number == 1 and n == 0
                rows = _table(group)
                level = levels.get(group[0].size)
                text = " ".join(line.text for line in group)
                if rows is not None:
                    draft.table(rows, number)
                elif level and _is_heading(text):
                    # What opens the document is its title, even where it is set no larger than the headings.
                    draft.heading(0 if opening else level, text)
                else:
                    texts = [
                        _MARKER.sub("- ", line.text, count=1) if _MARKER.match(line.text) else line.text
                        for line in group
                    ]
                    draft.add(join_lines(texts), "list" if ITEM.match(texts[0]) else "text", number)


def _lines(page: PageObject) -> Iterator[_Line]:
    """The lines of a page, in the order of its content; pieces side by side on one line become cells."""
    pieces: list[tuple[str, float, float, float]] = []

    def visit(text: str, outer: Any, inner: Any, _font: Any, size: float) -> None:
        if not text.strip():
            return
        x = inner[4] * outer[0] + inner[5] * outer[2] + outer[4]
        y = inner[4] * outer[1] + inner[5] * outer[3] + outer[5]
        scale = max(abs(inner[3]), abs(inner[1])) * max(abs(outer[3]), abs(outer[1])) or 1.0
        for part in text.splitlines():
            if part.strip():
                # The line break stays: the library saw the end of a line here.
                part = unicodedata.normalize("NFKC", part) + ("\n" if text.endswith("\n") else "")
                pieces.append((part, float(x), float(y), round(float(size or 0) * scale, 1)))
            y -= 1000.0  # lines of one piece have no position of their own, and are never side by side

    page.extract_text(visitor_text=visit)
    line: list[tuple[str, float, float, float]] = []
    for piece in pieces:
        if line and abs(piece[2] - line[-1][2]) > 0.4 * max(piece[3], line[-1][3], 1.0):
            yield _line(line)
            line = []
        line.append(piece)
    if line:
        yield _line(line)


def _line(pieces: list[tuple[str, float, float, float]]) -> _Line:
    cells: list[str] = []
    starts: list[float] = []
    end = 0.0
    for text, x, _, size in sorted(pieces, key=lambda piece: piece[1]):
        if cells and not cells[-1].endswith("\n"):
            cells[-1] += text
        elif cells and (x - end < 0.8 * size or _MARKER.fullmatch(cells[-1].strip() + " ")):
            cells[-1] = f"{cells[-1].rstrip()} {text}"
        else:
            cells.append(text)
            starts.append(x)
        # The width is not known; narrow letters on average are close enough to tell a gap from a space.
        end = x + 0.42 * size * len(text.strip())
    cells = [" ".join(cell.split()) for cell in cells]
    size = max(pieces, key=lambda piece: len(piece[0]))[3]
    return _Line(tuple(cells), tuple(starts), pieces[0][2], size)


def _groups(lines: Sequence[_Line]) -> Iterator[list[_Line]]:
    """Groups lines into paragraphs, lists and tables: by size of type, by columns, by lines that end early."""
    width = sorted(len(line.text) for line in lines)[int(len(lines) * 0.9)] if lines else 0
    left = min((line.starts[0] for line in lines), default=0.0)
    gaps = sorted(above.y - below.y for above, below in pairwise(lines) if above.y > below.y)
    # A quarter of the lines lie no farther apart than this: the distance of lines within a paragraph.
    spacing = gaps[len(gaps) // 4] if gaps else 0.0
    group: list[_Line] = []
    for line in lines:
        if group and _starts_anew(group, line, width, left, spacing):
            yield group
            group = []
        group.append(line)
    if group:
        yield group


def _starts_anew(group: Sequence[_Line], line: _Line, width: int, left: float, spacing: float) -> bool:
    first, last = group[0], group[-1]
    if len(first.cells) > 1:  # a table goes on with rows, and with lines that fill a column further
        return len(line.cells) == 1 and line.starts[0] < first.starts[1] - 3
    if len(line.cells) > 1 or abs(line.size - last.size) > 0.6:
        return True
    if _MARKER.match(first.text):
        return not _MARKER.match(line.text) and line.starts[0] < first.starts[0] + 3
    if _MARKER.match(line.text) or last.y - line.y > max(1.45 * line.size, 1.3 * spacing):
        return True
    # Indented lines that end early are the items of a list whose signs have no letter.
    ends = ".:!?,;" if last.starts[0] > left + 8 else ".:!?"
    return len(last.text) < 0.8 * width and last.text[-1] in ends


def _table(group: Sequence[_Line]) -> list[list[str]] | None:
    """The rows of a group that is a table; None for one that is not, such as a page set in two columns."""
    if len(group) < 2 or len(group[0].cells) < 2 or len(group[1].cells) < 2:
        return None
    starts = group[0].starts
    rows: list[list[str]] = []
    for line in group:
        if len(line.cells) > 1 or not rows:
            rows.append([""] * len(starts))
        for cell, x in zip(line.cells, line.starts, strict=True):
            column = max((n for n, start in enumerate(starts) if start <= x + 6), default=0)
            rows[-1][column] = f"{rows[-1][column]} {cell}".strip()
    mean = statistics.mean(len(cell) for row in rows for cell in row)
    return rows if mean < 60 else None


def _repeated(pages: Sequence[Sequence[_Line]]) -> frozenset[str]:
    """Running heads and feet: what stands at the edge of most pages, whatever its page number, and page numbers."""
    if len(pages) < 3:
        return frozenset({_furniture_key("1")})
    counts: Counter[str] = Counter()
    for lines in pages:
        texts = [line.text for line in lines if line.text]
        counts.update({_furniture_key(text) for text in [*texts[:2], *texts[-2:]]})
    often = {key for key, count in counts.items() if count > max(2, 0.5 * len(pages))}
    return frozenset(often | {_furniture_key("1")})


def _furniture_key(text: str) -> str:
    return "#" if _PAGE_NUMBER.fullmatch(text) else re.sub(r"\d+", "#", text)


def _check_text(pages: Sequence[Sequence[_Line]]) -> None:
    found = sum(sum(c.isalnum() for c in line.text) for lines in pages for line in lines)
    if found < 3 * len(pages) or not found:
        raise DocumentError(
            "no_text",
            f"Its {len(pages)} pages hold no text: it looks scanned. Run text recognition (OCR) over it and try again.",
        )


def _is_heading(text: str) -> bool:
    return len(text) <= 120 and any(c.isalpha() for c in text) and not text.endswith((".", ",", ";"))


def _is_title(title: str) -> bool:
    # Word processors leave file names and their own names in the title.
    return bool(title.strip()) and not re.search(
        r"\.\w{2,4}$|^\W*(?:untitled|anonymous|microsoft word)", title.strip(), re.IGNORECASE
    )
