"""What changed: a document against its latest version, and the dates of its versions against each other. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from ingest.metadata import metadata_hash
from tandem.schemas import Metadata, ParsedDocument

Verdict = Literal["added", "updated", "unchanged"]


@dataclass(frozen=True)
class Known:
    """The latest version of a document, as far as telling a change needs it."""

    version_id: str
    root: str
    source_hash: str
    content_hash: str
    metadata_hash: str
    reader: str
    chunk_count: int
    live_from: date | None
    seq: int


@dataclass(frozen=True)
class Span:
    """A published version on the time line. `live_from`/`live_until`: half-open, None without bound."""

    version_id: str
    live_from: date | None
    live_until: date | None
    effective_until: date | None


@dataclass(frozen=True)
class Timeline:
    """What happens to the earlier versions when a new one is published.

    Attributes:
        live_until: Version -> the day its force ends, for those that stay.
        retired: Versions that are never in force again.
    """

    live_until: dict[str, date | None]
    retired: tuple[str, ...]


def is_untouched(known: Known | None, source_hash: str, metadata: Metadata, reader: str) -> bool:
    """Whether the file's bytes and metadata are those of the known version, so that it need not even be parsed."""
    return (
        known is not None
        and known.source_hash == source_hash
        and known.metadata_hash == metadata_hash(metadata)
        and known.reader == reader
    )


def judge(known: Known | None, document: ParsedDocument, declared_hash: str) -> Verdict:
    """Whether a parsed document is new, changed in text or metadata, or says what it said.

    Args:
        known: Its latest version.
        document: As read now.
        declared_hash: Hash of its declared metadata.
    """
    if known is None:
        return "added"
    same = (known.content_hash, known.metadata_hash) == (document.content_hash, declared_hash)
    return "unchanged" if same else "updated"


def starts_on(metadata: Metadata, known: Known | None, same_text: bool, today: date) -> date | None:
    """The first day on which a new version is in force; None: since ever.

    A day in the metadata decides. Without one, a first version has been in force since ever, a text that did not
    change stays in force as it was, and a new text is in force from today.
    """
    if metadata.effective_from is not None:
        return metadata.effective_from
    if known is None:
        return None
    return known.live_from if same_text else today


def timeline(earlier: Sequence[Span], live_from: date | None, today: date) -> Timeline:
    """Puts a new version onto the time line of a document.

    Args:
        earlier: The published versions so far.
        live_from: First day of the new one; None: since ever.
        today: The current day (UTC).

    Returns:
        Those that the new one replaces from their first day on are retired, and so are those that were still to come:
        the document no longer announces them. Each of the others is in force until the next begins.
    """
    stay = [
        span
        for span in earlier
        if _before(span.live_from, live_from) and not (span.live_from is not None and span.live_from > today)
    ]
    stay.sort(key=lambda span: span.live_from or date.min)
    kept = {span.version_id for span in stay}
    starts = [*(span.live_from for span in stay), live_from][1:]
    ends = {
        span.version_id: min((day for day in (span.effective_until, following) if day is not None), default=None)
        for span, following in zip(stay, starts, strict=True)
    }
    return Timeline(ends, tuple(span.version_id for span in earlier if span.version_id not in kept))


def _before(first: date | None, second: date | None) -> bool:
    if second is None:
        return False
    return first is None or first < second
