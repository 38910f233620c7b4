"""Documents that contradict each other: the same said of the same thing, with another figure.

Only what can be told cheaply: new chunks are compared with the chunks of other documents that are in force at the same
time and that some of the same people read, where the heading is the same or the texts are near each other. What is
reported must be true more than it must be complete, for nobody reads a list of false warnings.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ingest.figures import Figure, figures, subject
from ingest.report import Contradiction, Statement
from ingest.writer import BATCH, batched
from tandem.database import Database
from tandem.sentences import units
from tandem.tables import ChunkRow, EmbeddingRow, VersionRow

# Above so many chunks in force the vectors no longer fit beside a run; the report then says so.
MAX_CHUNKS = 50_000
MAX_REPORTED = 50
_NEAR = 0.72  # cosine of two chunks about the same thing, whatever their headings
_SAME_HEADING = 0.45
_NEIGHBOURS = 8  # of each new chunk, at most
_SHARED_WORDS = 3
_ALIKE = 0.6  # share of the words of both sentences that they have in common
# "Effective date: 1 August 2024" speaks of the document it stands in, and of no other.
_ABOUT_ITSELF = frozenset(
    "date effective version updated update last revised revision modified published reviewed review next valid since "
    "document policy page edition status approved issued issue".split()
)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class _Version:
    """A version that is in force now or later."""

    id: str
    document_id: str
    title: str
    groups: tuple[str, ...] | None
    live_from: date | None
    live_until: date | None

    def meets(self, other: "_Version") -> bool:
        """Whether somebody may read both on one day."""
        if self.document_id == other.document_id:
            return False
        readers = self.groups == other.groups or not set(self.groups or ()).isdisjoint(other.groups or ())
        return readers and _before(self.live_from, other.live_until) and _before(other.live_from, self.live_until)


@dataclass(frozen=True)
class _Piece:
    """A chunk by what is compared first; its text is looked up when that is near enough."""

    id: str
    version: _Version
    key: str
    heading: str

    @property
    def leaf(self) -> str:
        return " ".join(self.heading.rsplit(" > ", 1)[-1].casefold().split())


@dataclass(frozen=True)
class _Claim:
    """A sentence with figures."""

    text: str
    figures: tuple[Figure, ...]
    subject: frozenset[str]


def find_contradictions(
    database: Database, generation_id: str, document_ids: Collection[str], today: date
) -> tuple[tuple[Contradiction, ...], tuple[str, ...]]:
    """Compares what a run published with the other documents.

    Args:
        database: After the run's commits.
        generation_id: The live generation; of another that is being built nothing is read.
        document_ids: What it added and updated; of these, only text that the version before lacked is looked at.
        today: Versions whose force has ended are left out.

    Returns:
        The contradictions, at most `MAX_REPORTED`, and the warnings: a sentence for each, and what was left out.
    """
    if not document_ids:
        return (), ()
    with database.session() as session:
        pieces = _pieces(session, generation_id, today)
        if len(pieces) > MAX_CHUNKS:
            skipped = (
                f"Contradictions were not looked for: {len(pieces):,} chunks are in force, the limit is {MAX_CHUNKS:,}."
            )
            return (), (skipped,)
        new = _new_pieces(session, pieces, set(document_ids))
        if not new:
            return (), ()
        vectors = _vectors(session, pieces)
        pairs = _near_pairs(new, pieces, vectors)
        texts = _texts(session, {piece.id for pair in pairs for piece in pair})
    common = {word for text in texts.values() for word in _WORD.findall(text) if word.islower()}
    found: dict[tuple[str, str], Contradiction] = {}
    for one, other in pairs:
        if _other_names(one.version, other.version, common):
            continue
        for contradiction in _compare(one, texts[one.id], other, texts[other.id]):
            found.setdefault((contradiction.first.sentence, contradiction.second.sentence), contradiction)
    listed = tuple(found.values())[:MAX_REPORTED]
    warnings = [contradiction.sentence for contradiction in listed]
    if len(found) > len(listed):
        warnings.append(f"{len(found) - len(listed)} further contradictions between documents are not listed.")
    return listed, tuple(warnings)


def _pieces(session: Session, generation_id: str, today: date) -> list[_Piece]:
    rows = session.execute(
        select(
            VersionRow.id, VersionRow.document_id, VersionRow.title, VersionRow.groups, VersionRow.live_from,
            VersionRow.live_until,
        ).where(VersionRow.state == "published", or_(VersionRow.live_until.is_(None), VersionRow.live_until > today))
    )  # fmt: skip
    versions = {
        id: _Version(id, document_id, title, None if groups is None else tuple(groups), start, end)
        for id, document_id, title, groups, start, end in rows
    }
    pieces: list[_Piece] = []
    for batch in batched(sorted(versions), BATCH):
        columns = select(ChunkRow.id, ChunkRow.version_id, ChunkRow.key, ChunkRow.heading)
        chunks = session.execute(
            columns.where(ChunkRow.version_id.in_(batch), ChunkRow.generation_id == generation_id).order_by(
                ChunkRow.version_id, ChunkRow.ordinal
            )
        )
        pieces.extend(_Piece(id, versions[version_id], key, heading) for id, version_id, key, heading in chunks)
    return pieces


def _new_pieces(session: Session, pieces: Sequence[_Piece], document_ids: set[str]) -> list[_Piece]:
    """The chunks of each document's newest version that no version before it had."""
    newest: dict[str, int] = {}
    of_version: dict[str, tuple[str, int]] = {}
    known: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for batch in batched(sorted(document_ids), BATCH):
        rows = session.execute(
            select(VersionRow.document_id, VersionRow.seq, VersionRow.id).where(VersionRow.document_id.in_(batch))
        )
        for document_id, seq, id in rows:
            newest[document_id] = max(seq, newest.get(document_id, seq))
            of_version[id] = (document_id, seq)
    earlier = [id for id, (document_id, seq) in of_version.items() if seq < newest[document_id]]
    for batch in batched(earlier, BATCH):
        for version_id, key in session.execute(
            select(ChunkRow.version_id, ChunkRow.key).where(ChunkRow.version_id.in_(batch))
        ):
            document_id, seq = of_version[version_id]
            known[document_id].append((seq, key))
    old = {document_id: {key for _, key in keys} for document_id, keys in known.items()}
    return [
        piece
        for piece in pieces
        if of_version.get(piece.version.id) == (piece.version.document_id, newest.get(piece.version.document_id))
        and piece.key not in old.get(piece.version.document_id, ())
    ]


def _vectors(session: Session, pieces: Sequence[_Piece]) -> dict[str, npt.NDArray[np.float32]]:
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for batch in batched(sorted({piece.key for piece in pieces}), BATCH):
        rows = session.execute(select(EmbeddingRow.key, EmbeddingRow.vector).where(EmbeddingRow.key.in_(batch)))
        vectors |= {key: np.frombuffer(vector, dtype="<f4") for key, vector in rows}
    return vectors


def _near_pairs(
    new: Sequence[_Piece], pieces: Sequence[_Piece], vectors: dict[str, npt.NDArray[np.float32]]
) -> list[tuple[_Piece, _Piece]]:
    """Each new chunk with its nearest ones in documents that somebody reads beside it."""
    fresh = {piece.id for piece in new}
    new = [piece for piece in new if piece.key in vectors]
    pieces = [piece for piece in pieces if piece.key in vectors]
    if not new or not pieces:
        return []
    matrix = np.stack([vectors[piece.key] for piece in pieces])
    pairs: list[tuple[_Piece, _Piece]] = []
    for batch in batched(new, BATCH):
        nearness = np.stack([vectors[piece.key] for piece in batch]) @ matrix.T
        for one, row in zip(batch, nearness, strict=True):
            close = np.flatnonzero(row >= _SAME_HEADING)
            taken = 0
            for place in close[np.argsort(-row[close], kind="stable")]:
                other = pieces[int(place)]
                if taken >= _NEIGHBOURS:
                    break
                if (row[place] < _NEAR and one.leaf != other.leaf) or not one.version.meets(other.version):
                    continue
                taken += 1
                if other.id not in fresh or one.id < other.id:  # two new ones meet once
                    pairs.append((one, other))
    return pairs


def _texts(session: Session, ids: set[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for batch in batched(sorted(ids), BATCH):
        for id, text in session.execute(select(ChunkRow.id, ChunkRow.text).where(ChunkRow.id.in_(batch))):
            texts[id] = text
    return texts


def _compare(one: _Piece, text: str, other: _Piece, other_text: str) -> Iterator[Contradiction]:
    for claim in _claims(text):
        for counter in _claims(other_text):
            differing = _differing(claim, counter)
            if differing is not None and _same_subject(claim, one, counter, other):
                yield Contradiction(first=_statement(one, claim), second=_statement(other, counter), figures=differing)


@lru_cache(maxsize=4096)
def _claims(text: str) -> tuple[_Claim, ...]:
    claims = []
    for unit in units(text):
        found = figures(unit.text)
        if found:
            words = subject(unit.text, found) | subject(unit.lead, figures(unit.lead))
            if words <= _ABOUT_ITSELF:
                continue
            claims.append(_Claim(unit.text, tuple(found), words))
    return tuple(claims)


def _differing(one: _Claim, other: _Claim) -> tuple[str, str] | None:
    """The figures that differ, where both sentences give the same kinds of figures in the same order."""
    shape = [(figure.kind, figure.bound) for figure in one.figures]
    if shape != [(figure.kind, figure.bound) for figure in other.figures]:
        return None
    differing = [
        (mine, theirs) for mine, theirs in zip(one.figures, other.figures, strict=True) if mine.value != theirs.value
    ]
    # Several figures that differ at once belong to two different things, more often than not.
    return (differing[0][0].text, differing[0][1].text) if len(differing) == 1 else None


def _same_subject(one: _Claim, piece: _Piece, other: _Claim, counterpart: _Piece) -> bool:
    """Whether two sentences speak of the same thing, going by their words.

    A word that only one of them has ("part-time", "abroad") makes it speak of something else, unless the other stands
    under a heading or title that says it.
    """
    mine, theirs = one.subject - other.subject, other.subject - one.subject
    if (mine and theirs) or mine - _around(counterpart) or theirs - _around(piece):
        return False
    shared = one.subject & other.subject
    if not mine and not theirs and piece.leaf == counterpart.leaf:
        return bool(shared)
    return len(shared) >= _SHARED_WORDS and len(shared) / len(one.subject | other.subject) >= _ALIKE


def _around(piece: _Piece) -> frozenset[str]:
    """The words of the headings and the title above a piece."""
    above = f"{piece.version.title} {piece.heading}"
    return subject(above, [])


def _other_names(one: _Version, other: _Version, common: Collection[str]) -> bool:
    """Whether the titles name different things: two products may well have two warranties.

    Args:
        one, other: The versions.
        common: Words that are written with a small letter somewhere; the others in a title are names.
    """
    mine, theirs = set(_WORD.findall(one.title)), set(_WORD.findall(other.title))
    common = {*common, *filter(str.islower, mine | theirs)}
    return all(any(word.casefold() not in common for word in words) for words in (mine - theirs, theirs - mine))


def _statement(piece: _Piece, claim: _Claim) -> Statement:
    version = piece.version
    return Statement(
        document_id=version.document_id,
        title=version.title,
        heading=piece.heading,
        sentence=claim.text,
        groups=version.groups,
    )


def _before(start: date | None, end: date | None) -> bool:
    return start is None or end is None or start < end
