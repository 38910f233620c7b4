"""Ingest runs of a serving process: one at a time in a worker thread, followed by their id."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel
from sqlalchemy import select

from ingest.report import PROGRESS, DeletionReport, IngestReport, Progress
from tandem.database import Database
from tandem.errors import Busy, NotFound, TandemError
from tandem.schemas import Metadata
from tandem.tables import IngestRunRow, utc

if TYPE_CHECKING:  # the chat service reads runs without the parsers installed
    from ingest.run import Ingestor

log = logging.getLogger(__name__)
T = TypeVar("T")
KEPT = 50  # finished runs held in memory, for the dry ones, which leave no row
LOOK_EVERY = 0.25  # seconds between two looks at a run that is followed


class Run(BaseModel):
    """An ingest run.

    Attributes:
        report: What it did, once it is done.
        message: Why it failed, once it has.
        progress: Where it is, while it runs; for a run of another process as of a second ago.
    """

    id: str
    state: Literal["running", "done", "failed"]
    paths: list[str]
    report: dict[str, Any] | None = None
    message: str | None = None
    progress: Progress | None = None
    started_at: datetime
    finished_at: datetime | None = None


class RunLog:
    """The runs in the state database, of all processes; the ingestor writes them. Blocking."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(self, limit: int) -> list[Run]:
        """The newest runs first."""
        with self._database.session() as session:
            rows = session.scalars(select(IngestRunRow).order_by(IngestRunRow.started_at.desc()).limit(limit)).all()
        return [_run(row) for row in rows]

    def get(self, run_id: str) -> Run:
        """One run.

        Raises:
            NotFound: There is none by that id.
        """
        with self._database.session() as session:
            row = session.get(IngestRunRow, run_id)
        if row is None:
            raise NotFound(f"There is no ingest run {run_id[:64]!r}.", param="run_id")
        return _run(row)

    def explain(self, run_id: str, message: str) -> None:
        """Keeps why a run failed, where it got as far as having a row."""
        with self._database.session() as session:
            row = session.get(IngestRunRow, run_id)
            if row is not None:
                row.report = {"error": message}


async def follow(look: Callable[[], Awaitable[Run]], every: float = LOOK_EVERY) -> AsyncIterator[Run]:
    """A run whenever it has got on, and a last time when it has ended.

    Args:
        look: Gives the run as it is now.
        every: Seconds between two looks.
    """
    said: Run | None = None
    while said is None or said.state == "running":
        run = await look()
        if run != said:
            said = run
            yield run
        if run.state == "running":
            await asyncio.sleep(every)


class IngestRuns:
    """Runs the ingestor off the event loop.

    Args:
        database: The state database.
        ingestor: What does the work.
    """

    def __init__(self, database: Database, ingestor: "Ingestor") -> None:
        self._log = RunLog(database)
        self._ingestor = ingestor
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ingest")
        self._what: str | None = None
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(
        self, paths: Sequence[Path], user: str, *, dry_run: bool = False, groups: tuple[str, ...] | None = None
    ) -> Run:
        """Starts a run in the background.

        Args:
            paths: Folders and files to sync.
            user: Who asked for it.
            dry_run: Only say what would change.
            groups: Groups of documents that name none.

        Raises:
            Busy: Another one is going on here.
        """
        shown = [str(path) for path in paths]
        self._claim(f"an ingest of {', '.join(shown)}")
        run = Run(id=str(uuid.uuid4()), state="running", paths=shown, started_at=datetime.now(UTC))
        self._runs[run.id] = run
        self._tasks[run.id] = asyncio.create_task(
            self._run(run.id, list(paths), user, dry_run, groups), name=f"ingest {run.id}"
        )
        return run

    async def wait(self, run_id: str) -> Run:
        """Waits for a run of this process to end. The run goes on when the caller stops waiting."""
        task = self._tasks.get(run_id)
        if task is not None:
            await asyncio.shield(task)
        return await self.get(run_id)

    async def get(self, run_id: str) -> Run:
        """One run, of this process or of another.

        Raises:
            NotFound: There is none by that id.
        """
        run = self._runs.get(run_id)
        return run if run is not None else await asyncio.to_thread(self._log.get, run_id)

    async def latest(self, limit: int) -> list[Run]:
        """The newest runs first; those of this process with their progress."""
        runs = {run.id: run for run in await asyncio.to_thread(self._log.latest, limit)} | self._runs
        return sorted(runs.values(), key=lambda run: run.started_at, reverse=True)[:limit]

    async def upload(self, name: str, data: bytes, metadata: Metadata | None, user: str) -> IngestReport:
        """Ingests one document from memory.

        Raises:
            Busy: A run is going on here.
            InputError: The name cannot be a document's.
        """
        return await self._alone(
            f"an upload of {name}", lambda: self._ingestor.ingest_upload(name, data, metadata, user=user)
        )

    async def delete(self, document_id: str, user: str) -> DeletionReport:
        """Deletes a document everywhere.

        Raises:
            Busy: A run is going on here.
            NotFound: There is no such document.
        """
        return await self._alone(
            f"the deletion of {document_id}", lambda: self._ingestor.delete(document_id, user=user)
        )

    async def close(self) -> None:
        """Waits for the work under way: a run that is cut off is repaired by the next one, but need not be."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.to_thread(self._worker.shutdown)

    async def _run(
        self, run_id: str, paths: list[Path], user: str, dry_run: bool, groups: tuple[str, ...] | None
    ) -> None:
        def progressed(progress: Progress) -> None:  # in the worker thread; replacing an item is atomic
            self._note(run_id, progress=progress)

        def work() -> IngestReport:
            return self._ingestor.ingest(
                paths, dry_run=dry_run, groups=groups, on_progress=progressed, user=user, run_id=run_id
            )

        try:
            report = await self._in_worker(work)
            self._note(run_id, state="done", report=report.model_dump(mode="json"))
        except TandemError as exc:
            await self._failed(run_id, exc.message)
        except Exception:
            log.exception("the ingest run %s failed", run_id)
            await self._failed(run_id, f"It failed unexpectedly; the log has the details under {run_id}.")
        finally:
            self._note(run_id, progress=None, finished_at=datetime.now(UTC))
            self._what = None
            del self._tasks[run_id]
            for old in list(self._runs)[:-KEPT]:
                del self._runs[old]

    async def _failed(self, run_id: str, message: str) -> None:
        self._note(run_id, state="failed", message=message)
        try:
            await asyncio.to_thread(self._log.explain, run_id, message)
        except TandemError as exc:
            log.warning("the reason of the failed run %s was not kept: %s", run_id, exc.message)

    def _note(self, run_id: str, **changes: Any) -> None:
        self._runs[run_id] = self._runs[run_id].model_copy(update=changes)

    async def _alone(self, what: str, work: Callable[[], T]) -> T:
        self._claim(what)
        # A caller who goes away does not stop the worker, so the claim must outlive the caller.
        task = asyncio.ensure_future(self._in_worker(work))
        task.add_done_callback(self._release)
        return await asyncio.shield(task)

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _claim(self, what: str) -> None:
        if self._what is not None:
            raise Busy(f"{self._what[0].upper()}{self._what[1:200]} is going on: try again when it has ended.")
        self._what = what

    def _release(self, task: "asyncio.Future[Any]") -> None:
        self._what = None
        if not task.cancelled():
            task.exception()  # told to the caller; a caller who is gone must not leave a warning behind


def _run(row: IngestRunRow) -> Run:
    report = row.report or {}
    message = report.get("error") if row.state == "failed" else None
    progress = report.get(PROGRESS) if row.state == "running" else None
    return Run(
        id=row.id,
        state="failed" if row.state == "failed" else "done" if row.state == "done" else "running",
        paths=row.paths,
        report=report if row.state == "done" and report else None,
        message=message or ("It was interrupted." if row.state == "failed" else None),
        progress=Progress.model_validate(progress) if progress else None,
        started_at=utc(row.started_at),
        finished_at=utc(row.finished_at) if row.finished_at else None,
    )
