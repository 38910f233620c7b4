"""The way in: paths, uploads and deletions, one at a time, each recorded with its report."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ingest.contradictions import find_contradictions
from ingest.engine import Engine, open_engine
from ingest.lock import exclusive
from ingest.progress import OnProgress, ProgressLog
from ingest.publish import Publisher
from ingest.reindex import Reindex
from ingest.removal import Remover
from ingest.repair import Repair
from ingest.report import DeletionReport, IngestReport, ReindexReport
from ingest.source import locate, outermost, upload_id
from ingest.splitter import recipe
from ingest.sync import Sync
from ingest.writer import Writer
from tandem.database import Database
from tandem.generations import Generation, Generations, Recipe
from tandem.schemas import Metadata
from tandem.settings import Settings
from tandem.sparse import SparseEncoder
from tandem.tables import AuditRow, IngestRunRow


def _silent(progress: object) -> None:
    """Nobody watches."""


class Ingestor:
    """Ingests documents. One run at a time for each data directory; questions are answered meanwhile.

    Args:
        database: Migrated state database.
        generations: The index; the first run makes its first generation.
        sparse: For keyword vectors.
        settings: Limits, splitting, the data directory.
        engine: Where documents are read, split and embedded; the one the settings name when None. One that is given
            is not closed here.
        publisher, remover: Others than the usual ones, for tests that force faults.
    """

    def __init__(
        self,
        database: Database,
        generations: Generations,
        sparse: SparseEncoder,
        settings: Settings,
        *,
        engine: Engine | None = None,
        publisher: type[Publisher] = Publisher,
        remover: type[Remover] = Remover,
    ) -> None:
        self._database = database
        self._generations = generations
        self._sparse = sparse
        self._settings = settings
        self._engine: Engine = engine or open_engine(settings)
        self._owns_engine = engine is None
        self._publisher = publisher
        self._remover = remover(database, generations)
        self._wanted = Recipe(generations.embedder.model_id, recipe(settings.splitter))

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
        """Syncs folders and adds or updates files; then rebuilds the index if the settings ask for another.

        Args:
            paths: Each folder is synced whole: what is gone from it is deleted. None at all: only the index is seen to.
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
            roots = outermost(paths)
            progress = ProgressLog(self._database, run_id, on_progress)
            run = self._sync(run_id, settings.default_groups if groups is None else groups, dry_run, progress)

            def work() -> None:
                for path in roots:
                    run.sync(path)

            report = self._recorded(run, [str(path) for path in paths], user, work)
        rebuilt = None if dry_run else self.reindex(on_progress=on_progress, user=user)
        return report if rebuilt is None else _with_reindex(report, rebuilt)

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
            run = self._sync(str(uuid.uuid4()), self._settings.ingest.default_groups)
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
            live = self._generations.start(self._wanted)
            self._repair(live, self._publisher(self._database, self._writer(live)))

    def reindex(self, *, on_progress: OnProgress | None = None, user: str = "") -> ReindexReport | None:
        """Builds the generation that the settings ask for beside the live one, and lets it take over.

        Other ingests take turns with it, questions are answered all the time, and a build that was interrupted goes on
        where it stopped.

        Returns:
            What was done; None when the live generation is the one that the settings ask for.

        Raises:
            Busy, Unavailable: As for `ingest`; the live generation goes on answering.
        """
        if not self.outdated:
            return None
        told = on_progress or _silent
        build = Reindex(self._database, self._generations, self._wanted, self._turn, told)
        report = build.run(lambda generation: self._writer(generation, told))
        self._audit(user, "reindex", report.generation, report.model_dump(mode="json"))
        return report

    @property
    def outdated(self) -> bool:
        """Whether the settings ask for another embedding model or splitter than the index was made by."""
        return self._generations.recipe() not in (None, self._wanted)

    def close(self) -> None:
        """Ends the parsing process."""
        if self._owns_engine:
            self._engine.close()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """The ingest lock for one step of a build, with all repaired."""
        with self._alone("a rebuild of the index"):
            live = self._generations.start(self._wanted)
            self._repair(live, self._publisher(self._database, self._writer(live)))
            yield

    def _alone(self, work: str) -> contextlib.AbstractContextManager[None]:
        return exclusive(self._settings.data_dir, self._settings.ingest.lock_timeout, self._database, work=work)

    def _writer(self, generation: Generation, on_progress: OnProgress = _silent) -> Writer:
        return Writer(self._database, generation, self._sparse, self._engine, on_progress)

    def _sync(
        self, id: str, groups: tuple[str, ...] | None, dry_run: bool = False, on_progress: OnProgress = _silent
    ) -> Sync:
        generations = self._generations
        live = generations.planned(self._wanted) if dry_run else generations.start(self._wanted)
        writer = self._writer(live, on_progress)
        publisher = self._publisher(self._database, writer)
        return Sync(
            id,
            self._database,
            self._engine,
            writer,
            publisher,
            self._remover,
            self._settings,
            groups,
            dry_run,
            on_progress,
        )

    def _repair(self, live: Generation, publisher: Publisher) -> None:
        Repair(self._database, self._generations, live, publisher, self._remover).run()

    def _recorded(self, run: Sync, paths: list[str], user: str, work: Callable[[], object]) -> IngestReport:
        """Runs `work` with its row in the database, from the first moment to the report."""
        started = time.monotonic()
        if run.dry_run:
            run.begin()
            work()
            return run.report(time.monotonic() - started)
        self._repair(run.writer.generation, run.publisher)
        with self._database.session() as session:
            session.add(IngestRunRow(id=run.id, state="running", paths=paths, started_at=datetime.now(UTC)))
        report: IngestReport | None = None
        try:
            run.begin()
            work()
            settings = self._settings.ingest
            run.publisher.prune(settings.keep_versions, run.today, settings.keep_days)
            run.contradictions = find_contradictions(
                self._database, run.writer.generation.id, run.added | run.updated, run.today
            )
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


def _with_reindex(report: IngestReport, rebuilt: ReindexReport) -> IngestReport:
    sentence = (
        f"The index was built anew for {rebuilt.model_id}: {rebuilt.versions} versions, {rebuilt.chunks_embedded} "
        f"passages embedded, {rebuilt.chunks_reused} reused."
    )
    return report.model_copy(
        update={
            "chunks_embedded": report.chunks_embedded + rebuilt.chunks_embedded,
            "seconds": round(report.seconds + rebuilt.seconds, 3),
            "warnings": (*report.warnings, sentence),
        }
    )
