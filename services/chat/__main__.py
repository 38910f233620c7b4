"""`python -m services.chat`: the chat service as a process of its own, beside Qdrant, the database and the model."""

import asyncio
import contextlib
import logging

from ingest.run import Ingestor
from services.chat.app import create_app
from services.chat.canary_watch import CanaryWatch
from services.http import listening, stop_on_signals
from services.ingest.runs import IngestRuns
from tandem.bootstrap import bootstrap
from tandem.errors import SettingsError, TandemError
from tandem.settings import Settings, load_settings

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM.

    Raises:
        SettingsError: No model endpoint is named.
        Unavailable: A part does not answer, or the port is taken.
    """
    if not settings.model.endpoints:
        raise SettingsError(
            "The chat service needs a model endpoint: set TANDEM_MODEL__URL, such as http://model:8000/v1. "
            "`tandem up` starts a model of its own."
        )
    async with contextlib.AsyncExitStack() as stack:
        container = await asyncio.to_thread(bootstrap, settings, model_url=settings.model.endpoints)
        stack.push_async_callback(container.aclose)
        ingestor = Ingestor(container.database, container.generations, container.sparse, settings)
        stack.callback(ingestor.close)
        runs = IngestRuns(container.database, ingestor)
        stack.push_async_callback(runs.close)
        await stack.enter_async_context(listening(create_app(container, runs), settings.server))
        watch = CanaryWatch(settings, container.database, container.registry, container.adapters)
        watching = asyncio.create_task(watch.run(), name="canary")
        try:
            await stop_on_signals().wait()
        finally:
            watching.cancel()


def main() -> int:
    """Entry point."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings()
        logging.getLogger().setLevel(settings.log_level)
        asyncio.run(serve(settings))
    except TandemError as exc:
        log.error("%s", exc.message)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
