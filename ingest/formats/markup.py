"""Bounds on HTML and Markdown, checked before anything is built from them."""

import contextlib
import re

from lxml import etree  # type: ignore[import-untyped]

from ingest.formats.limits import Limits
from ingest.readers import too_long
from tandem.errors import DocumentError

# Reading a tag of HTML or a line of Markdown takes as long as reading five elements of a package.
_WEIGHT = 5
# A document type with declarations of its own, before the first element. Possessive: nothing is tried twice.
_DECLARATIONS = re.compile(rb"(?:\s+|<\?[^>]*+>|<!--.*?-->)*+<!DOCTYPE[^\[>]*+\[", re.DOTALL | re.IGNORECASE)


def check_markup(data: bytes, limits: Limits) -> None:
    """Refuses a page that declares entities, is nested too deep, or has more tags than can be read in time.

    Raises:
        DocumentError: `hostile` or `too_large`.
    """
    tags = data.count(b"<")
    if tags * _WEIGHT > 2 * limits.max_elements:  # a start and an end
        raise _too_large(f"It has {tags} tags", limits)
    plain = data.replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xfe\xff")  # UTF-16 is read as well
    if _DECLARATIONS.match(plain):
        raise DocumentError(
            "hostile",
            "Its document type declares entities, which can expand or fetch other files. Save the page without them.",
        )
    with contextlib.suppress(etree.LxmlError):  # how broken it is, its reader will find out
        etree.fromstring(data, etree.HTMLParser(target=_Depth(limits)))


class _Depth:
    """Takes a page's tags as they are parsed, and keeps nothing but how deep they lie."""

    def __init__(self, limits: Limits) -> None:
        self._most = limits.max_depth
        self._depth = 0

    def start(self, _tag: str, _attributes: object) -> None:
        self._depth += 1
        if self._depth > self._most:
            raise DocumentError(
                "hostile", f"Its elements are nested more than {self._most} deep. Save the page as plain text."
            )

    def end(self, _tag: str) -> None:
        self._depth -= 1

    def data(self, _text: str) -> None:
        pass

    def close(self) -> None:
        pass


def check_lines(text: str, limits: Limits) -> None:
    """Refuses Markdown of more text or lines than can be read in time.

    Raises:
        DocumentError: `too_large`.
    """
    if len(text) > 2 * limits.max_chars:
        raise too_long(limits.max_chars)
    lines = text.count("\n")
    if lines * _WEIGHT > limits.max_elements:
        raise _too_large(f"It has {lines} lines", limits)


def _too_large(what: str, limits: Limits) -> DocumentError:
    return DocumentError(
        "too_large",
        f"{what}; at most {limits.max_elements // _WEIGHT} elements are read. Split it into several documents.",
    )
