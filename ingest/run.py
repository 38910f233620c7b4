"""The way in: paths, uploads and deletions, one at a time, each recorded with its report."""

import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ingest.lock import exclusive
from ingest.publish import Publisher
from ingest.removal import Remover
from ingest.repair import Repair
from ingest.report import DeletionReport, IngestReport
from ingest.sandbox import Sandbox
from ingest.source import locate, upload_id
from ingest.sync import OnProgress, Sync
from tandem.database import Database
from tandem.embedder import Embedder
from tandem.schemas import Metadata
from tandem.settings import Settings
from tandem.sparse import SparseEncoder
from tandem.tables import AuditRow, IngestRunRow
from tandem.vectors import VectorIndex


class Ingestor:
    """Ingests documents. One run at a time for each data directory; questions are answered meanwhile.

    Args:
        database: Migrated state database.
        index: Open index.
        embedder: For texts never seen before.
        sparse: For keyword vectors.
        settings: Limits, splitting, the data directory.
        sandbox: A running one to share; it is then not closed here.
        publisher, remover: Others than the usual ones, for tests that force faults.
    """

    def __init__(
        self,
        database: Database,
        index: VectorIndex,
        embedder: Embedder,
        sparse: SparseEncoder,
        settings: Settings,
        *,
        sandbox: Sandbox | None = None,
        publisher: Publisher | None = None,
        remover: Remover | None = None,
    ) -> None:
        self._database = database
        self._index = index
        self._settings = settings
        self._sandbox = sandbox or Sandbox(settings.ingest)
        self._owns_sandbox = sandbox is None
        self._publisher = publisher or Publisher(database, index, embedder, sparse)
        self._remover = remover or Remover(database, index)
        self._model_id = embedder.model_id

    def ingest(
        self,
        paths: Sequence[Path],
        *,
        dry_run: bool = False,
        groups: tuple[str, ...] | None = None,
        on_progress: OnProgress | None = None,
        user: str = "",
        run_id: str | None = None,
    ) -> IngestReport:
        """Syncs folders and adds or updates files.

        Args:
            paths: Each folder is synced whole: what is gone from it is deleted.
            dry_run: Only say what would happen.
            groups: Groups of documents that name none; None takes the setting.
            on_progress: Called in this thread.
            user: For the audit log.
            run_id: What the run is to be called; drawn afresh when None.

        Returns:
            What was done; documents that were refused stand in `failed` and do not stop the run.

        Raises:
            InputError: A path does not exist or holds no documents; nothing was done.
            Busy: Another ingest has not ended in time.
            Unavailable: Database or index failed; what was published stays, the next run goes on.
        """
        settings = self._settings.ingest
        run_id = run_id or str(uuid.uuid4())
        with self._alone(f"run {run_id[:8]}"):
            for path in paths:  # all are looked at before the first is touched
                locate(path, ())
            run = self._sync(settings.default_groups if groups is None else groups, dry_run, on_progress)
            run.id = run_id

            def work() -> None:
                for path in paths:
                    run.sync(path)

            return self._recorded(run, [str(path) for path in paths], user, work)

    def ingest_upload(
        self, name: str, data: bytes, metadata: Metadata | None = None, *, user: str = ""
    ) -> IngestReport:
        """Adds or updates one document that comes as bytes.

        Args:
            name: Its id; the ending decides the format.
            data: Its content.
            metadata: What is declared about it besides its front matter.

        Raises:
            InputError: The name cannot be an id.
            Busy, Unavailable: As for `ingest`.
        """
        id = upload_id(name)
        declared = metadata.model_dump(exclude_defaults=True) if metadata else {}
        with self._alone("an upload"):
            run = self._sync(self._settings.ingest.default_groups, False, None)
            return self._recorded(run, [id], user, lambda: run.add(id, data, declared))

    def delete(self, document_id: str, *, user: str = "") -> DeletionReport:
        """Deletes a document, all its versions and what was made from them.

        Raises:
            NotFound: There is no such document.
            Busy, Unavailable: As for `ingest`.
        """
        with self._alone("a deletion"):
            report = self._remover.remove(document_id)
            self._audit(user, "delete", document_id, report.model_dump(mode="json"))
            return report

    def repair(self) -> None:
        """Finishes or undoes what a crash left half-done; `ingest` does so itself."""
        with self._alone("a repair"):
            self._repair()

    def close(self) -> None:
        """Ends the parsing process."""
        if self._owns_sandbox:
            self._sandbox.close()

    def _alone(self, work: str) -> contextlib.AbstractContextManager[None]:
        return exclusive(self._settings.data_dir, self._settings.ingest.lock_timeout, self._database, work=work)

    def _sync(self, groups: tuple[str, ...] | None, dry_run: bool, on_progress: OnProgress | None) -> Sync:
        return Sync(
            self._database,
            self._sandbox,
            self._publisher,
            self._remover,
            self._settings,
            self._model_id,
            groups,
            dry_run,
            on_progress or (lambda progress: None),
        )

    def _repair(self) -> None:
        Repair(self._database, self._index, self._publisher, self._remover).run()

    def _recorded(self, run: Sync, paths: list[str], user: str, work: Callable[[], object]) -> IngestReport:
        """Runs `work` with its row in the database, from the first moment to the report."""
        started = time.monotonic()
        if run.dry_run:
            run.begin()
            work()
            return run.report(time.monotonic() - started)
        self._repair()
        with self._database.session() as session:
            session.add(IngestRunRow(id=run.id, state="running", paths=paths, started_at=datetime.now(UTC)))
        report: IngestReport | None = None
        try:
            run.begin()
            work()
            self._publisher.prune(self._settings.ingest.keep_versions)
            report = run.report(time.monotonic() - started)
        finally:
            with self._database.session() as session:
                row = session.get_one(IngestRunRow, run.id)
                row.state = "done" if report else "failed"
                row.report = report.model_dump(mode="json") if report else None
                row.finished_at = datetime.now(UTC)
        self._audit(user, "ingest", run.id, {"paths": paths})
        return report

    def _audit(self, user: str, action: str, subject: str, detail: dict[str, object]) -> None:
        with self._database.session() as session:
            row = AuditRow(user=user, action=action, subject=subject, detail=detail, created_at=datetime.now(UTC))
            session.add(row)
