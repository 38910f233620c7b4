"""One page of a PDF as PDFium sees it: its words with their places, and the objects that paint it.

The bindings are called as they are, a few calls a word: a handbook of 500 pages is read within the time of one file.
"""

import ctypes
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pypdfium2.raw as pdfium

_MAX_OBJECTS = 200_000
_MAX_FORMS = 12  # forms nested in forms
_SMALL = 3.0  # points
Box = tuple[float, float, float, float]  # left, bottom, right, top, in points


@dataclass(frozen=True)
class Word:
    """A word, or a part of one that another object paints.

    Attributes:
        left, right, y: Where it stands, in points, along and across the direction of writing; `y` is the base line.
        size: Of its type, in points.
        angle: Direction of writing in degrees, in steps of 90.
        source: The address of the text object that paints it.
    """

    text: str
    left: float
    right: float
    y: float
    size: float
    angle: int
    source: int


@dataclass(frozen=True)
class Drawn:
    """An object of a page: text, a filled path or a picture.

    Attributes:
        handle: PDFium's.
        order: Later objects are painted over earlier ones.
        colour: Red, green, blue and opacity, 0 to 255; None for pictures and shadings.
        box: In points, unturned.
        mode: The render mode of text, -1 for everything else.
        nested: Inside a form, which may be switched off as a whole.
        marked: Part of a layer, or of any other marked content.
    """

    handle: Any
    order: int
    kind: int
    colour: tuple[int, int, int, int] | None
    box: Box
    mode: int = -1
    nested: bool = False
    marked: bool = False

    @property
    def address(self) -> int:
        return address_of(self.handle)


def address_of(handle: Any) -> int:
    """The number that tells two objects of PDFium apart; 0 for none."""
    return ctypes.addressof(handle.contents) if handle else 0


def words(text_page: Any) -> Iterator[Word]:
    """The words of a page in the order of its content."""
    text = _text(text_page)
    types: dict[int, tuple[float, int]] = {}
    for match in re.finditer(r"\S+", text):
        for start, end, source in _parts(text_page, match.start(), match.end()):
            if source not in types:
                types[source] = _type(text_page, start)
            size, angle = types[source]
            (left, y), box = _origin(text_page, start), _loose_box(text_page, end - 1)
            right = box[2]
            if angle:
                left, y = _turn((left, y), angle)
                right = max(_turn((box[0], box[1]), angle)[0], _turn((box[2], box[3]), angle)[0])
            piece = unicodedata.normalize("NFKC", text[start:end]).strip()
            if piece:
                yield Word(piece, left, max(right, left), y, size, angle, source)


def drawn(page: Any) -> Iterator[Drawn]:
    """Text, filled paths, pictures and shadings of a page in the order in which they are painted."""
    count = pdfium.FPDFPage_CountObjects(page)
    identity: tuple[float, ...] = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    stack = [(pdfium.FPDFPage_GetObject(page, n), identity, 0) for n in reversed(range(max(count, 0)))]
    order = 0
    while stack and order < _MAX_OBJECTS:
        handle, matrix, depth = stack.pop()
        kind = pdfium.FPDFPageObj_GetType(handle)
        order += 1
        if kind == pdfium.FPDF_PAGEOBJ_FORM:
            if depth < _MAX_FORMS:
                inner = _times(_matrix(handle), matrix)
                number = pdfium.FPDFFormObj_CountObjects(handle)
                stack.extend(
                    (pdfium.FPDFFormObj_GetObject(handle, n), inner, depth + 1) for n in reversed(range(max(number, 0)))
                )
            continue
        if kind == pdfium.FPDF_PAGEOBJ_PATH and not _is_filled(handle):
            continue
        mode = pdfium.FPDFTextObj_GetTextRenderMode(handle) if kind == pdfium.FPDF_PAGEOBJ_TEXT else -1
        painted = kind in (pdfium.FPDF_PAGEOBJ_TEXT, pdfium.FPDF_PAGEOBJ_PATH)
        yield Drawn(
            handle=handle,
            order=order,
            kind=kind,
            colour=_colour(handle, stroke=mode in (1, 5)) if painted else None,
            box=_bounds(handle, matrix),
            mode=mode,
            nested=depth > 0,
            marked=mode >= 0 and _in_layer(handle),
        )


def _text(text_page: Any) -> str:
    count = pdfium.FPDFText_CountChars(text_page)
    if count <= 0:
        return ""
    buffer = (ctypes.c_ushort * (count + 1))()
    written = pdfium.FPDFText_GetText(text_page, 0, count, buffer)
    if written == count + 1 and not any(0xD800 <= unit < 0xE000 for unit in buffer):
        text = bytes(buffer)[: 2 * count].decode("utf-16-le", errors="replace")
    else:  # not one unit a character: asked for one by one
        codes = (pdfium.FPDFText_GetUnicode(text_page, n) for n in range(count))
        text = "".join(chr(code) if code < 0x110000 else "\ufffd" for code in codes)
    # The sign for a hyphen at the end of a line; others of its kind are no text.
    return re.sub(r"[\x00\x01\x03-\x08\x0e-\x1f\ufffe\uffff]", " ", text.replace("\x02", "-"))


def _parts(text_page: Any, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """A word cut where another object goes on painting it."""
    source = _source(text_page, start)
    if end - start == 1 or source == _source(text_page, end - 1):
        yield start, end, source
        return
    begun = start
    for n in range(start + 1, end):
        other = _source(text_page, n)
        if other != source:
            yield begun, n, source
            begun, source = n, other
    yield begun, end, source


def _source(text_page: Any, n: int) -> int:
    return address_of(pdfium.FPDFText_GetTextObject(text_page, n))


def _type(text_page: Any, n: int) -> tuple[float, int]:
    """Size of the type in points and the direction of writing."""
    matrix = pdfium.FS_MATRIX()
    size = pdfium.FPDFText_GetFontSize(text_page, n)
    if not pdfium.FPDFText_GetMatrix(text_page, n, matrix):
        return round(abs(size), 1), 0
    angle = math.degrees(math.atan2(matrix.b, matrix.a)) + (180 if size < 0 else 0)
    size = abs(size) * math.hypot(matrix.c, matrix.d)
    if size < _SMALL:  # a font may count in units of its own, so what it draws is measured
        left, bottom, right, top = _loose_box(text_page, n)
        size = max(size, min(top - bottom, 1.5 * (right - left)))
    return round(size, 1), round(angle / 90) * 90 % 360


def _origin(text_page: Any, n: int) -> tuple[float, float]:
    x, y = ctypes.c_double(), ctypes.c_double()
    pdfium.FPDFText_GetCharOrigin(text_page, n, x, y)
    return x.value, y.value


def _loose_box(text_page: Any, n: int) -> Box:
    rect = pdfium.FS_RECTF()
    pdfium.FPDFText_GetLooseCharBox(text_page, n, rect)
    return rect.left, rect.bottom, rect.right, rect.top


def _turn(point: tuple[float, float], angle: int) -> tuple[float, float]:
    """A place as someone sees it who turns the page so that the line runs from left to right."""
    x, y = point
    return {0: (x, y), 90: (y, -x), 180: (-x, -y), 270: (-y, x)}[angle]


def _is_filled(path: Any) -> bool:
    fill, stroke = ctypes.c_int(), ctypes.c_int()
    return bool(pdfium.FPDFPath_GetDrawMode(path, fill, stroke)) and fill.value != 0


def _colour(handle: Any, *, stroke: bool) -> tuple[int, int, int, int] | None:
    parts = [ctypes.c_uint() for _ in range(4)]
    ask = pdfium.FPDFPageObj_GetStrokeColor if stroke else pdfium.FPDFPageObj_GetFillColor
    if not ask(handle, *parts):
        return None
    red, green, blue, alpha = (part.value for part in parts)
    return red, green, blue, alpha


def _bounds(handle: Any, matrix: tuple[float, ...]) -> Box:
    sides = [ctypes.c_float() for _ in range(4)]
    if not pdfium.FPDFPageObj_GetBounds(handle, *sides):
        return (0.0, 0.0, 0.0, 0.0)
    left, bottom, right, top = (side.value for side in sides)
    a, b, c, d, e, f = matrix
    corners = [(a * x + c * y + e, b * x + d * y + f) for x in (left, right) for y in (bottom, top)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _matrix(form: Any) -> tuple[float, ...]:
    matrix = pdfium.FS_MATRIX()
    if not pdfium.FPDFPageObj_GetMatrix(form, matrix):
        return (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    return matrix.a, matrix.b, matrix.c, matrix.d, matrix.e, matrix.f


def _times(inner: tuple[float, ...], outer: tuple[float, ...]) -> tuple[float, ...]:
    a, b, c, d, e, f = inner
    p, q, r, s, t, u = outer
    return a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s, e * p + f * r + t, e * q + f * s + u


def _in_layer(handle: Any) -> bool:
    for n in range(min(max(pdfium.FPDFPageObj_CountMarks(handle), 0), 20)):
        buffer, length = (ctypes.c_ushort * 16)(), ctypes.c_ulong()
        mark = pdfium.FPDFPageObj_GetMark(handle, n)
        if pdfium.FPDFPageObjMark_GetName(mark, buffer, 32, length) and bytes(buffer)[:6] == "OC\0".encode("utf-16-le"):
            return True
    return False
