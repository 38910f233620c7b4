"""`tandem examples`: what feedback suggests to train on, for a person to approve."""

import getpass
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import click
import typer
from rich.table import Table

from services.cli.options import AsJson, DataDir, err, out, show, target
from services.cli.server import Server
from services.cli.training import opened
from tandem.errors import InputError, TandemError

if TYPE_CHECKING:
    from training.candidates import Candidates

STATES = ("open", "approved", "refused")
Row = dict[str, Any]
_CHOICES = (
    "(a)pprove, (e)dit, (m)ake names and figures up, say that its people are (i)nvented, (r)efuse, (s)kip, (q)uit"
)


class Desk(Protocol):
    """Where examples are looked at and decided on: a server, or the data directory."""

    def list(self, state: str | None) -> "list[Row]": ...
    def get(self, id: str) -> Row: ...
    def approve(self, id: str, edit: Row) -> Row: ...
    def refuse(self, id: str) -> Row: ...


def register(app: typer.Typer) -> None:
    examples = typer.Typer(
        help="Look at the style examples that feedback suggests; approve, edit or refuse them.", no_args_is_help=True
    )
    examples.command("list")(list_examples)
    examples.command("show")(show_example)
    examples.command("review")(review)
    examples.command("approve")(approve)
    examples.command("refuse")(refuse)
    app.add_typer(examples, name="examples")


def list_examples(
    state: Annotated[str, typer.Option(help="open, approved, refused or all.")] = "open",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the examples that wait for a decision, or those in another state."""
    if state not in (*STATES, "all"):
        raise InputError(f"There is no state {state!r}: name open, approved, refused or all.")
    with ExitStack() as stack:
        rows = _desk(data_dir, stack).list(None if state == "all" else state)

    def table(found: list[Row]) -> None:
        if not found:
            out.print("There are none. A thumb down with the mark 'tone' makes one.")
            return
        grid = Table("example", "state", "from", "question", "answer")
        for row in found:
            example = row["example"]
            grid.add_row(row["id"][:8], row["state"], row["user"], example["question"][:50], example["answer"][:60])
        out.print(grid)

    show(rows, as_json, table)


def show_example(
    example: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show one example, and a draft of it with other names and figures."""
    with ExitStack() as stack:
        show(_desk(data_dir, stack).get(example), as_json, _print)


def approve(
    example: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")],
    answer: Annotated[str | None, typer.Option(help="The answer as it should be, citations [1] included.")] = None,
    question: Annotated[str | None, typer.Option(help="The question as it should be.")] = None,
    made_up: Annotated[
        bool, typer.Option("--made-up", help="Take the draft with other names and figures, which `show` prints.")
    ] = False,
    invented_people: Annotated[
        bool | None,
        typer.Option("--invented-people/--real-people", help="Vouch that the people in it are invented, or not."),
    ] = None,
    seen: Annotated[
        str | None, typer.Option(help="The digest that `show` printed: an example changed since is not approved.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Approve an example: the next run is trained on it. The guards look at it first."""
    given = {"answer": answer, "question": question, "invented_people": invented_people, "seen": seen}
    edit = {name: value for name, value in given.items() if value is not None}
    with ExitStack() as stack:
        desk = _desk(data_dir, stack)
        row = desk.approve(example, _draft(desk.get(example)) | edit if made_up else edit)
    show(row, as_json, lambda found: out.print(f"{found['id']} is approved by {found['decided_by']}.", markup=False))


def refuse(
    example: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Refuse an example, also one that was approved: no run is trained on it any more."""
    with ExitStack() as stack:
        row = _desk(data_dir, stack).refuse(example)
    show(row, as_json, lambda found: out.print(f"{found['id']} is refused by {found['decided_by']}.", markup=False))


def review(data_dir: DataDir = None) -> None:
    """Go through the examples that wait, one by one."""
    with ExitStack() as stack:
        desk = _desk(data_dir, stack)
        rows = desk.list("open")
        if not rows:
            out.print("No example waits for a decision.")
        for number, row in enumerate(rows, start=1):
            out.print(f"\n[bold]{number} of {len(rows)}[/bold]")
            if not _decide(desk, desk.get(row["id"])):
                return


def _decide(desk: Desk, row: Row) -> bool:
    """Asks until one is decided on or passed over. False: enough for today."""
    edit: Row = {"seen": row["digest"]}
    _print(row)
    while True:
        choice = typer.prompt(_CHOICES, default="s")
        match choice.strip().lower()[:1]:
            case "a":
                try:
                    desk.approve(row["id"], edit)
                except TandemError as exc:
                    err.print(exc.message, markup=False, style="red")
                    continue
                out.print("Approved.")
                return True
            case "e" | "m" as how:
                edit |= _draft(row) if how == "m" else _edited(row["example"])
                row = row | {"example": row["example"] | edit}
                _print(row)
            case "i":
                edit["invented_people"] = not edit.get("invented_people", False)
                out.print(f"The people in it are {'invented' if edit['invented_people'] else 'real'}.")
            case "r":
                desk.refuse(row["id"])
                out.print("Refused.")
                return True
            case "s":
                return True
            case "q":
                return False


def _edited(example: Row) -> Row:
    """Question, sources and answer as they come back from the person's editor."""
    shown = {name: example[name] for name in ("question", "sources", "answer")}
    text = click.edit(json.dumps(shown, ensure_ascii=False, indent=2), extension=".json")
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError as exc:
        err.print(f"That is not JSON: {exc}. Nothing was changed.", markup=False, style="red")
        return {}
    return {name: found[name] for name in shown if name in found}


def _draft(row: Row) -> Row:
    return {name: row["made_up"][name] for name in ("question", "sources", "answer")}


def _print(row: Row) -> None:
    example = row["example"]
    mark = f" ({row['comment']})" if row["comment"] else ""
    by = f", {row['state']} by {row['decided_by']}" if row["decided_by"] else ""
    digest = f", digest {row['digest'][:12]}"
    out.print(f"{row['id']} from {row['user'] or 'nobody known'}{mark}{by}{digest}", markup=False, style="dim")
    out.print(f"Q  {example['question']}", markup=False)
    for number, source in enumerate(example["sources"], start=1):
        place = " > ".join(part for part in (source["title"], source["heading"]) if part)
        out.print(f"[{number}] {place}: {source['text']}", markup=False, style="green")
    out.print(f"A  {example['answer']}", markup=False)


class _Remote:
    """The desk of a running server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def list(self, state: str | None) -> "list[Row]":
        found: list[Row] = self._server.get("/v1/examples", **({"state": state} if state else {}))["data"]
        return found

    def get(self, id: str) -> Row:
        row: Row = self._server.get(f"/v1/examples/{id}")
        return row

    def approve(self, id: str, edit: Row) -> Row:
        row: Row = self._server.post(f"/v1/examples/{id}/approve", edit)
        return row

    def refuse(self, id: str) -> Row:
        row: Row = self._server.post(f"/v1/examples/{id}/refuse")
        return row


class _Local:
    """The desk of a data directory that no server runs on; who sits at it is who is logged in."""

    def __init__(self, candidates: "Candidates") -> None:
        self._candidates = candidates

    def list(self, state: str | None) -> "list[Row]":
        found = self._candidates.list(state)  # type: ignore[arg-type]
        return [row.model_dump(mode="json") for row in found]

    def get(self, id: str) -> Row:
        from training.candidates import made_up

        row = self._candidates.get(id)
        return row.model_dump(mode="json") | {"made_up": made_up(row.example).model_dump(mode="json")}

    def approve(self, id: str, edit: Row) -> Row:
        from pydantic import ValidationError

        from training.candidates import Edit

        try:
            checked = Edit.model_validate(edit)
        except ValidationError as exc:
            first = exc.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(f"The example cannot be kept: {place}: {first['msg']}.") from exc
        return self._candidates.approve(id, getpass.getuser(), checked).model_dump(mode="json")

    def refuse(self, id: str) -> Row:
        return self._candidates.refuse(id, getpass.getuser()).model_dump(mode="json")


def _desk(data_dir: Any, stack: ExitStack) -> Desk:
    place = target(data_dir)
    if place.server:
        return _Remote(place.server)
    return _Local(stack.enter_context(opened(place)).candidates)
