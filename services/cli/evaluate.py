"""`tandem eval` and `tandem diagnose`: what the arms are worth, and which half is at fault for a bad answer."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from services.cli.options import AsJson, DataDir, err, out, show, target
from tandem.errors import InputError
from tandem.schemas import ARMS, Arm
from tandem.settings import REPOSITORY

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
    from eval.library import load_library
    from eval.page import write_html
    from eval.report import build_report, render_table
    from eval.suite import load_suites
    from services.cli.evaluation import ask, state_database

    place = target(data_dir)
    paths = suite or [SUITE]
    cases = load_suites(paths)
    outcomes = asyncio.run(ask(place, cases, _arms(arms), concurrency))
    with state_database(place) as database:
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
    from eval.diagnose import diagnose_suite
    from eval.library import load_library
    from eval.suite import load_suites
    from services.cli.evaluation import ask, diagnose_receipts, state_database

    place = target(data_dir)
    if suite and answer_ids:
        raise InputError("Name answers or a suite, not both.")
    if suite:
        outcomes = asyncio.run(ask(place, load_suites([suite]), ARMS))
        with state_database(place) as database:
            rows = diagnose_suite(outcomes, load_library(database))
    else:
        rows = asyncio.run(diagnose_receipts(place, answer_ids or ()))

    def table(found: list[dict[str, Any]]) -> None:
        if not found:
            out.print("No answer was rated down, so there is nothing to diagnose. Name one: tandem diagnose ANSWER_ID")
            return
        grid = Table("answer", "label", "evidence", "whose", "what to do")
        for row in found:
            grid.add_row(row["subject"], row["label"], row["evidence"], row["owner"], row["action"])
        out.print(grid)

    show([row.model_dump(mode="json") for row in rows], as_json, table)


def _arms(text: str) -> tuple[Arm, ...]:
    known: dict[str, Arm] = {arm: arm for arm in ARMS}
    chosen: list[Arm] = []
    for name in (part.strip() for part in text.split(",")):
        if name not in known:
            raise InputError(f"There is no arm {name!r}. The arms are {', '.join(ARMS)}.")
        chosen.append(known[name])
    return tuple(chosen)
