"""PDF into blocks: page by page, lines joined into paragraphs, headings guessed from the size of the type."""

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from ingest.formats.cleaning import clean
from ingest.formats.pdf_content import check_content
from ingest.formats.pdf_lines import MARKER, Line, lines_of
from ingest.formats.pdf_page import words
from ingest.formats.pdf_visibility import Renderings, has_layers_off, hidden_objects
from ingest.readers import ITEM, Draft, FormatReader, join_lines
from tandem.errors import DocumentError

_PAGE_NUMBER = re.compile(r"(?:page|seite|p\.)?\s*[-–]?\s*\d{1,4}\s*(?:(?:/|of|von)\s*\d{1,4})?\s*[-–]?", re.IGNORECASE)


class PdfReader(FormatReader):
    """PDF with a text layer. Scans without one are `no_text`."""

    def fill(self, draft: Draft, data: bytes) -> None:
        check_content(data, self._limits)
        with _open(data) as pdf:
            pages = _pages(pdf, draft, Renderings(layers=has_layers_off(data)))
            title = pdf.get_metadata_value("Title") or ""
        _check_text(pages)
        draft.title = clean(title).text.replace("\n", " ") if _is_title(title) else ""
        self._fill_pages(draft, pages)

    def _fill_pages(self, draft: Draft, pages: Sequence[Sequence[Line]]) -> None:
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
                        MARKER.sub("- ", line.text, count=1) if MARKER.match(line.text) else line.text for line in group
                    ]
                    draft.add(join_lines(texts), "list" if ITEM.match(texts[0]) else "text", number)


def _open(data: bytes) -> pdfium.PdfDocument:
    if b"%PDF" not in data[:1024]:
        raise DocumentError("corrupt", "It is not a PDF, whatever its name says. Save it again from its source.")
    try:
        # Many files are locked with an empty password, which every viewer opens without asking.
        return pdfium.PdfDocument(data)
    except pdfium.PdfiumError as exc:
        if exc.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
            raise DocumentError(
                "encrypted", "It is encrypted. Save it without a password and ingest it again."
            ) from exc
        raise DocumentError("corrupt", "It cannot be read as PDF. Save it again from its source.") from exc


def _pages(pdf: pdfium.PdfDocument, draft: Draft, renderings: Renderings) -> list[list[Line]]:
    """The lines of every page that someone who opens the document sees; the others are told to `draft`."""
    pages: list[list[Line]] = []
    for number in range(len(pdf)):
        try:
            page = pdf[number]
        except pdfium.PdfiumError:  # one page is broken; the others are not
            pages.append([])
            continue
        text_page = page.get_textpage()
        found = list(words(text_page))
        hidden = hidden_objects(page, {word.source: word.size for word in found}, renderings) if found else {}
        pages.append(lines_of([word for word in found if word.source not in hidden]))
        for source, group in groupby(found, key=lambda word: word.source):
            if source in hidden:
                draft.leave_out(hidden[source], " ".join(word.text for word in group))
        text_page.close()
        page.close()
    return pages


def _groups(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Groups lines into paragraphs, lists and tables: by size of type, by columns, by lines that end early."""
    width = sorted(len(line.text) for line in lines)[int(len(lines) * 0.9)] if lines else 0
    left = min((line.starts[0] for line in lines), default=0.0)
    gaps = sorted(above.y - below.y for above, below in pairwise(lines) if above.y > below.y)
    # A quarter of the lines lie no farther apart than this: the distance of lines within a paragraph.
    spacing = gaps[len(gaps) // 4] if gaps else 0.0
    group: list[Line] = []
    for line in lines:
        if group and _starts_anew(group, line, width, left, spacing):
            yield group
            group = []
        group.append(line)
    if group:
        yield group


def _starts_anew(group: Sequence[Line], line: Line, width: int, left: float, spacing: float) -> bool:
    first, last = group[0], group[-1]
    if len(first.cells) > 1:  # a table goes on with rows, and with lines that fill a column further
        return len(line.cells) == 1 and line.starts[0] < first.starts[1] - 3
    if len(line.cells) > 1 or abs(line.size - last.size) > 0.6:
        return True
    if MARKER.match(first.text):
        return not MARKER.match(line.text) and line.starts[0] < first.starts[0] + 3
    if MARKER.match(line.text) or last.y - line.y > max(1.45 * line.size, 1.3 * spacing):
        return True
    # Indented lines that end early are the items of a list whose signs have no letter.
    ends = ".:!?,;" if last.starts[0] > left + 8 else ".:!?"
    return len(last.text) < 0.8 * width and last.text[-1] in ends


def _table(group: Sequence[Line]) -> list[list[str]] | None:
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


def _repeated(pages: Sequence[Sequence[Line]]) -> frozenset[str]:
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


def _check_text(pages: Sequence[Sequence[Line]]) -> None:
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
