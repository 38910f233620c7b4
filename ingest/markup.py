"""Bounds on HTML and Markdown, checked before and after they are parsed."""

import re

from bs4 import BeautifulSoup
from bs4.element import Tag

from ingest.limits import Limits
from tandem.errors import DocumentError

# Reading a tag of HTML or a line of Markdown takes as long as reading five elements of a package.
_WEIGHT = 5
# A document type with declarations of its own, before the first element. Possessive: nothing is tried twice.
_DECLARATIONS = re.compile(rb"(?:\s+|<\?[^>]*+>|<!--.*?-->)*+<!DOCTYPE[^\[>]*+\[", re.DOTALL | re.IGNORECASE)


def check_markup(data: bytes, limits: Limits) -> None:
    """Refuses a page that declares entities, or that has more tags than can be read in time.

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


def check_depth(soup: BeautifulSoup, limits: Limits) -> None:
    """Refuses a page whose elements are nested too deep.

    Raises:
        DocumentError: `hostile`.
    """
    level: list[Tag] = [soup]
    for _ in range(limits.max_depth + 1):
        level = [child for tag in level for child in tag.children if isinstance(child, Tag)]
        if not level:
            return
    raise DocumentError(
        "hostile", f"Its elements are nested more than {limits.max_depth} deep. Save the page as plain text."
    )


def check_lines(text: str, limits: Limits) -> None:
    """Refuses Markdown of more lines than can be read in time.

    Raises:
        DocumentError: `too_large`.
    """
    lines = text.count("\n")
    if lines * _WEIGHT > limits.max_elements:
        raise _too_large(f"It has {lines} lines", limits)


def _too_large(what: str, limits: Limits) -> DocumentError:
    return DocumentError(
        "too_large",
        f"{what}; at most {limits.max_elements // _WEIGHT} elements are read. Split it into several documents.",
    )
