"""`tandem ingest`: documents into the index, once or for as long as it watches."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, Target, err, out, show, target
from services.cli.server import Server
from tandem.errors import InputError, TandemError

if TYPE_CHECKING:  # the commands import what they need, so that `tandem --help` answers at once
    from ingest.report import Progress as Step


def register(app: typer.Typer) -> None:
    app.command("ingest")(ingest)


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Folders (synced whole) and files (added or updated).")],
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and ingest again whenever something changes.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    groups: Annotated[
        str | None, typer.Option(help="Groups of documents that name none, separated by commas, such as everyone.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Where documents are read, split and embedded: local or ray (a cluster).")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ingest documents: only text never seen before is embedded, and files that are gone are deleted."""
    if watch and dry_run:
        raise InputError("--watch and --dry-run do not go together: a dry run looks once. Leave one of them out.")
    # A server takes no paths through links; here the person who names one may go through it.
    absolute = [path.expanduser().resolve() for path in paths]
    names = tuple(name.strip() for name in groups.split(",") if name.strip()) if groups is not None else None
    place = _with_engine(target(data_dir), engine)
    if watch:
        _watch(place, absolute, names, as_json)
        return
    with progress_bar(visible=not as_json and err.is_terminal) as on_progress:
        if place.server:
            report = run_remotely(place.server, absolute, on_progress, dry_run=dry_run, groups=names)
        else:
            from services.cli.local import Local

            with Local(place.settings) as local:
                found = local.ingestor.ingest(absolute, dry_run=dry_run, groups=names, on_progress=on_progress)
            report = found.model_dump(mode="json")
    show(report, as_json, print_report)
    nothing_worked = not any(report[kind] for kind in ("added", "updated", "unchanged", "deleted"))
    if report["failed"] and nothing_worked:
        raise typer.Exit(1)


def _with_engine(place: Target, engine: str | None) -> Target:
    if engine is None:
        return place
    if engine not in ("local", "ray"):
        raise InputError(f"There is no engine {engine!r}: name local or ray.")
    if place.server:
        raise InputError(
            "A server holds this data directory and ingests by its own engine: start it with TANDEM_INGEST__ENGINE="
            f"{engine}, or leave --engine out."
        )
    chosen = place.settings.ingest.model_copy(update={"engine": engine})
    return replace(place, settings=place.settings.model_copy(update={"ingest": chosen}))


def run_remotely(
    server: Server,
    paths: list[Path],
    on_progress: "Callable[[Step], None] | None",
    *,
    dry_run: bool = False,
    groups: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Starts a run on the server and follows its events."""
    from ingest.report import Progress as Step

    for path in paths:
        if not path.exists():
            raise InputError(f"There is nothing at {str(path)!r}. Name a folder or file that exists.")
    body: dict[str, Any] = {"paths": [str(path) for path in paths], "dry_run": dry_run}
    if groups is not None:
        body["groups"] = list(groups)
    run = server.post("/v1/ingest/runs", body)
    for event in server.events(f"/v1/ingest/runs/{run['id']}/events"):
        run = event
        if on_progress and run["progress"]:
            on_progress(Step(**run["progress"]))
    if run["state"] == "running":
        raise TandemError(
            f"The server broke off before the run {run['id']} had ended. Once it is up again, run the ingest again: "
            "what was done need not be done twice."
        )
    if run["state"] != "done":
        raise TandemError(f"The ingest run failed: {run['message']}")
    report: dict[str, Any] = run["report"]
    return report


def _watch(place: Target, paths: list[Path], groups: tuple[str, ...] | None, as_json: bool) -> None:
    from ingest.report import IngestReport
    from ingest.watch import watch
    from services.cli.local import Local

    if place.server:
        raise InputError(
            "A server holds this data directory, so it has to do the watching: start it with "
            f"TANDEM_INGEST__WATCH='[\"{paths[0]}\"]'."
        )

    def tell(report: IngestReport) -> None:
        if as_json:  # one document a line, for there are many
            typer.echo(report.model_dump_json())
        elif report.added or report.updated or report.deleted or report.failed:
            print_report(report.model_dump(mode="json"))

    with Local(place.settings) as local:
        err.print(f"Watching {', '.join(map(str, paths))}; Ctrl-C ends it.", markup=False)
        # Ctrl-C ends the loop; a run in progress finishes in its thread first.
        asyncio.run(watch(local.ingestor, paths, asyncio.Event(), groups=groups, on_report=tell))


@contextmanager
def progress_bar(*, visible: bool) -> "Iterator[Callable[[Step], None] | None]":
    """A bar on standard error: the stage, how much of it is done, and the document at hand."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if not visible:
        yield None
        return
    path = TextColumn("{task.fields[path]}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), path)
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("read", total=None, path="")

        def step(progress: "Step") -> None:
            total = progress.total or None
            bar.update(task, description=progress.stage, completed=progress.done, total=total, path=progress.path[:60])

        yield step


def print_report(report: dict[str, Any]) -> None:
    """The report of a run for people."""
    for kind in ("added", "updated", "deleted"):
        for document_id in report[kind]:
            out.print(f"{kind:9} {document_id}", markup=False)
    for failure in report["failed"]:
        out.print(f"failed    {failure['path']}: {failure['message']} ({failure['reason']})", markup=False, style="red")
    for warning in report["warnings"]:
        out.print(f"warning   {warning}", markup=False, style="yellow")
    counts = ", ".join(f"{len(report[kind])} {kind}" for kind in ("added", "updated", "unchanged", "deleted", "failed"))
    would = "Dry run, nothing was written: " if report["dry_run"] else ""
    if report["removed"]:
        out.print(f"with the deleted went {held(report['removed'])}", markup=False)
    out.print(
        f"{would}{counts}; chunks embedded {report['chunks_embedded']}, reused {report['chunks_reused']}; "
        f"{report['seconds']:.1f} s"
    )


def held(removed: dict[str, Any]) -> str:
    """What stores held, in words: `2 versions, 14 chunks, ...`."""
    counts = {name: value for name, value in removed.items() if isinstance(value, int) and value}
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()) or "nothing"
