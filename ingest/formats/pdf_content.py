"""What the pages of a PDF expand to, added up before any text is taken from them."""

import io
import logging
import re
from typing import Any

from pypdf import PdfReader as Pdf
from pypdf.errors import LimitReachedError, PyPdfError
from pypdf.generic import ArrayObject, DictionaryObject, StreamObject

from ingest.formats.limits import Limits
from tandem.errors import DocumentError

_HARMLESS = 2_000_000  # bytes; text of this length is read in time, however small it was packed
_MOST = 40_000_000
_MAX_FORMS = 10_000
_DRAWN = re.compile(rb"/([^\s/<>\[\]()]+)\s+Do\b")


# What its library raises at a file that is broken. Whether such a file can be read is not decided here.
_BROKEN = (PyPdfError, ValueError, TypeError, KeyError, AttributeError, IndexError, OSError)


def check_content(data: bytes, limits: Limits) -> None:
    """Adds up the drawing instructions of all pages; a stream that is drawn twice counts twice.

    Args:
        data: The file.
        limits: How far it may expand.

    Raises:
        DocumentError: `hostile` when it expands too far, `too_large` when it is more than can be read in time.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        _check_pages(Pdf(io.BytesIO(data), strict=False), len(data), limits)
    except LimitReachedError as exc:
        raise DocumentError(
            "hostile", f"It expands beyond all measure ({exc}). Save it again from its source."
        ) from exc
    except _BROKEN:
        return


def _check_pages(pdf: Pdf, size: int, limits: Limits) -> None:
    if pdf.is_encrypted and not pdf.decrypt(""):
        return  # its reader says so
    forms: dict[int, int] = {}
    most = max(limits.max_expansion * size, _HARMLESS)
    expanded = 0
    for page in pdf.pages:
        resources = page.get("/Resources")
        for stream in _streams(page.get("/Contents")):
            expanded += _expanded(stream, resources, forms, limits)
            if expanded > most:
                raise DocumentError(
                    "hostile", f"Its pages expand from {size} to more than {most} bytes. Save it again from its source."
                )
            if expanded > _MOST:
                raise DocumentError("too_large", f"Its pages take more than {_MOST} bytes of drawing. Split it.")


def _streams(contents: Any) -> list[StreamObject]:
    found = contents.get_object() if contents is not None else None
    parts = [part.get_object() for part in found] if isinstance(found, ArrayObject) else [found]
    return [part for part in parts if isinstance(part, StreamObject)]


def _expanded(stream: StreamObject, resources: Any, forms: dict[int, int], limits: Limits) -> int:
    """Bytes of a stream with all that it draws. `forms` remembers those that were added up."""
    data = stream.get_data()
    total = len(data)
    drawn = resources.get_object().get("/XObject") if resources is not None else None
    named = drawn.get_object() if drawn is not None else None
    if not isinstance(named, DictionaryObject):
        return total
    for match in _DRAWN.finditer(data):
        name = "/" + match.group(1).decode("latin-1")
        found = named.get(name)
        form = found.get_object() if found is not None else None
        if not isinstance(form, StreamObject) or form.get("/Subtype") != "/Form":
            continue
        if id(form) not in forms:
            if len(forms) >= _MAX_FORMS:
                raise DocumentError("hostile", f"It draws more than {_MAX_FORMS} forms. Save it again from its source.")
            forms[id(form)] = 0  # a form that draws itself is drawn once
            forms[id(form)] = _expanded(form, form.get("/Resources") or resources, forms, limits)
        total += forms[id(form)]
    return total
