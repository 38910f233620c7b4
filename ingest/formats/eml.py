"""EML into blocks: who wrote what to whom and when, then the message; attachments are named and not read."""

import email
import email.policy
import re
from collections.abc import Iterator
from email.message import EmailMessage, Message, MIMEPart
from itertools import pairwise

from ingest.formats.cleaning import clean
from ingest.formats.html import HtmlReader
from ingest.readers import Draft, FormatReader, TextReader
from tandem.errors import DocumentError

_HEADERS = ("From", "To", "Cc", "Date")
_MAX_HEADER = 65_536  # bytes; the library takes time quadratic in the length of a header
_MAX_PARTS = 1_000
_CONTAINER = re.compile(rb"^content-type:\s*(?:multipart|message)/", re.IGNORECASE | re.MULTILINE)
_HEADER_LINE = re.compile(rb"^[\x21-\x39\x3b-\x7e]+:", re.MULTILINE)


class EmlReader(FormatReader):
    """Messages. The plain text is read where there is one, else the HTML."""

    def fill(self, draft: Draft, data: bytes) -> None:
        _check_shape(data)
        message = email.message_from_bytes(data, policy=email.policy.default)
        if not message.keys():
            raise DocumentError("corrupt", "It is no e-mail message: it has no headers. Save it again as .eml.")
        self._check_depth(message)
        subject = clean(_header(message, "Subject")).text.replace("\n", " ")
        draft.title = subject
        draft.heading(1, subject, is_name=False)  # a message without a body has no text
        self._fill_body(draft, message)
        draft.title = subject or draft.title
        attached = [_name(part) for part in _attachments(message)]
        if attached:
            draft.warn(f"{len(attached)} attachments were not read: {', '.join(attached)[:300]}.")

    def _fill_body(self, draft: Draft, message: EmailMessage) -> None:
        body = message.get_body(preferencelist=("plain", "html"))
        if body is None or not isinstance(text := _content(body), str) or not text.strip():
            return  # a message of attachments only has no text, whatever its headers say
        lines = [f"{name}: {value}" for name in _HEADERS if (value := clean(_header(message, name)).text)]
        draft.add("\n".join(line[:500] for line in lines))
        encoded = b"\xef\xbb\xbf" + text.encode("utf-8", "replace")
        if body.get_content_type() == "text/html":
            HtmlReader(self._limits).fill(draft, encoded)
        else:
            TextReader(self._limits).fill(draft, encoded)

    def _check_depth(self, message: Message) -> None:
        stack: list[tuple[Message, int, int]] = [(message, 0, 0)]
        while stack:
            part, depth, messages = stack.pop()
            if messages > self._limits.max_nesting or depth > self._limits.max_depth:
                raise DocumentError(
                    "hostile", "Messages are nested in it too deep. Save the innermost one as a file of its own."
                )
            if part.is_multipart():
                inner = messages + (part.get_content_type() == "message/rfc822")
                stack.extend((child, depth + 1, inner) for child in part.get_payload() if isinstance(child, Message))


def _check_shape(data: bytes) -> None:
    """Refuses what would keep the parser busy for long: it recurses over parts, and over the words of a header."""
    if sum(1 for _ in _CONTAINER.finditer(data)) > _MAX_PARTS:
        raise DocumentError("hostile", f"It has more than {_MAX_PARTS} parts inside one another. Save it again.")
    head = re.split(rb"\r?\n\r?\n", data[: 4 * _MAX_HEADER], maxsplit=1)[0]
    starts = [match.start() for match in _HEADER_LINE.finditer(head)] + [len(head)]
    if max((b - a for a, b in pairwise(starts)), default=0) > _MAX_HEADER:
        raise DocumentError("hostile", f"It has a header of more than {_MAX_HEADER} bytes. Save it again.")


def _header(message: Message, name: str) -> str:
    try:
        return str(message.get(name) or "")
    except (ValueError, LookupError, TypeError, AttributeError, IndexError):  # headers of spam break the library
        return ""


def _content(part: MIMEPart) -> object:
    try:
        return part.get_content()
    except (LookupError, ValueError):  # a character set that does not exist
        payload = part.get_payload(decode=True)
        return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""


def _attachments(message: EmailMessage) -> Iterator[EmailMessage]:
    try:
        yield from (part for part in message.iter_attachments() if isinstance(part, EmailMessage))
    except (AttributeError, KeyError, TypeError):  # not in parts, whatever its type says
        return


def _name(part: EmailMessage) -> str:
    if part.get_content_type() == "message/rfc822":
        return "a forwarded message"
    return clean(part.get_filename() or part.get_content_type()).text
