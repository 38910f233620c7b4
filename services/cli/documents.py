"""`tandem documents`: what there is to read, what changed in it, and taking it away."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table
from rich.text import Text

from services.cli.ingest import held, print_report, progress_bar, run_remotely
from services.cli.options import AsJson, DataDir, Target, err, out, show, target
from tandem.schemas import OPERATOR

if TYPE_CHECKING:
    from services.chat.library import Library

SIGNS = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}


def register(app: typer.Typer) -> None:
    documents = typer.Typer(help="List, show, compare and delete documents.", no_args_is_help=True)
    documents.command("list")(list_documents)
    documents.command("show")(show_document)
    documents.command("versions")(versions)
    documents.command("diff")(diff)
    documents.command("delete")(delete)
    documents.command("reindex")(reindex)
    app.add_typer(documents, name="documents")


def list_documents(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the documents, each by the version in force."""
    place = target(data_dir)
    if place.server:
        rows = place.server.get("/v1/documents")["data"]
    else:
        with _library(place) as library:
            rows = [row.model_dump(mode="json") for row in library.documents(OPERATOR)]

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
        with _library(place) as library:
            row = library.document(document_id, OPERATOR).model_dump(mode="json")

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
        with _library(place) as library:
            rows = [row.model_dump(mode="json") for row in library.versions(document_id, OPERATOR)]

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
    lines: Annotated[bool, typer.Option("--lines", help="As a unified diff of the text.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed between two versions of a document: its metadata, and passage by passage its text."""
    place = target(data_dir)
    if place.server:
        chosen = {name: value for name, value in (("from", older), ("to", newer)) if value is not None}
        row = place.server.get(f"/v1/documents/{quote(document_id)}/diff", **chosen)
    else:
        with _library(place) as library:
            row = library.difference(document_id, older, newer, OPERATOR).model_dump(mode="json")

    def pages(found: dict[str, Any]) -> None:
        if lines:
            out.print("\n".join(found["lines"]) or "The texts are equal.", markup=False)
        else:
            _print_difference(found)

    show(row, as_json, pages)


def delete(document_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Delete a document with all its versions, and report what each store held of it."""
    place = target(data_dir)
    if place.server:
        report = place.server.delete(f"/v1/documents/{quote(document_id)}")
    else:
        from services.cli.local import Local

        with Local(place.settings) as local:
            report = local.ingestor.delete(document_id, user=OPERATOR.user).model_dump(mode="json")

    def lines(found: dict[str, Any]) -> None:
        out.print(f"Deleted {document_id}, and with it {held(found)}.", markup=False)
        for name in found["adapters"]:
            out.print(f"The adapter {name} learned from examples made of it: train anew to forget them.", markup=False)
        left = {store: count for store, count in found["remaining"].items() if count}
        looked = ", ".join(store.replace("_", " ") for store in found["remaining"])
        out.print(f"Left behind: {left}" if left else f"Looked at afterwards, and empty of it: {looked}.")
        for note in found["notes"]:
            out.print(note, markup=False, style="dim")

    show(report, as_json, lines)
    if any(report["remaining"].values()):
        raise typer.Exit(1)


@contextmanager
def _library(place: Target) -> "Iterator[Library]":
    """The documents straight from the state database: reading them takes neither the index nor the embedder."""
    from services.chat.library import Library
    from tandem.database import Database

    database = Database(place.settings.database)
    try:
        database.migrate()
        yield Library(database)
    finally:
        database.close()


def _print_difference(found: dict[str, Any]) -> None:
    for change in found["metadata"]:
        out.print(f"{change['field']}: {_shown(change['before'])} -> {_shown(change['after'])}", markup=False)
    heading: tuple[str, int | None] | None = None
    for change in found["passages"]:
        place = (change["heading"], change["page"])
        if place != heading:
            page = f" (page {place[1]})" if place[1] else ""
            out.print(Text(f"\n{place[0] or 'Without a heading'}{page}", style="bold"))
            heading = place
        out.print(_passage(change))
    if not found["passages"]:
        out.print("The texts are equal.")
    if found["truncated"]:
        out.print("There are more changes than are shown here.", style="dim")


def _passage(change: dict[str, Any]) -> Text:
    """A changed passage once, its changed words marked; in a file or a pipe the marks are all there is."""
    from services.chat.difference import marked_words

    line = Text(f"{SIGNS[change['kind']]} ")
    if change["kind"] == "removed":
        return line.append(change["before"], style="red")
    if change["kind"] != "changed":
        return line.append(change["after"], style="green" if change["kind"] == "added" else "dim")
    for how, words in marked_words(change["before"], change["after"]):
        if how == "same":
            line.append(words)
        else:
            line.append(
                f"[-{words}-]" if how == "removed" else f"{{+{words}+}}", style="red" if how == "removed" else "green"
            )
    return line


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else "nothing" if value in (None, "") else str(value)


def _interval(row: dict[str, Any]) -> str:
    first, last = row["live_from"], row["live_until"]
    if row.get("status") == "ended" and not last:
        return "replaced"
    if first and last:
        return f"{first} to {last}"
    return f"from {first}" if first else f"until {last}" if last else "always"


def reindex(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Build the index anew beside the live one, if the settings ask for another embedding model or splitter."""
    place = target(data_dir)
    with progress_bar(visible=not as_json and err.is_terminal) as on_progress:
        if place.server:
            report = run_remotely(place.server, [], on_progress)
        else:
            from services.cli.local import Local

            with Local(place.settings) as local:
                report = local.ingestor.ingest([], on_progress=on_progress).model_dump(mode="json")
    show(report, as_json, print_report)
