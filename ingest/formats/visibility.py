"""Takes out of an HTML page what a browser does not show, by the page's own styles and attributes.

Much that is hidden is the ordinary machinery of a page (menus, dialogs, text for screen readers) and goes without a
word. What is hidden in ways that only serve to deceive is told of: letters in the colour of their background, without
size, off the page, in no ink.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bs4 import BeautifulSoup
from bs4.element import Comment, NavigableString, PreformattedString, Tag

from ingest.formats.colours import WHITE, Colour, alike, colour_of, over
from ingest.formats.stylesheet import Declarations, Styles

COLOUR = "text in the colour of its background"
SIZE = "tiny type"
PLACE = "text off the page"
INK = "transparent text"
CLIPPED = "clipped text"
DISPLAY = "display:none"
_FAR = 500.0  # pixels: farther out, text is on no screen
_TINY = 2.0  # pixels
_LENGTH = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)([a-z]*|%)$")
_PIXELS = {"": 1, "px": 1, "pt": 4 / 3, "pc": 16, "in": 96, "cm": 37.8, "mm": 3.78, "rem": 16, "vw": 12, "vh": 8}
_KEYWORD_SIZES = frozenset(["xx-small", "x-small", "small", "medium", "large", "x-large", "xx-large", "xxx-large"])
_SCREEN_READER = re.compile(
    r"(?:^|[\s_-])(?:sr|screen-?reader|visually-?hidden|visuallyhidden|a11y|assistive|offscreen|skip)", re.IGNORECASE
)


@dataclass(frozen=True)
class Hidden:
    """A passage that was taken out: by which technique it was hidden, its text, and what it stood in."""

    technique: str
    text: str
    parent: Tag


@dataclass(frozen=True)
class _Look:
    """How text in an element looks: what it inherits. `ground` None is a background that is not known."""

    colour: Colour | None = (0.0, 0.0, 0.0, 1.0)
    ground: Colour | None = WHITE
    size: float = 16.0
    visible: bool = True


@dataclass(frozen=True)
class Removed:
    """What was taken out of a page.

    Attributes:
        passages: What was hidden suspiciously, in order.
        cut_short: The style sheets hold more than is looked at, so hidden text may have stayed.
    """

    passages: list[Hidden]
    cut_short: bool


def remove_hidden(soup: BeautifulSoup) -> Removed:
    """Takes all hidden text and elements out of `soup`."""
    styles = Styles(soup)
    foreign = soup.find("link", rel="stylesheet", href=True) is not None
    found: list[Hidden] = []
    stack: list[tuple[Tag, _Look]] = [(soup, _Look())]
    while stack:
        element, look = stack.pop()
        children: list[tuple[Tag, _Look]] = []
        for child in list(element.children):
            if isinstance(child, Tag):
                told = styles.of(child)
                why = _gone(child, told, look)
                if why is None:
                    children.append((child, _inherit(look, child, told, foreign=foreign)))
                    continue
                if why:
                    found.append(Hidden(why, child.get_text(" ", strip=True), element))
                child.extract()
            elif isinstance(child, NavigableString) and not isinstance(child, (Comment, PreformattedString)):
                why = _unseen(look) if child.strip() else None
                if why is not None:
                    found.extend([Hidden(why, child.strip(), element)] if why else [])
                    child.replace_with(" ")
        stack.extend(reversed(children))
    return Removed(found, styles.cut_short)


def _gone(element: Tag, told: Declarations, look: _Look) -> str | None:
    """Why an element is not shown with all that is in it; empty for ordinary machinery, None when it is shown."""
    if str(element.get("aria-hidden", "")).lower() == "true":
        return ""
    if element.has_attr("hidden") or told.get("display") == "none":
        return DISPLAY if "display:none" in re.sub(r"\s+", "", str(element.get("style", "")).lower()) else ""
    if not told:
        return None
    if told.get("content-visibility") == "hidden":
        return ""
    if _is_transparent(told):
        return INK
    why = next(_out_of_sight(told, look.size), None)
    return "" if why and _is_for_screen_readers(element, told) else why


def _unseen(look: _Look) -> str | None:
    """Why text that looks so is not seen; empty for ordinary machinery, None when it is seen."""
    if not look.visible:
        return ""
    if look.size < _TINY:
        return SIZE
    if look.colour is not None and look.colour[3] < 0.06:
        return INK
    if look.colour is not None and look.ground is not None and alike(look.colour, look.ground):
        return COLOUR
    return None


def _inherit(look: _Look, element: Tag, told: Declarations, *, foreign: bool) -> _Look:
    if foreign and look.ground is not None and element.name not in ("html", "body") and _is_named(element):
        look = replace(look, ground=None)  # style sheets that are not at hand may give it any background
    if element.has_attr("bgcolor"):
        look = replace(look, ground=colour_of(str(element["bgcolor"])))
    if element.has_attr("background") or element.name in ("button", "mark", "input", "select"):
        look = replace(look, ground=None)
    if element.name == "font" and element.has_attr("color"):
        look = replace(look, colour=colour_of(str(element["color"])))
    if not told:
        return look
    if "background-color" in told:
        look = replace(look, ground=_laid(told["background-color"], look.ground))
    if told.get("background-image", "none") not in ("none", "initial", "inherit"):
        look = replace(look, ground=None)
    for name in ("color", "-webkit-text-fill-color"):
        if name in told and told[name] not in ("inherit", "currentcolor"):
            look = replace(look, colour=colour_of(told[name]))
    if "visibility" in told and told["visibility"] != "inherit":
        look = replace(look, visible=told["visibility"] not in ("hidden", "collapse"))
    if "font-size" in told:
        look = replace(look, size=_size(told["font-size"], look.size))
    return look


def _laid(value: str, ground: Colour | None) -> Colour | None:
    if value in ("inherit", "initial", "unset", "none"):
        return ground
    colour = colour_of(value)
    if colour is None or colour[3] == 1.0:
        return colour
    return over(colour, ground) if ground is not None else None


def _is_transparent(told: Declarations) -> bool:
    opacity = _LENGTH.match(told.get("opacity", ""))
    if opacity and float(opacity.group(1)) * (0.01 if opacity.group(2) == "%" else 1.0) < 0.06:
        return True
    return bool(re.search(r"opacity\(\s*(?:0*\.0\d*|0+|[0-5]%)\s*\)", told.get("filter", "")))


def _out_of_sight(told: Declarations, size: float) -> Iterator[str]:
    for name in ("text-indent", "margin-left", "margin-top"):
        if _pixels(told.get(name, ""), size) <= -_FAR:
            yield PLACE
    if told.get("position", "static") not in ("static", "sticky"):
        if any(_pixels(told.get(name, ""), size) <= -_FAR for name in ("left", "top", "right", "bottom")):
            yield PLACE
        if any(_pixels(told.get(name, ""), size) >= 5_000 for name in ("left", "top")):
            yield PLACE
    transform = told.get("transform", "")
    moves = re.findall(r"translate(?:x|y|3d)?\(([^)]*)\)", transform)
    if any(_pixels(part.strip(), size) <= -_FAR for move in moves for part in move.split(",")):
        yield PLACE
    if re.search(r"scale(?:x|y|3d)?\(\s*0(?:\.0\d*)?\s*[,)]", transform):
        yield SIZE
    if re.match(r"inset\(\s*(?:[5-9]\d|100)(?:\.\d+)?%|circle\(\s*0(?:px|%)?[\s)]", told.get("clip-path", "")):
        yield CLIPPED
    clip = re.match(r"rect\(([^)]*)\)", told.get("clip", ""))
    if clip and all(_pixels(part, size) <= 1 for part in re.split(r"[\s,]+", clip.group(1).strip())):
        yield CLIPPED
    overflow = " ".join(told.get(name, "") for name in ("overflow", "overflow-x", "overflow-y"))
    if "hidden" in overflow or "clip" in overflow:
        sides = [told.get(name, "auto") for name in ("width", "height", "max-width", "max-height")]
        if any(_LENGTH.match(side) and 0 <= _pixels(side, size) <= 1 for side in sides):
            yield CLIPPED


def _is_for_screen_readers(element: Tag, told: Declarations) -> bool:
    names = " ".join(str(name) for name in element.get_attribute_list("class") if name)
    idiom = told.get("clip") or told.get("clip-path")
    return bool(_SCREEN_READER.search(names)) or bool(idiom and told.get("position") == "absolute")


def _is_named(element: Tag) -> bool:
    return element.has_attr("class") or element.has_attr("id")


def _pixels(value: str, size: float) -> float:
    """A length in pixels; 0 for what is none, so that it hides nothing: NaN compares as never."""
    match = _LENGTH.match(value)
    if not match:
        return float("nan")
    number, unit = float(match.group(1)), match.group(2)
    if unit in ("em", "ex", "ch"):
        return number * size
    if unit == "%":
        return number * 8.0  # of a screen
    return number * _PIXELS.get(unit, 1)


def _size(value: str, inherited: float) -> float:
    if value in _KEYWORD_SIZES:
        return 16.0
    match = _LENGTH.match(value)
    if not match:
        return inherited
    if match.group(2) == "%":
        return float(match.group(1)) / 100 * inherited
    return _pixels(value, inherited)
