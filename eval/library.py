"""The documents as the state database has them, for finding out where an answer should have come from."""

from collections.abc import Iterable, Sequence
from datetime import date

from sqlalchemy import select

from eval.support import content_words
from tandem.database import Database
from tandem.schemas import Principal, Value
from tandem.tables import VersionRow

WINDOW_WORDS = 120  # a question is looked for in stretches of about a passage


class DocumentVersion(Value):
    """One version of a document. Days are half-open: in force from `live_from` until before `live_until`."""

    id: str
    document_id: str
    seq: int = 1
    title: str = ""
    owner: str = ""
    groups: tuple[str, ...] | None = None
    published: bool = True
    live_from: date | None = None
    live_until: date | None = None
    text: str

    def in_force(self, day: date) -> bool:
        """Whether it may be answered from on `day`."""
        begun = self.live_from is None or self.live_from <= day
        return self.published and begun and (self.live_until is None or day < self.live_until)

    def readable(self, principal: Principal) -> bool:
        """Whether `principal` may read it."""
        return principal.admin or not principal.groups.isdisjoint(self.groups or ())


class Found(Value):
    """Where the words of a question stand closest together: the share of them, and the version."""

    share: float
    version: DocumentVersion


class Library:
    """All versions of all documents."""

    def __init__(self, versions: Iterable[DocumentVersion] = ()) -> None:
        self._versions = sorted(versions, key=lambda version: (version.document_id, version.seq))
        self._by_id = {version.id: version for version in self._versions}

    def __bool__(self) -> bool:
        return bool(self._versions)

    def version(self, version_id: str) -> DocumentVersion | None:
        """One version; None when it is not known (any more)."""
        return self._by_id.get(version_id)

    def of(self, document_id: str) -> list[DocumentVersion]:
        """All versions of a document, oldest first."""
        return [version for version in self._versions if version.document_id == document_id]

    def in_force(self, day: date) -> list[DocumentVersion]:
        """The versions that may be answered from on `day`."""
        return [version for version in self._versions if version.in_force(day)]

    def current(self, document_id: str, day: date) -> DocumentVersion | None:
        """The version of a document in force on `day`."""
        return next((version for version in reversed(self.of(document_id)) if version.in_force(day)), None)

    def search(self, question: str, day: date, principal: Principal) -> Found | None:
        """The readable version in force whose text has most of the question's words in one stretch.

        Returns:
            None when there is nothing to search, or no word was found.
        """
        wanted = content_words(question)
        best: Found | None = None
        for version in self.in_force(day):
            if wanted and version.readable(principal):
                title = content_words(version.title)
                share = max((_share(wanted, window, title) for window in _windows(version.text)), default=0.0)
                if share > (best.share if best else 0.0):
                    best = Found(share=share, version=version)
        return best


def load_library(database: Database) -> Library:
    """Reads all committed versions, their texts included. Blocking.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    with database.session() as session:
        rows = session.scalars(select(VersionRow).where(VersionRow.state != "staged")).all()
        return Library(_version(row) for row in rows)


def _version(row: VersionRow) -> DocumentVersion:
    return DocumentVersion(
        id=row.id,
        document_id=row.document_id,
        seq=row.seq,
        title=row.title,
        owner=row.owner,
        groups=tuple(row.groups) if row.groups is not None else None,
        published=row.state == "published",
        live_from=row.live_from,
        live_until=row.live_until,
        text=row.text,
    )


def _share(wanted: frozenset[str], window: str, title: frozenset[str]) -> float:
    return len(wanted & (content_words(window) | title)) / len(wanted)


def _windows(text: str) -> Sequence[str]:
    words = text.split()
    step = WINDOW_WORDS // 2  # overlapping, so that no sentence is cut in both
    return [" ".join(words[start : start + WINDOW_WORDS]) for start in range(0, max(1, len(words) - step), step)]
