"""What `tandem eval` and `tandem diagnose` do, with the running server or with everything started for them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.arms import Answering, run_suite
from eval.diagnose import Diagnosis
from eval.library import load_library
from eval.outcome import Outcome
from eval.receipts import load_receipts
from eval.replay import diagnose_receipt
from eval.suite import Case
from services.cli.options import Target, err
from services.cli.remote_assistant import RemoteAssistant
from services.embedded import prepare_data_dir
from services.model.server import ModelServer
from services.model.weights import ensure_models
from tandem.bootstrap import bootstrap
from tandem.database import Database
from tandem.registry import Registry
from tandem.schemas import Arm
from tandem.style import load_style


async def ask(place: Target, cases: Sequence[Case], arms: Sequence[Arm], concurrency: int = 1) -> list[Outcome]:
    """The outcomes of a suite in some arms, with a progress bar."""
    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("asking", total=len(cases) * len(arms))
        async with _assistant(place) as assistant:
            return await run_suite(
                assistant,
                cases,
                arms,
                style=load_style(place.settings.style),
                concurrency=concurrency,
                on_outcome=lambda _: bar.advance(task),
            )


async def diagnose_receipts(place: Target, answer_ids: Sequence[str]) -> list[Diagnosis]:
    """What was wrong with the answers, by their receipts; without ids, with those rated down last."""
    with state_database(place) as database:
        receipts = load_receipts(database, answer_ids)
        if not receipts:
            return []
        library = load_library(database)
    style = load_style(place.settings.style)
    today = datetime.now(UTC).date()
    async with _assistant(place) as assistant:
        return [await diagnose_receipt(receipt, assistant, library, style=style, today=today) for receipt in receipts]


@asynccontextmanager
async def _assistant(place: Target) -> AsyncIterator[Answering]:
    """The running server, or everything started for the length of the command."""
    if place.server:
        key = place.settings.api_key.get_secret_value() if place.settings.api_key else None
        async with RemoteAssistant(place.server.url, key) as remote:
            yield remote
        return
    settings = place.settings
    prepare_data_dir(settings)
    weights = await asyncio.to_thread(ensure_models, settings)
    err.print("No server is running: starting vLLM for the length of this command ...", style="dim")
    model = ModelServer(settings, weights.base, Registry.open(settings))
    await model.start()
    try:
        container = await asyncio.to_thread(bootstrap, settings, model_url=model.url)
        try:
            await model.wait_ready()
            yield container.assistant
        finally:
            await container.aclose()
    finally:
        await model.stop()


class state_database:
    """The state database, opened beside a running server: it takes several readers."""

    def __init__(self, place: Target) -> None:
        self._database = Database(place.settings.database)

    def __enter__(self) -> Database:
        self._database.migrate()
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()
