"""Keeps folders ingested while they change."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from ingest.metadata import FOLDER_FILE, SIDECAR_ENDING
from ingest.report import IngestReport
from ingest.run import Ingestor
from ingest.source import is_document
from tandem.errors import TandemError

log = logging.getLogger(__name__)
# Editors save in several steps, and copying a folder takes a while: wait until it is quiet.
DEBOUNCE_MS = 1_600


class _Documents(DefaultFilter):
    """Documents and their metadata; no lock files, no hidden ones."""

    def __call__(self, change: Change, path: str) -> bool:
        name = Path(path).name
        meant = is_document(name) or name == FOLDER_FILE or name.endswith(SIDECAR_ENDING)
        return meant and super().__call__(change, path)


async def watch(
    ingestor: Ingestor,
    paths: Sequence[Path],
    stop: asyncio.Event,
    *,
    groups: tuple[str, ...] | None = None,
    on_report: Callable[[IngestReport], None] = lambda report: None,
    debounce_ms: int = DEBOUNCE_MS,
) -> None:
    """Ingests `paths`, then again whenever something in them changed, until `stop` is set.

    The first run catches up with what changed while nobody watched. A run that fails is logged, and the next change
    tries again.

    Args:
        ingestor: Does the runs, in a thread.
        paths: Folders or files; they must exist.
        stop: Ends the watch; a run in progress is finished.
        groups: As for `Ingestor.ingest`.
        on_report: Called after each run, on the event loop.
        debounce_ms: Milliseconds of quiet before a run.
    """
    # Watching starts before the first run, so that nothing which changes during it is missed.
    changes = awatch(
        *paths,
        watch_filter=_Documents(),
        stop_event=stop,
        debounce=debounce_ms,
        step=50,
        yield_on_timeout=True,
        rust_timeout=500,
    )
    pending = True
    async for found in changes:
        if not (pending or found):
            continue
        try:
            report = await asyncio.to_thread(ingestor.ingest, paths, groups=groups)
        except TandemError as exc:
            log.error("The watched folders could not be ingested: %s", exc.message)
            # Unavailable or busy: try again at the next tick, even if nothing changes.
            pending = getattr(exc, "retry_after", None) is not None
            continue
        pending = False
        on_report(report)
