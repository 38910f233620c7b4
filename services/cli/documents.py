"""`tandem ingest` and `tandem documents`: what goes into the index and what is in it."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.cli.local import Local
from services.cli.options import AsJson, DataDir, Target, err, out, show, target
from services.cli.server import Server
from services.embedded import OPERATOR
from tandem.errors import InputError, TandemError

POLL_SECONDS = 0.5


def register(app: typer.Typer) -> None:
    app.command("ingest")(ingest)
    documents = typer.Typer(help="List, show, compare and delete documents.", no_args_is_help=True)
    documents.command("list")(list_documents)
    documents.command("show")(show_document)
    documents.command("versions")(versions)
    documents.command("diff")(diff)
    documents.command("delete")(delete)
    app.add_typer(documents, name="documents")


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Folders (synced whole) and files (added or updated).")],
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and ingest again whenever something changes.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    groups: Annotated[
        str | None, typer.Option(help="Groups of documents that name none, separated by commas, such as everyone.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ingest documents: only text never seen before is embedded, and files that are gone are deleted."""
    absolute = [path.expanduser().absolute() for path in paths]
    names = tuple(name.strip() for name in groups.split(",") if name.strip()) if groups is not None else None
    place = target(data_dir)
    if watch:
        if place.server:
            raise InputError(
                "A server holds this data directory, so it has to do the watching: start it with "
                f"TANDEM_INGEST__WATCH='[\"{absolute[0]}\"]'."
            )
        _watch(place, absolute, names)
        return
    with _progress(visible=not as_json and err.is_terminal) as on_progress:
        if place.server:
            report = _ingest_remotely(place.server, absolute, dry_run, names, on_progress)
        else:
            with Local(place.settings) as local:
                found = local.ingestor.ingest(absolute, dry_run=dry_run, groups=names, on_progress=on_progress)
            report = found.model_dump(mode="json")
    show(report, as_json, _print_report)
    nothing_worked = not any(report[kind] for kind in ("added", "updated", "unchanged", "deleted"))
    if report["failed"] and nothing_worked:
        raise typer.Exit(1)


def list_documents(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the documents, each by the version in force."""
    place = target(data_dir)
    if place.server:
        rows = place.server.get("/v1/documents")["data"]
    else:
        with Local(place.settings) as local:
            rows = [row.model_dump(mode="json") for row in local.library.documents(OPERATOR)]

    def table(found: list[dict[str, Any]]) -> None:
        if not found:
            out.print("There are no documents yet. Add some: tandem ingest FOLDER")
            return
        grid = Table("document", "title", "version", "in force", "readable by", "chunks")
        for row in found:
            readers = "admins only" if row["groups"] is None else ", ".join(row["groups"])
            grid.add_row(row["id"], row["title"], row["version"], _interval(row), readers, str(row["chunks"]))
        out.print(grid)

    show(rows, as_json, table)


def show_document(document_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show a document's metadata and text."""
    place = target(data_dir)
    if place.server:
        row = place.server.get(f"/v1/documents/{quote(document_id)}")
    else:
        with Local(place.settings) as local:
            row = local.library.document(document_id, OPERATOR).model_dump(mode="json")

    def page(found: dict[str, Any]) -> None:
        for name in ("id", "title", "owner", "version", "status", "source_url"):
            out.print(f"{name}: {found[name]}", markup=False)
        out.print(f"in force: {_interval(found)}\n\n{found['text']}", markup=False)

    show(row, as_json, page)


def versions(document_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the versions of a document with the days they are in force."""
    place = target(data_dir)
    if place.server:
        rows = place.server.get(f"/v1/documents/{quote(document_id)}/versions")["data"]
    else:
        with Local(place.settings) as local:
            rows = [row.model_dump(mode="json") for row in local.library.versions(document_id, OPERATOR)]

    def table(found: list[dict[str, Any]]) -> None:
        grid = Table("no.", "version", "in force", "status", "ingested", "chunks")
        for row in found:
            day = row["created_at"][:19].replace("T", " ")
            grid.add_row(str(row["seq"]), row["version"], _interval(row), row["status"], day, str(row["chunks"]))
        out.print(grid)

    show(rows, as_json, table)


def diff(
    document_id: str,
    older: Annotated[int | None, typer.Option("--from", help="Version number; default: the one before.")] = None,
    newer: Annotated[int | None, typer.Option("--to", help="Version number; default: the latest.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed between two versions of a document."""
    place = target(data_dir)
    if place.server:
        chosen = {name: value for name, value in (("from", older), ("to", newer)) if value is not None}
        row = place.server.get(f"/v1/documents/{quote(document_id)}/diff", **chosen)
    else:
        with Local(place.settings) as local:
            row = local.library.difference(document_id, older, newer, OPERATOR).model_dump(mode="json")
    show(row, as_json, lambda found: out.print("\n".join(found["lines"]) or "The texts are equal.", markup=False))


def delete(document_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Delete a document with all its versions, and report what each store held of it."""
    place = target(data_dir)
    if place.server:
        report = place.server.delete(f"/v1/documents/{quote(document_id)}")
    else:
        with Local(place.settings) as local:
            report = local.ingestor.delete(document_id, user=OPERATOR.user).model_dump(mode="json")

    def lines(found: dict[str, Any]) -> None:
        held = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in found.items() if isinstance(value, int))
        out.print(f"Deleted {document_id}: {held}.", markup=False)
        left = {store: count for store, count in found["remaining"].items() if count}
        out.print(f"Left behind: {left}" if left else "Every store was looked at afterwards: nothing is left.")

    show(report, as_json, lines)


def _ingest_remotely(
    server: Server,
    paths: list[Path],
    dry_run: bool,
    groups: tuple[str, ...] | None,
    on_progress: Callable[[Any], None] | None,
) -> dict[str, Any]:
    """Starts a run on the server and follows it."""
    from ingest.report import Progress as Step

    for path in paths:
        if not path.exists():
            raise InputError(f"There is nothing at {str(path)!r}. Name a folder or file that exists.")
    body: dict[str, Any] = {"paths": [str(path) for path in paths], "dry_run": dry_run}
    if groups is not None:
        body["groups"] = list(groups)
    run = server.post("/v1/ingest/runs", body)
    while run["state"] == "running":
        time.sleep(POLL_SECONDS)
        run = server.get(f"/v1/ingest/runs/{run['id']}")
        if on_progress and run["progress"]:
            on_progress(Step(**run["progress"]))
    if run["state"] != "done":
        raise TandemError(f"The ingest run failed: {run['message']}")
    report: dict[str, Any] = run["report"]
    return report


def _watch(place: Target, paths: list[Path], groups: tuple[str, ...] | None) -> None:
    from ingest.watch import watch

    with Local(place.settings) as local:
        err.print(f"Watching {', '.join(map(str, paths))}; Ctrl-C ends it.", markup=False)
        # Ctrl-C ends the loop; a run in progress finishes in its thread first.
        asyncio.run(
            watch(
                local.ingestor,
                paths,
                asyncio.Event(),
                groups=groups,
                on_report=lambda report: _print_report(report.model_dump(mode="json")),
            )
        )


@contextmanager
def _progress(*, visible: bool) -> Iterator[Callable[[Any], None] | None]:
    if not visible:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def step(progress: Any) -> None:
            bar.update(task, description=progress.stage, completed=progress.done, total=progress.total or None)

        yield step


def _print_report(report: dict[str, Any]) -> None:
    for kind in ("added", "updated", "deleted"):
        for document_id in report[kind]:
            out.print(f"{kind:9} {document_id}", markup=False)
    for failure in report["failed"]:
        out.print(f"failed    {failure['path']}: {failure['message']} ({failure['reason']})", markup=False, style="red")
    for warning in report["warnings"]:
        out.print(f"warning   {warning}", markup=False, style="yellow")
    counts = ", ".join(f"{len(report[kind])} {kind}" for kind in ("added", "updated", "unchanged", "deleted", "failed"))
    would = "Dry run, nothing was written: " if report["dry_run"] else ""
    out.print(
        f"{would}{counts}; chunks embedded {report['chunks_embedded']}, reused {report['chunks_reused']}; "
        f"{report['seconds']:.1f} s"
    )


def _interval(row: dict[str, Any]) -> str:
    first, last = row["live_from"], row["live_until"]
    if row.get("status") == "ended" and not last:
        return "replaced"
    if first and last:
        return f"{first} to {last}"
    return f"from {first}" if first else f"until {last}" if last else "always"
