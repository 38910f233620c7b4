"""Words of a PDF page into lines, and lines of several cells into rows of a table."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ingest.formats.pdf_page import Word

# The sign of a list item; fonts of signs often map it to no letter at all, so any lone sign will do.
MARKER = re.compile(r"(?:[^\w\s\"'“„(\[$€£]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+")
_MAX_CELL_LINES = 6


@dataclass(frozen=True)
class Line:
    """A line of a page: its cells from left to right (mostly one), where each starts, where the last ends, its height
    on the page, and the size of its type. All in points."""

    cells: tuple[str, ...]
    starts: tuple[float, ...]
    end: float
    y: float
    size: float
    angle: int = 0

    @property
    def text(self) -> str:
        return " ".join(self.cells)


def lines_of(words: Sequence[Word]) -> list[Line]:
    """The lines of a page in the order of its content; words far apart on one line become cells."""
    lines: list[Line] = []
    run: list[Word] = []
    for word in words:
        if run and not _same_line(run[-1], word):
            lines.append(_line(run))
            run = []
        run.append(word)
    if run:
        lines.append(_line(run))
    return list(_rows(lines))


def _same_line(last: Word, word: Word) -> bool:
    size = max(last.size, word.size, 1.0)
    # An exponent stands close to its word; what is far to the right and no longer level is another cell's.
    near = word.left - last.right < size
    if word.angle != last.angle or abs(word.y - last.y) > (0.4 if near else 0.15) * size:
        return False
    return word.left > last.left - 0.5 * size or word.left < last.left - 60  # a cell to the left may come later


def _line(words: list[Word]) -> Line:
    cells: list[str] = []
    starts: list[float] = []
    end = 0.0
    for word in sorted(words, key=lambda word: word.left):
        gap = word.left - end
        if cells and gap < 0.12 * word.size:
            cells[-1] += word.text
        elif cells and (gap < 1.1 * word.size or MARKER.fullmatch(cells[-1] + " ")):
            cells[-1] += f" {word.text}"
        else:
            cells.append(word.text)
            starts.append(word.left)
        end = max(end, word.right) if len(cells[-1]) > len(word.text) else word.right
    widest = max(words, key=lambda word: len(word.text))
    return Line(tuple(cells), tuple(starts), end, words[0].y, widest.size, widest.angle)


def _rows(lines: Sequence[Line]) -> Iterator[Line]:
    """Puts the cells of a table row on one line, where the lines of its cells stand at different heights.

    A row is drawn cell by cell. A line that stands right of the last cell, and higher than that cell's last line or
    level with it, begins the row's next cell; lines straight below it fill that cell.
    """
    cells: list[list[Line]] = []  # each of its lines, from the top
    for line in lines:
        if cells and _is_next_cell(cells, line):
            cells.append([line])
        elif cells and _fills(cells[-1], line):
            cells[-1].append(line)
        elif len(cells) > 1 and len(line.cells) > 1 and _fills(cells[-1], first := _head(line)):
            cells[-1].append(first)  # level with this line stands the next cell, which is one of the row
            cells.append([_tail(line)])
        else:
            yield from _closed(cells)
            cells = [[line]]
    yield from _closed(cells)


def _head(line: Line) -> Line:
    return replace(line, cells=line.cells[:1], starts=line.starts[:1], end=line.starts[1])


def _tail(line: Line) -> Line:
    return replace(line, cells=line.cells[1:], starts=line.starts[1:])


def _fills(cell: Sequence[Line], line: Line) -> bool:
    above = cell[-1]
    return (
        len(above.cells) == len(line.cells) == 1
        and above.angle == line.angle
        and abs(above.starts[0] - line.starts[0]) < 2.0
        and abs(above.size - line.size) < 0.6
        and 0 < above.y - line.y < 1.6 * line.size
    )


def _is_next_cell(cells: Sequence[Sequence[Line]], line: Line) -> bool:
    cell = cells[-1]
    if len(cell) > _MAX_CELL_LINES or cell[-1].angle != line.angle:
        return False
    height = line.y - cell[-1].y
    right = line.starts[0] > max(part.end for part in cell) + 0.3 * line.size
    # Higher than the last line, and no more so than cells of a row are.
    level = 0.4 * line.size if len(cell) > 1 or len(cells) == 1 else -0.4 * line.size
    return right and min(level, 0.0) <= height <= (len(cell) + 0.5 * _MAX_CELL_LINES) * line.size * 1.3


def _closed(cells: Sequence[Sequence[Line]]) -> Iterator[Line]:
    if len(cells) < 2:
        yield from (line for cell in cells for line in cell)
        return
    texts = [text for cell in cells for text in _cell_texts(cell)]
    starts = [start for cell in cells for start in cell[0].starts]
    first = cells[0][0]
    middle = [line.y for cell in cells for line in cell]
    yield Line(tuple(texts), tuple(starts), max(line.end for line in cells[-1]), min(middle), first.size, first.angle)


def _cell_texts(cell: Sequence[Line]) -> list[str]:
    first, *others = cell
    return [*first.cells[:-1], " ".join([first.cells[-1], *(line.text for line in others)])]
