"""What one run does: find -> read -> diff -> split -> publish, document by document, then delete what is gone."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

from ingest.diff import Known, is_untouched, judge, starts_on
from ingest.engine import Engine, Job, Prepared
from ingest.known import known_documents
from ingest.metadata import FOLDER_FILE, Declared, FolderMetadata, front_matter_of, metadata_hash, resolve
from ingest.progress import OnProgress
from ingest.publish import Change, Publisher
from ingest.readers import READER_VERSION
from ingest.removal import Remover
from ingest.report import Contradiction, Failure, IngestReport, Progress, Removed
from ingest.source import Found, Source, locate, read_bytes
from ingest.splitter import sizes
from ingest.writer import Writer
from tandem.database import Database
from tandem.errors import DocumentError
from tandem.schemas import Metadata, ParsedDocument
from tandem.settings import Settings

# A group is published together: large enough for full embedding batches, small enough to fit in memory.
_GROUP_DOCUMENTS = 64
_GROUP_CHUNKS = 1024
# Files are handed to the engine together, so that a cluster has something to share out.
_TOGETHER = 64
_TOGETHER_BYTES = 64_000_000


@dataclass(frozen=True)
class Pending:
    """A file that must be read. `source_hash`: SHA-256 of its bytes."""

    id: str
    data: bytes
    source_hash: str
    metadata: Metadata
    root: str
    known: Known | None


@dataclass
class Sync:
    """One run: what was found so far, and the group of changes that is being gathered.

    Attributes:
        id: Of the run.
        database, engine, writer, publisher, remover, settings: What it works with.
        groups: Groups of documents that name none.
        dry_run: Nothing is written.
    """

    id: str
    database: Database
    engine: Engine
    writer: Writer
    publisher: Publisher
    remover: Remover
    settings: Settings
    groups: tuple[str, ...] | None = None
    dry_run: bool = False
    on_progress: OnProgress = lambda progress: None
    today: date = field(default_factory=lambda: datetime.now(UTC).date())
    known: dict[str, Known] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)
    updated: set[str] = field(default_factory=set)
    unchanged: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    failed: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    adminonly: list[str] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    group: list[Change] = field(default_factory=list)
    touched: dict[str, str] = field(default_factory=dict)
    planned_keys: set[str] = field(default_factory=set)
    removed: Removed | None = None
    contradictions: tuple[tuple[Contradiction, ...], tuple[str, ...]] = ((), ())
    chunks: int = 0
    embedded: int = 0

    def begin(self) -> None:
        """Looks up what is there; nothing may change it but this run."""
        self.known = known_documents(self.database)

    def sync(self, path: Path) -> None:
        """Ingests one folder or file."""
        source = locate(path, {known.root for known in self.known.values()})
        owned = self._owned(source)
        folders = FolderMetadata(source.base)
        total = len(source.files)
        for done, found in enumerate(source.files):
            self.on_progress(Progress(stage="read", done=done, total=total, path=found.id))
            self._attempt(found.id, partial(self._consider, source, found, folders, owned))
        self._read_pending()
        self._flush()
        self.on_progress(Progress(stage="publish", done=total, total=total))
        self._adopt(source, owned)
        if source.is_folder:
            self._delete_gone(source, owned)

    def add(self, id: str, data: bytes, declared: Declared) -> None:
        """Ingests one upload."""
        self._attempt(id, lambda: self._compare(id, data, declared, {}, root=self._root_of(id)))
        self._read_pending()
        self._flush()

    def report(self, seconds: float) -> IngestReport:
        return IngestReport(
            run_id=self.id,
            added=tuple(sorted(self.added)),
            updated=tuple(sorted(self.updated)),
            unchanged=tuple(sorted(self.unchanged)),
            deleted=tuple(sorted(self.deleted)),
            failed=tuple(self.failed),
            chunks_embedded=self.embedded,
            chunks_reused=self.chunks - self.embedded,
            seconds=round(seconds, 3),
            removed=self.removed,
            warnings=(*self.warnings, *self._groups_warning(), *self.contradictions[1]),
            contradictions=self.contradictions[0],
            dry_run=self.dry_run,
        )

    def _attempt(self, id: str, work: Callable[[], None]) -> None:
        """One bad document never stops the run."""
        try:
            work()
        except DocumentError as exc:
            self.failed.append(Failure(path=id, reason=exc.reason, message=exc.message))
        if len(self.pending) >= _TOGETHER or sum(len(file.data) for file in self.pending) >= _TOGETHER_BYTES:
            self._read_pending()

    def _consider(self, source: Source, found: Found, folders: FolderMetadata, owned: frozenset[str]) -> None:
        if found.refused is not None:
            raise found.refused
        self._check_conflict(source, found.id, owned)
        data = read_bytes(found, source.base, self.settings.ingest.max_file_bytes)
        sidecar, folder = folders.declared(found.path)
        self._compare(found.id, data, sidecar, folder, source.root)

    def _compare(self, id: str, data: bytes, sidecar: Declared, folder: Declared, root: str) -> None:
        """A file that is as it was is kept as it is; any other must be read."""
        metadata = resolve(id, front_matter_of(id, data), sidecar, folder, self.groups)
        known = self.known.get(id)
        source_hash = hashlib.sha256(data).hexdigest()
        if known is not None and is_untouched(known, source_hash, metadata, READER_VERSION):
            self._keep(id, known, metadata)
        else:
            self.pending.append(Pending(id, data, source_hash, metadata, root, known))

    def _read_pending(self) -> None:
        """Reads and splits what has gathered, and judges each document."""
        pending, self.pending = self.pending, []
        jobs = [Job(file.id, file.data) for file in pending]
        recipe = self.writer.generation.recipe
        outcomes = self.engine.prepare(jobs, sizes(recipe.splitter), recipe.model_id)
        for file, outcome in zip(pending, outcomes, strict=True):
            if isinstance(outcome, Prepared):
                self._judge(file, outcome)
            else:
                self.failed.append(Failure(path=file.id, reason=outcome.reason, message=outcome.message))
            if len(self.group) >= _GROUP_DOCUMENTS or sum(len(change.chunks) for change in self.group) >= _GROUP_CHUNKS:
                self._flush()

    def _judge(self, file: Pending, prepared: Prepared) -> None:
        """What says what it said is kept; the rest is gathered to be published."""
        document = _document(file, prepared)
        self.warnings.extend(f"{file.id}: {warning}" for warning in document.warnings)
        declared_hash = metadata_hash(file.metadata)
        verdict = judge(file.known, document, declared_hash)
        if file.known is not None and verdict == "unchanged":
            self.touched[file.known.version_id] = file.source_hash
            self._keep(file.id, file.known, file.metadata)
            return
        (self.added if verdict == "added" else self.updated).add(file.id)
        self._note_groups(file.id, file.metadata)
        same_text = file.known is not None and file.known.content_hash == document.content_hash
        change = Change(
            document=document,
            chunks=prepared.chunks,
            root=file.root,
            metadata_hash=declared_hash,
            live_from=starts_on(document.metadata, file.known, same_text, self.today),
            seq=file.known.seq + 1 if file.known else 1,
        )
        self.group.append(change)

    def _keep(self, id: str, known: Known, metadata: Metadata) -> None:
        self.unchanged.add(id)
        self.chunks += known.chunk_count
        self._note_groups(id, metadata)

    def _flush(self) -> None:
        """Publishes the group, and forgets it: memory stays bounded however large the folder."""
        group, self.group = self.group, []
        touched, self.touched = self.touched, {}
        keys = {chunk.key for change in group for chunk in change.chunks}
        self.chunks += sum(len(change.chunks) for change in group)
        if self.dry_run:
            self.embedded += len(self.writer.missing(keys - self.planned_keys))
            self.planned_keys |= keys
            return
        self.embedded += self.publisher.publish(group, self.today)
        self.publisher.touch(touched)
        self.known |= known_documents(self.database, [change.document.id for change in group])

    def _owned(self, source: Source) -> frozenset[str]:
        """The documents that this source speaks for: its root's, those of roots inside it, of one it replaces."""
        roots: dict[str, set[str]] = {}
        for id, known in self.known.items():
            roots.setdefault(known.root, set()).add(id)
        owned = set(roots.get(source.root, ()))
        if not source.is_folder:
            return frozenset(owned)
        if source.within:
            return frozenset(id for id in owned if id.startswith(source.within))
        here = {found.id for found in source.files}
        for root, ids in roots.items():
            if not root or root == source.root:
                continue
            if Path(root).is_relative_to(source.root):
                owned |= ids
            # A file that was ingested by itself is no folder that could have been replaced.
            elif 2 * len(ids & here) >= len(ids) and not (len(ids) == 1 and Path(root).name in ids):
                owned |= ids
                gone = len(ids - here)
                self.warnings.append(
                    f"{source.root!r} takes the place of {root!r}, which held most of the same documents"
                    + (f"; {gone} that it lacks are deleted." if gone else ".")
                )
        return frozenset(owned)

    def _check_conflict(self, source: Source, id: str, owned: frozenset[str]) -> None:
        known = self.known.get(id)
        if known is None or id in owned or known.root in ("", source.root):
            return
        if source.is_folder:
            raise DocumentError(
                "conflict",
                f"A document of this name came from {known.root!r}. Rename one of the two, ingest the folder around "
                f"both, or first run `tandem documents delete {id}`.",
            )
        self.warnings.append(f"{id}: it came from {known.root!r} before and is now taken from {source.root!r}.")

    def _root_of(self, id: str) -> str:
        known = self.known.get(id)
        if known is not None and known.root:
            self.warnings.append(
                f"{id}: it came from {known.root!r} before; ingesting that folder brings its file back."
            )
            return known.root
        return ""

    def _adopt(self, source: Source, owned: frozenset[str]) -> None:
        """Documents that did not change but now come from another folder are that folder's from now on."""
        moved = [
            found.id
            for found in source.files
            if found.id in self.known
            and self.known[found.id].root != source.root
            and found.id in owned | self.unchanged
        ]
        if moved and not self.dry_run:
            self.publisher.adopt(moved, source.root)
            self.known = known_documents(self.database)

    def _delete_gone(self, source: Source, owned: frozenset[str]) -> None:
        here = {found.id for found in source.files}
        gone = sorted(id for id in owned - here if not id.startswith(source.unseen or ("\x00",)))
        self.deleted.update(gone)
        if gone and self.dry_run:
            self.removed = (self.removed or Removed()) + self.remover.held(gone)
        elif gone:
            self.on_progress(Progress(stage="delete", done=0, total=len(gone)))
            self.removed = (self.removed or Removed()) + self.remover.remove_all(gone)
            self.known = known_documents(self.database)

    def _note_groups(self, id: str, metadata: Metadata) -> None:
        if metadata.groups is None:
            self.adminonly.append(id)

    def _groups_warning(self) -> list[str]:
        if not self.adminonly:
            return []
        few = ", ".join(sorted(self.adminonly)[:3]) + (", ..." if len(self.adminonly) > 3 else "")
        return [
            f"{len(self.adminonly)} documents name no groups, so only admins can read them ({few}). "
            f"Write `groups: [everyone]` into {FOLDER_FILE} in the folder, or run again with --groups everyone."
        ]


def _document(file: Pending, prepared: Prepared) -> ParsedDocument:
    reading = prepared.reading
    return ParsedDocument(
        id=file.id,
        path=file.id,
        text=reading.text,
        blocks=reading.blocks,
        metadata=file.metadata.model_copy(update={"title": file.metadata.title or reading.title}),
        content_hash=reading.content_hash,
        source_hash=file.source_hash,
        warnings=reading.warnings,
    )
