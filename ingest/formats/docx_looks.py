"""How the text of a Word document looks, styles and all, and whether anyone sees it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from docx.oxml.ns import qn

from ingest.formats.colours import WHITE, Colour, alike, colour_of, hex_colour

_VANISH = "hidden font"
_COLOUR = "text in the colour of its background"
_SIZE = "tiny type"
_PLACE = "text off the page"
_INK = "transparent text"
_OFF = ("0", "false", "off")
_TINY = 4  # half points
_FAR_TWIPS = 5_000  # 9 cm: beyond any margin
_FAR_EMU = (-4_000_000, 20_000_000)  # 11 cm before the page, 55 cm into it
_MAX_CHAIN = 20
_R, _P, _TC, _TBL, _TR = (qn(f"w:{name}") for name in ("r", "p", "tc", "tbl", "tr"))
_TEXT_BOX = qn("w:txbxContent")
_W14 = "{http://schemas.microsoft.com/office/word/2010/wordml}"
_WP = "{http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing}"
_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"


@dataclass(frozen=True)
class _Place:
    """What a paragraph gives to its runs: its styles, the background behind it (None: not known), why it is unseen."""

    chain: tuple[Any, ...]
    ground: Colour | None
    unseen: str


class Looks:
    """Tells of elements of a document why they are not seen.

    Args:
        styles: The document's `w:styles`.
        document: Its `w:document`.
    """

    def __init__(self, styles: Any, document: Any) -> None:
        self._styles = {style.get(qn("w:styleId")): style for style in styles.iterchildren(qn("w:style"))}
        self._defaults = styles.find(f"{qn('w:docDefaults')}/{qn('w:rPrDefault')}/{qn('w:rPr')}")
        standard = [s for s in self._styles.values() if s.get(qn("w:default")) and s.get(qn("w:type")) == "paragraph"]
        self._standard: str | None = standard[0].get(qn("w:styleId")) if standard else None
        background = document.find(qn("w:background"))
        paper = hex_colour(background.get(qn("w:color"), "")) if background is not None else None
        self._paper: Colour = paper or WHITE
        self._places: dict[Any, _Place] = {}

    def unseen(self, element: Any) -> str:
        """By which technique a run, a drawing or a table row is hidden; empty when it is seen."""
        if element.tag == _R:
            return self._run(element)
        if element.tag == qn("w:drawing"):
            return _drawing(element)
        if element.tag == _TR:
            return _row(element)
        return _shape(element) if element.tag == qn("w:pict") else ""

    def _run(self, run: Any) -> str:
        paragraph = next(run.iterancestors(_P), None)
        if paragraph is None:
            return ""
        place = self._places.get(paragraph)
        if place is None:
            place = self._places[paragraph] = self._place(paragraph)
        own = run.find(qn("w:rPr"))
        if place.unseen:
            return place.unseen
        styled = self._chain(_value(own, "w:rStyle"))
        layers = [
            layer
            for layer in (own, *_run_layers(styled), *_run_layers(place.chain), self._defaults)
            if layer is not None
        ]
        return _judge(layers, place.ground)

    def _place(self, paragraph: Any) -> _Place:
        properties = paragraph.find(qn("w:pPr"))
        chain = self._chain(_value(properties, "w:pStyle") or self._standard)
        own = [layer for layer in (properties, *(style.find(qn("w:pPr")) for style in chain)) if layer is not None]
        shades = [shade for layer in own if (shade := _shade(layer)) is not None]
        ground = shades[0] if shades else self._around(paragraph)
        return _Place(tuple(chain), ground, next(filter(None, map(_paragraph, own)), ""))

    def _around(self, paragraph: Any) -> Colour | None:
        """The background that the table cell, the text box or the page gives to a paragraph."""
        for element in paragraph.iterancestors(_TC, _TBL, _TEXT_BOX):
            if element.tag == _TEXT_BOX:
                shape = element.getparent().getparent() if element.getparent() is not None else None
                plain = shape is not None and shape.find(f".//{_A}noFill") is not None
                return self._paper if plain else None
            properties = element.find(qn("w:tcPr" if element.tag == _TC else "w:tblPr"))
            shade = _shade(properties)
            if shade is not None:
                return shade
            # A style may give the header row, or every other row, a colour of its own.
            if element.tag == _TBL and any(
                s.find(f".//{qn('w:shd')}") is not None for s in self._chain(_value(properties, "w:tblStyle"))
            ):
                return None
        return self._paper

    def _chain(self, name: str | None) -> list[Any]:
        """A style and those that it is based on."""
        chain: list[Any] = []
        while name in self._styles and len(chain) < _MAX_CHAIN:
            chain.append(self._styles[name])
            name = _value(chain[-1], "w:basedOn")
        return chain


def _judge(layers: list[Any], ground: Colour | None) -> str:
    """Why a run is not seen whose properties stand in `layers`, the strongest first."""
    vanish = _first(layers, "w:vanish")
    if vanish is not None and vanish.get(qn("w:val"), "true") not in _OFF:
        return _VANISH
    size = _first(layers, "w:sz")
    if size is not None and _number(size.get(qn("w:val"))) < _TINY:
        return _SIZE
    fill = next((found for layer in layers if (found := layer.find(f"{_W14}textFill")) is not None), None)
    if fill is not None and (
        fill.find(f"{_W14}noFill") is not None
        or any(_number(alpha.get(f"{_W14}val")) >= 95_000 for alpha in fill.iter(f"{_W14}alpha"))
    ):
        return _INK
    marked = _first(layers, "w:highlight")
    if marked is not None and marked.get(qn("w:val")) != "none":
        ground = colour_of(marked.get(qn("w:val"), "").lower())
    else:
        ground = next((shade for layer in layers if (shade := _shade(layer)) is not None), ground)
    colour = _first(layers, "w:color")
    ink = hex_colour(colour.get(qn("w:val"), "")) if colour is not None else None
    return _COLOUR if ink is not None and ground is not None and alike(ink, ground) else ""


def _paragraph(properties: Any) -> str:
    """Why a paragraph with these properties is not seen."""
    indent, spacing = properties.find(qn("w:ind")), properties.find(qn("w:spacing"))
    if indent is not None and any(_number(indent.get(qn(f"w:{side}"))) < -_FAR_TWIPS for side in ("left", "start")):
        return _PLACE
    exact = spacing is not None and spacing.get(qn("w:lineRule")) == "exact"
    if exact and 0 <= _number(spacing.get(qn("w:line"))) < 10 * _TINY:
        return _SIZE
    frame = properties.find(qn("w:framePr"))
    far = frame is not None and any(_number(frame.get(qn(f"w:{axis}"))) < -_FAR_TWIPS for axis in "xy")
    return _PLACE if far else ""


def _row(row: Any) -> str:
    properties = row.find(qn("w:trPr"))
    if properties is None:
        return ""
    height = properties.find(qn("w:trHeight"))
    exact = height is not None and height.get(qn("w:hRule")) == "exact"
    return _SIZE if exact and 0 <= _number(height.get(qn("w:val"))) < 10 * _TINY else ""


def _drawing(drawing: Any) -> str:
    for properties in drawing.iter(f"{_WP}docPr"):
        if properties.get("hidden", "0") not in _OFF:
            return _VANISH
    for offset in drawing.iter(f"{_WP}posOffset"):
        if not _FAR_EMU[0] <= _number(offset.text) <= _FAR_EMU[1]:
            return _PLACE
    for extent in drawing.iter(f"{_WP}extent"):
        if min(_number(extent.get("cx")), _number(extent.get("cy"))) < 12_700:
            return _SIZE
    return ""


def _shape(shape: Any) -> str:
    """Shapes of older versions, whose place is written as CSS in points."""
    for element in shape.iter():
        told = dict(part.split(":", 1) for part in str(element.get("style", "")).lower().split(";") if ":" in part)
        if told.get("visibility", "").strip() == "hidden":
            return _VANISH
        if any(_number(told.get(name, "").strip().removesuffix("pt")) < -400 for name in ("margin-left", "margin-top")):
            return _PLACE
    return ""


def _run_layers(chain: list[Any] | tuple[Any, ...]) -> Iterator[Any]:
    for style in chain:
        yield style.find(qn("w:rPr"))


def _first(layers: list[Any], name: str) -> Any:
    return next((found for layer in layers if (found := layer.find(qn(name))) is not None), None)


def _shade(properties: Any) -> Colour | None:
    shade = properties.find(qn("w:shd")) if properties is not None else None
    if shade is None or shade.get(qn("w:val")) == "nil":
        return None
    return hex_colour(shade.get(qn("w:fill"), ""))


def _value(properties: Any, name: str) -> str | None:
    found = properties.find(qn(name)) if properties is not None else None
    value: str | None = found.get(qn("w:val")) if found is not None else None
    return value


def _number(value: str | None) -> float:
    """A number; NaN, which is neither small nor large, for what is none."""
    with contextlib.suppress(TypeError, ValueError):
        return float(value or "")
    return float("nan")
