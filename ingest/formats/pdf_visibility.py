"""Which text of a PDF page nobody sees. What rules cannot tell, the picture of the page does.

Text counts as hidden when the page looks the same without it: painted in no ink, in the colour of what lies beneath,
under something else, off the page, in a layer that is switched off. Most text is plainly visible (dark, on nothing)
and costs no rendering. Invisible ink over a scanned page is recognised text (OCR): the page's only text, and kept.
"""

import contextlib
import ctypes
import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pypdfium2.raw as pdfium
from numpy.typing import NDArray
from pypdf import PdfReader

from ingest.formats.pdf_page import Box, Drawn, drawn

MAX_RENDERED = 30  # pages of a document; beyond, what the rules suspect is judged without a picture
_TINY = 1.5  # points
_FAINT = 20  # of 255: less of a difference no eye finds
_MAX_SIDE = 3_000  # pixels
_SCALE = 2.0  # pixels for a point
_INVISIBLE_MODES = (3, 7)
_NO_INK = "invisible ink"
_OFF_PAGE = "text off the page"
_TYPE = "tiny type"
_SAME = "text in the colour of its background"
_COVERED = "covered text"
_LAYER = "switched-off layer"


@dataclass(frozen=True)
class _Doubt:
    """A text object that may be hidden, by which technique, and whether that is certain without a picture."""

    item: Drawn
    why: str
    certain: bool


class Renderings:
    """How many pages of a document may still be rendered: a count, so that equal files are read equally.

    Attributes:
        layers: Whether the document has layers that are switched off.
    """

    def __init__(self, *, layers: bool, left: int = MAX_RENDERED) -> None:
        self.layers = layers
        self._left = left

    def take(self) -> bool:
        """Whether one more page may be rendered."""
        self._left -= 1
        return self._left >= 0


def has_layers_off(data: bytes) -> bool:
    """Whether the document switches layers off; PDFium knows, but does not tell."""
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    with contextlib.suppress(Exception):  # a file too broken for this library is read without its layers
        layers = PdfReader(io.BytesIO(data), strict=False).root_object.get("/OCProperties")
        if layers is not None:
            states = layers.get_object()["/D"].get_object()
            return bool(states.get("/OFF")) or states.get("/BaseState") == "/OFF"
    return False


def hidden_objects(page: Any, sizes: dict[int, float], renderings: Renderings) -> dict[int, str]:
    """The text objects of a page that nobody sees.

    Args:
        page: PDFium's page.
        sizes: Size of type by address of the text object, in points.
        renderings: What may still be rendered.

    Returns:
        By address, by which technique the object is hidden.
    """
    objects = [item for item in drawn(page) if item.kind != pdfium.FPDF_PAGEOBJ_TEXT or item.address in sizes]
    texts = [item for item in objects if item.kind == pdfium.FPDF_PAGEOBJ_TEXT]
    paints = [item for item in objects if item.kind != pdfium.FPDF_PAGEOBJ_TEXT and _area(item.box) > 4]
    view = _view(page)
    found = {item.address: why for item in texts if (why := _plainly_hidden(item, sizes, view))}
    invisible = [item for item in texts if found.get(item.address) == _NO_INK]
    if invisible and _is_recognised(invisible, [t for t in texts if t.address not in found], paints):
        found = {address: why for address, why in found.items() if why != _NO_INK}
        texts = [item for item in texts if item.mode not in _INVISIBLE_MODES]
    boxes = np.array([item.box for item in paints], dtype=np.float64).reshape(-1, 4)
    doubts = [
        doubt for item in texts if item.address not in found and (doubt := _doubt(item, paints, boxes, renderings))
    ]
    if doubts:
        found.update(_unseen(page, doubts, renderings))
    return found


def _plainly_hidden(item: Drawn, sizes: dict[int, float], view: Box) -> str:
    if item.mode in _INVISIBLE_MODES or (item.colour is not None and item.colour[3] <= 12):
        return _NO_INK
    if not _overlap(item.box, view):
        return _OFF_PAGE
    return _TYPE if sizes[item.address] < _TINY else ""


def _is_recognised(invisible: Sequence[Drawn], visible: Sequence[Drawn], paints: Sequence[Drawn]) -> bool:
    """Whether invisible text is what recognition found in a scan: nearly all the text there is, over pictures."""
    pictures = [item.box for item in paints if item.kind == pdfium.FPDF_PAGEOBJ_IMAGE]
    over = [item for item in invisible if any(_inside(item.box, box) for box in pictures)]
    width = sum(item.box[2] - item.box[0] for item in invisible)
    seen = sum(item.box[2] - item.box[0] for item in visible)
    return len(over) >= 0.9 * len(invisible) and seen <= 0.1 * (width + seen)


def _doubt(item: Drawn, paints: Sequence[Drawn], boxes: NDArray[np.float64], renderings: Renderings) -> _Doubt | None:
    """Why an object might not be seen; None where nothing speaks for it."""
    left, bottom, right, top = item.box
    hits = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < top) & (boxes[:, 3] > bottom)
    around = [paints[n] for n in np.flatnonzero(hits)]
    above = [paint for paint in around if paint.order > item.order and _covers(paint, item.box)]
    if above:
        solid = [p for p in above if _inside(item.box, p.box) and not pdfium.FPDFPageObj_HasTransparency(p.handle)]
        return _Doubt(item, _COVERED, certain=bool(solid))
    if renderings.layers and (item.marked or item.nested):
        return _Doubt(item, _LAYER, certain=False)
    ground = max((paint for paint in around if paint.order < item.order), key=lambda paint: paint.order, default=None)
    if item.colour is None or (ground and (ground.colour is None or not _inside(item.box, ground.box))):
        return _Doubt(item, _SAME, certain=False)
    paper = ground.colour if ground and ground.colour else (255, 255, 255, 255)
    return _Doubt(item, _SAME, certain=True) if _alike(item.colour, paper) else None


def _unseen(page: Any, doubts: Sequence[_Doubt], renderings: Renderings) -> dict[int, str]:
    """Those of the doubtful objects without which the page looks the same."""
    if not renderings.take():
        return {doubt.item.address: doubt.why for doubt in doubts if doubt.certain}
    view = _view(page)
    whole = _picture(page, view)
    found: dict[int, str] = {}
    # One technique at a time: text on top of covered text must not vouch for it.
    for technique in (_COVERED, _LAYER, _SAME):
        items = [doubt.item for doubt in doubts if doubt.why == technique]
        if items:
            without = _picture_without(page, view, items)
            found.update({i.address: technique for i in items if _alike_within(whole, without, i.box, view)})
    return found


def _picture_without(page: Any, view: Box, items: Iterable[Drawn]) -> NDArray[np.uint8]:
    kept = list(items)
    for item in kept:
        pdfium.FPDFPageObj_SetIsActive(item.handle, 0)
    try:
        return _picture(page, view)
    finally:
        for item in kept:
            pdfium.FPDFPageObj_SetIsActive(item.handle, 1)


def _picture(page: Any, view: Box) -> NDArray[np.uint8]:
    """The page on white paper, unturned, as an array of rows, columns and colours."""
    scale = _scale(view)
    width, height = max(1, int((view[2] - view[0]) * scale)), max(1, int((view[3] - view[1]) * scale))
    pixels = np.full((height, width, 4), 255, dtype=np.uint8)
    bitmap = pdfium.FPDFBitmap_CreateEx(width, height, pdfium.FPDFBitmap_BGRx, pixels.ctypes.data, width * 4)
    try:
        turned = pdfium.FPDFPage_GetRotation(page)
        pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, 0, width, height, (4 - turned) % 4, 0)
    finally:
        pdfium.FPDFBitmap_Destroy(bitmap)
    return pixels[:, :, :3]


def _scale(view: Box) -> float:
    return min(_SCALE, _MAX_SIDE / max(view[2] - view[0], view[3] - view[1], 1.0))


def _alike_within(one: NDArray[np.uint8], other: NDArray[np.uint8], box: Box, view: Box) -> bool:
    """Whether no eye finds a difference between two pictures of a page within a box."""
    scale = _scale(view)
    left, right = (max(0, int((x - view[0]) * scale) + side) for x, side in ((box[0], -1), (box[2], 2)))
    top, bottom = (max(0, int((view[3] - y) * scale) + side) for y, side in ((box[3], -1), (box[1], 2)))
    a, b = (picture[top:bottom, left:right].astype(np.int16) for picture in (one, other))
    return int(np.abs(a - b).max(initial=0)) < _FAINT


def _view(page: Any) -> Box:
    """The part of the page that is shown."""
    rect = pdfium.FS_RECTF()
    if not pdfium.FPDF_GetPageBoundingBox(page, rect) or rect.left >= rect.right or rect.bottom >= rect.top:
        sides = [ctypes.c_float() for _ in range(4)]  # a view of nothing: viewers then show the whole sheet
        if not pdfium.FPDFPage_GetMediaBox(page, *sides):
            return (0.0, 0.0, 612.0, 792.0)
        left, bottom, right, top = (side.value for side in sides)
        return left, bottom, right, top
    return rect.left, rect.bottom, rect.right, rect.top


def _covers(paint: Drawn, box: Box) -> bool:
    if paint.colour is not None and paint.colour[3] < 200:
        return False
    # Rules and underlines, drawn after their text, cover none of it.
    return paint.box[3] - paint.box[1] > 0.4 * (box[3] - box[1]) and paint.box[2] - paint.box[0] > 1.0


def _alike(colour: Sequence[int], ground: Sequence[int]) -> bool:
    opacity = colour[3] / 255
    return max(abs(a - b) for a, b in zip(colour[:3], ground[:3], strict=True)) * opacity < 2 * _FAINT


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _inside(inner: Box, outer: Box) -> bool:
    """Whether the middle of one lies in the other, and most of it with it."""
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return (
        outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3] and inner[2] - inner[0] <= 1.1 * (outer[2] - outer[0])
    )
