"""`tandem up`: API, page, ingestion and trainer in one process, beside its vLLM child."""

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ingest.run import Ingestor
from ingest.watch import watch
from services.address import announced
from services.chat.app import create_app
from services.chat.auth import LocalOnly
from services.chat.canary_watch import CanaryWatch
from services.chat.library import Library
from services.http import check_port, listening, stop_on_signals
from services.ingest.runs import IngestRuns
from services.model.server import ModelServer
from services.model.weights import ensure_models
from services.trainer.service import Trainer
from tandem.bootstrap import Container, bootstrap
from tandem.errors import SettingsError, Unavailable
from tandem.registry import Registry
from tandem.schemas import OPERATOR
from tandem.settings import Settings

log = logging.getLogger(__name__)

NOWHERE = (
    "http://127.0.0.1:9/v1"  # the discard port: with --no-model every completion fails at once, and passages are shown
)


def prepare_data_dir(settings: Settings) -> None:
    """Makes the data directory, for this user alone, and puts the shipped adapter into an empty registry."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        settings.data_dir.chmod(0o700)
    except OSError as exc:
        raise SettingsError(
            f"The data directory {str(settings.data_dir)!r} cannot be used: {exc.strerror}. "
            "Name another with --data-dir or TANDEM_DATA_DIR."
        ) from exc
    seed_registry(settings)


def seed_registry(settings: Settings) -> None:
    """Puts the shipped adapter into a registry that has none of its name yet."""
    if settings.adapter.shipped is None:
        return
    shipped, home = settings.adapter.shipped / settings.adapter.name, settings.registry / settings.adapter.name
    if home.exists() or not (shipped / "active").is_file():
        return
    partial = settings.registry / f".{settings.adapter.name}.{os.getpid()}.partial"
    try:
        settings.registry.mkdir(parents=True, exist_ok=True)
        shutil.copytree(shipped, partial)
    except OSError as exc:
        shutil.rmtree(partial, ignore_errors=True)
        why = exc.args[0][0][2] if isinstance(exc, shutil.Error) else exc.strerror
        raise Unavailable(
            f"The shipped adapter cannot be copied into {str(settings.registry)!r}: {why}. "
            "Make room on the disk, or name another directory with --data-dir or TANDEM_DATA_DIR."
        ) from exc
    try:
        partial.rename(home)
    except OSError:  # another process was quicker, with the same content
        shutil.rmtree(partial)


class Embedded:
    """Everything in one process.

    Args:
        settings: The configuration.
        with_model: Start vLLM as a child, unless `settings.model` names an endpoint.
        say: Told one line at a time what is happening.
        first_documents: A folder to ingest when there are no documents yet.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        with_model: bool,
        say: Callable[[str], None],
        first_documents: Path | None = None,
    ) -> None:
        self._settings = settings
        self._first_documents = first_documents
        self._with_model = with_model and not settings.model.endpoints
        self._say = say

    async def run(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Serves until SIGINT or SIGTERM, then ends the children too.

        Args:
            on_ready: Called with the address once the model has answered (or straight away without a model).
        """
        settings = self._settings
        if not settings.auth.api_keys:
            LocalOnly(settings)  # refuses to make strangers admins, before anything slow is started
        check_port(settings.server)
        prepare_data_dir(settings)
        stop = stop_on_signals()
        async with contextlib.AsyncExitStack() as stack:
            weights = await asyncio.to_thread(ensure_models, settings, base=self._with_model)
            model = None
            if self._with_model:
                model = ModelServer(settings, weights.base, Registry.open(settings))
                await model.start()
                stack.push_async_callback(model.stop)
                self._say("Starting vLLM (about half a minute) ...")
            url = model.url if model else settings.model.endpoints or NOWHERE
            container = await asyncio.to_thread(bootstrap, settings, model_url=url)
            stack.push_async_callback(container.aclose)
            await self._serve(stack, container, model, stop, on_ready)

    async def _serve(
        self,
        stack: contextlib.AsyncExitStack,
        container: Container,
        model: ModelServer | None,
        stop: asyncio.Event,
        on_ready: Callable[[str], None] | None,
    ) -> None:
        settings = self._settings
        ingestor = Ingestor(container.database, container.generations, container.sparse, settings)
        stack.callback(ingestor.close)
        runs = IngestRuns(container.database, ingestor)
        stack.push_async_callback(runs.close)
        if await asyncio.to_thread(lambda: ingestor.outdated):
            self._say("The index was made by other settings: it is being built anew, and answers meanwhile ...")
            runs.start([], OPERATOR.user)
        trainer = Trainer(settings, container.database)
        app = create_app(container, ingestion=runs)
        watching = CanaryWatch(settings, container.database, container.registry, container.adapters)
        tasks = [
            asyncio.create_task(trainer.run(), name="trainer"),
            asyncio.create_task(watching.run(), name="canary"),
        ]
        if settings.ingest.watch:
            tasks.append(asyncio.create_task(watch(ingestor, settings.ingest.watch, stop), name="watch"))
        stack.push_async_callback(_cancel, tasks)
        await stack.enter_async_context(listening(app, settings.server))
        address = f"http://{settings.server.host}:{settings.server.port}"
        stack.enter_context(announced(settings.data_dir, address))
        if self._first_documents and not Library(container.database).documents(OPERATOR):
            self._say(f"Ingesting {self._first_documents} ...")
            await runs.wait(runs.start([self._first_documents], OPERATOR.user).id)
        if model:
            waiting = asyncio.create_task(model.wait_ready())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if waiting.done():
                waiting.result()
            else:
                waiting.cancel()
        if on_ready and not stop.is_set():
            on_ready(address)
        await stop.wait()
        self._say("Stopping ...")


async def _cancel(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, asyncio.CancelledError):
            log.error("a background task had failed: %s", result)
