"""`tandem eval` and `tandem diagnose`: what the arms are worth, and which half is at fault for a bad answer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from eval.arms import Answering, run_suite
from eval.diagnose import Diagnosis, diagnose_suite
from eval.library import load_library
from eval.outcome import Outcome
from eval.page import write_html
from eval.receipts import load_receipts
from eval.replay import diagnose_receipt
from eval.report import build_report, render_table
from eval.suite import Case, load_suites
from services.cli.options import AsJson, DataDir, Target, err, out, show, target
from services.cli.remote_assistant import RemoteAssistant
from services.embedded import prepare_data_dir
from services.model.server import ModelServer
from services.model.weights import ensure_models
from tandem.bootstrap import bootstrap
from tandem.database import Database
from tandem.errors import InputError
from tandem.registry import Registry
from tandem.schemas import ARMS, Arm
from tandem.settings import REPOSITORY
from tandem.style import load_style

SUITE = REPOSITORY / "samples" / "suites" / "v2.jsonl"


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)
    app.command("diagnose")(diagnose)


def evaluate(
    suite: Annotated[
        list[Path] | None, typer.Option("--suite", help="Suites, JSON Lines. Default: the sample corpus's.")
    ] = None,
    arms: Annotated[str, typer.Option(help="Arms, separated by commas.")] = ",".join(ARMS),
    concurrency: Annotated[int, typer.Option(min=1, max=32, help="Questions at once; above 1 latencies blur.")] = 1,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML file.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask a suite in the four arms: correctness, citations, declining, style, latency."""
    place = target(data_dir)
    paths = suite or [SUITE]
    cases = load_suites(paths)
    outcomes = asyncio.run(_ask(place, cases, _arms(arms), concurrency))
    with _database(place) as database:
        report = build_report(outcomes, suites=[path.name for path in paths], library=load_library(database))
    if html:
        write_html(report, html)
        err.print(f"The report is in {html}.", markup=False)

    def table(_: Any) -> None:
        out.print(render_table(report))

    show(report.model_dump(mode="json"), as_json, table)
    if report.errors:
        raise typer.Exit(1)


def diagnose(
    answer_ids: Annotated[
        list[str] | None, typer.Argument(help="Receipts; without any, the latest rated down.")
    ] = None,
    suite: Annotated[Path | None, typer.Option("--suite", help="Diagnose the answers to a suite instead.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say of each bad answer whether the documents, the retrieval or the adapter is at fault, and what to do."""
    place = target(data_dir)
    if suite and answer_ids:
        raise InputError("Name answers or a suite, not both.")
    if suite:
        outcomes = asyncio.run(_ask(place, load_suites([suite]), ARMS))
        with _database(place) as database:
            rows = diagnose_suite(outcomes, load_library(database))
    else:
        rows = asyncio.run(_diagnose_receipts(place, answer_ids or ()))

    def table(found: list[dict[str, Any]]) -> None:
        if not found:
            out.print("No answer was rated down, so there is nothing to diagnose. Name one: tandem diagnose ANSWER_ID")
            return
        grid = Table("answer", "label", "evidence", "whose", "what to do")
        for row in found:
            grid.add_row(row["subject"], row["label"], row["evidence"], row["owner"], row["action"])
        out.print(grid)

    show([row.model_dump(mode="json") for row in rows], as_json, table)


async def _ask(place: Target, cases: Sequence[Case], arms: Sequence[Arm], concurrency: int = 1) -> list[Outcome]:
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


async def _diagnose_receipts(place: Target, answer_ids: Sequence[str]) -> list[Diagnosis]:
    with _database(place) as database:
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
    model = ModelServer(settings, weights.base, Registry(settings.registry))
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


class _database:
    """The state database, opened beside a running server: it takes several readers."""

    def __init__(self, place: Target) -> None:
        self._database = Database(place.settings.database)

    def __enter__(self) -> Database:
        self._database.migrate()
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()


def _arms(text: str) -> tuple[Arm, ...]:
    known: dict[str, Arm] = {arm: arm for arm in ARMS}
    chosen: list[Arm] = []
    for name in (part.strip() for part in text.split(",")):
        if name not in known:
            raise InputError(f"There is no arm {name!r}. The arms are {', '.join(ARMS)}.")
        chosen.append(known[name])
    return tuple(chosen)
