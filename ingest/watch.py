"""Keeps folders ingested while they change."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch
from watchfiles.main import FileChange

from ingest.metadata import FOLDER_FILE, SIDECAR_ENDING
from ingest.report import IngestReport
from ingest.run import Ingestor
from ingest.source import is_document
from tandem.errors import TandemError

log = logging.getLogger(__name__)
# Editors save in several steps, and copying a folder takes a while: wait until it is quiet.
DEBOUNCE_MS = 1_600
# Seconds before a failed run is tried again: at first, and in the end.
RETRY = (1.0, 60.0)
_TICK_MS = 500


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
    retry: tuple[float, float] = RETRY,
) -> None:
    """Ingests `paths`, then again whenever something in them changed, until `stop` is set.

    The first run catches up with what changed while nobody watched. A run that fails is logged and tried again, at
    once when something changes, and otherwise after a pause that doubles each time; the watch goes on.

    Args:
        ingestor: Does the runs, in a thread.
        paths: Folders or files; one that goes away is waited for.
        stop: Ends the watch; a run in progress is finished.
        groups: As for `Ingestor.ingest`.
        on_report: Called after each run, on the event loop.
        debounce_ms: Milliseconds of quiet before a run.
        retry: Seconds before a failed run is tried again: the first time, and at most.
    """
    pause, due = retry[0], 0.0
    while not stop.is_set():
        watched = _identities(paths)
        # Watching starts before the run, so that nothing which changes during it is missed.
        async for found in _changes([path for path in paths if watched[path]], stop, debounce_ms):
            if _identities(paths) != watched:  # one was replaced, and what is watched is the old one: look anew
                due = 0.0
                break
            if not found and time.monotonic() < due:
                continue
            try:
                report = await asyncio.to_thread(ingestor.ingest, paths, groups=groups)
            except Exception as exc:
                _tell(exc, pause)
                due, pause = time.monotonic() + pause, min(2 * pause, retry[1])
                continue
            pause, due = retry[0], math.inf
            on_report(report)


async def _changes(paths: Sequence[Path], stop: asyncio.Event, debounce_ms: int) -> AsyncIterator[set[FileChange]]:
    """What changed, gathered until it is quiet; an empty set about twice a second when nothing did."""
    if not paths:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _TICK_MS / 1000)
        yield set()
        return
    async for found in awatch(
        *paths,
        watch_filter=_Documents(),
        stop_event=stop,
        debounce=debounce_ms,
        step=min(50, debounce_ms),
        yield_on_timeout=True,
        rust_timeout=_TICK_MS,
    ):
        yield found


def _identities(paths: Sequence[Path]) -> dict[Path, tuple[int, int] | None]:
    """Which folder or file each path is now: an editor saves by putting another file in its place."""
    found: dict[Path, tuple[int, int] | None] = {}
    for path in paths:
        try:
            status = path.stat()
            found[path] = (status.st_dev, status.st_ino)
        except OSError:
            found[path] = None
    return found


def _tell(exc: Exception, pause: float) -> None:
    if isinstance(exc, TandemError):
        log.error("The watched folders could not be ingested: %s It is tried again in %g s.", exc.message, pause)
    else:
        log.error("The watched folders could not be ingested; it is tried again in %g s.", pause, exc_info=exc)
