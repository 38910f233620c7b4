"""`python -m services.ingest`: keeps the watched folders ingested, and says over HTTP that it does."""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel

from ingest.report import IngestReport
from ingest.run import Ingestor
from ingest.watch import watch
from services.http import listening, stop_on_signals
from tandem.bootstrap import bootstrap
from tandem.errors import SettingsError, TandemError, Unavailable
from tandem.settings import Settings, load_settings

log = logging.getLogger("services.ingest")

NOWHERE = "http://127.0.0.1:9/v1"  # nothing is asked of the model here


class LastRun(BaseModel):
    """The newest run of this process."""

    run_id: str
    ended_at: datetime
    added: int
    updated: int
    unchanged: int
    deleted: int
    failed: int


class Health(BaseModel):
    """What `/healthz` says: a process that answers watches, because it ends when the watch does."""

    service: str = "tandem-ingest"
    status: str = "ok"
    watching: list[str]
    last_run: LastRun | None = None


class Watcher:
    """Watches folders and remembers the last report.

    Args:
        ingestor: Does the runs.
        folders: What is watched; they exist.
    """

    def __init__(self, ingestor: Ingestor, folders: tuple[Path, ...]) -> None:
        self._ingestor = ingestor
        self._folders = folders
        self._last: LastRun | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Watches until `stop` is set; a run in progress is finished."""
        await watch(self._ingestor, self._folders, stop, on_report=self._note)

    def health(self) -> Health:
        """What is watched, and how the last run went."""
        return Health(watching=[str(folder) for folder in self._folders], last_run=self._last)

    def _note(self, report: IngestReport) -> None:
        lists = ("added", "updated", "unchanged", "deleted", "failed")
        counts = {name: len(getattr(report, name)) for name in lists}
        self._last = LastRun(run_id=report.run_id, ended_at=datetime.now(UTC), **counts)
        log.info("run %s: %s", report.run_id, ", ".join(f"{number} {name}" for name, number in counts.items()))
        for failure in report.failed:
            log.warning("%s was refused (%s): %s", failure.path, failure.reason, failure.message)
        for warning in report.warnings:
            log.warning("%s", warning)


def create_app(watcher: Watcher) -> FastAPI:
    """The HTTP side: `/healthz` alone, for probes."""
    app = FastAPI(title="Tandem ingest", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> Health:
        return watcher.health()

    return app


def watched_folders(settings: Settings) -> tuple[Path, ...]:
    """The folders to watch.

    Raises:
        SettingsError: There are none, or one does not exist.
    """
    if not settings.ingest.watch:
        raise SettingsError(
            "The ingest service has no folder to watch: name one in TANDEM_INGEST__WATCH, as JSON: "
            "'[\"/srv/policies\"]'."
        )
    for folder in settings.ingest.watch:
        if not folder.is_dir():
            raise SettingsError(
                f"The folder {str(folder)!r} (TANDEM_INGEST__WATCH) does not exist: create it or name another."
            )
    return settings.ingest.watch


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Watches and answers probes until `stop` is set.

    Raises:
        TandemError: It cannot start, or the watch has ended by itself.
    """
    folders = watched_folders(settings)
    async with contextlib.AsyncExitStack() as stack:
        container = await asyncio.to_thread(bootstrap, settings, model_url=settings.model.endpoints or NOWHERE)
        stack.push_async_callback(container.aclose)
        ingestor = Ingestor(container.database, container.generations, container.sparse, settings)
        stack.callback(ingestor.close)
        watcher = Watcher(ingestor, folders)
        await stack.enter_async_context(listening(create_app(watcher), settings.server))
        log.info("watching %s", ", ".join(map(str, folders)))
        # A service that answers probes but watches nothing would look well, so it ends with the watch.
        await watcher.run(stop)
        if not stop.is_set():
            raise Unavailable("The watch has ended by itself, without a reason: start the service again.")


async def _until_signalled(settings: Settings) -> None:
    await serve(settings, stop_on_signals())


def main() -> int:
    """Entry point."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings()
        logging.getLogger().setLevel(settings.log_level)
        asyncio.run(_until_signalled(settings))
    except TandemError as exc:
        log.error("%s", exc.message)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
