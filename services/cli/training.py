"""`tandem training`: the schedule, the runs and their logs, of whoever made them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from services.cli.options import AsJson, DataDir, Target, out, server, show, target

if TYPE_CHECKING:  # the commands import what they need, so that `tandem --help` answers at once
    from services.trainer.overview import Overview

Read = Callable[[str, int], tuple[str, list[dict[str, Any]]]]

_LOOK_EVERY = 1.0  # seconds between two looks at a log that is followed
_LINES = 500  # of a log that one request gives


def register(app: typer.Typer) -> None:
    training = typer.Typer(help="See the schedule, the runs and their logs; ask for a run.", no_args_is_help=True)
    training.command("status")(status)
    training.command("history")(history)
    training.command("logs")(logs)
    training.command("start")(start)
    training.command("cancel")(cancel)
    app.add_typer(training, name="training")


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show when the next run is due, what there is for it, and how the last one ended."""
    place = target(data_dir)
    if place.server:
        found = place.server.get("/v1/training")
    else:
        with opened(place) as local:
            found = local.status(datetime.now(UTC)).model_dump(mode="json")

    def page(state: dict[str, Any]) -> None:
        due = state["schedule"]
        seen = f"a trainer looked at {_moment(due['looked_at'])}" if due["looked_at"] else "no trainer has looked yet"
        out.print(f"next      {_moment(due['next'])} ({due['expression']} in {due['zone']}); {seen}", markup=False)
        new = "cannot be read here" if state["new_examples"] is None else state["new_examples"]
        out.print(f"examples  {new} new, {state['min_new_examples']} are needed; {state['candidates']} to review")
        if due["note"]:
            out.print(f"decided   {due['note']}", markup=False)
        for label, run in (("current", state["current"]), ("last", state["last"])):
            if run:
                out.print(f"{label:9} {run['id']}  {_outcome(run)}", markup=False)

    show(found, as_json, page)


def history(
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the runs, newest first."""
    place = target(data_dir)
    if place.server:
        rows = place.server.get("/v1/training/runs", limit=limit)["data"]
    else:
        with opened(place) as local:
            rows = [run.model_dump(mode="json") for run in local.runs.latest(limit)]

    def table(found: list[dict[str, Any]]) -> None:
        if not found:
            out.print("There was no run yet. Start one: tandem train")
            return
        grid = Table("run", "started", "cause", "adapter", "what came of it")
        for run in found:
            by = f"{run['cause']} ({run['user']})" if run["cause"] == "manual" else run["cause"]
            name = run["adapter"] or run["name"]
            grid.add_row(run["id"][:8], _moment(run["started_at"]), by, name, _outcome(run))
        out.print(grid)

    show(rows, as_json, table)


def logs(
    run: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")],
    follow: Annotated[bool, typer.Option("--follow", help="Stay until the run has ended.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print the log of a run."""
    place = target(data_dir)
    with ExitStack() as stack:
        local = None if place.server else stack.enter_context(opened(place))
        lines = _lines(_reader(place, local), run, follow=follow)
        if as_json and not follow:
            show(list(lines), True, lambda _: None)
            return
        for line in lines:
            if as_json:  # one document a line, for nobody knows when it ends
                typer.echo(json.dumps(line, ensure_ascii=False))
            else:
                out.print(f"{_moment(line['at'])}  {line['stage']:8} {line['message']}", markup=False)


def start(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Have the server's trainer make a run now. `tandem train` makes one right here, without a server."""
    run = server(data_dir, "training start").post("/v1/training/runs")

    def say(found: dict[str, Any]) -> None:
        out.print(f"The run {found['id']} is wanted. Follow it: tandem training logs --follow {found['id'][:8]}")

    show(run, as_json, say)


def cancel(
    run: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have the server's trainer end a run. A later one on the same examples goes on from its last checkpoint."""
    found = server(data_dir, "training cancel").post(f"/v1/training/runs/{run}/cancel")

    def say(run: dict[str, Any]) -> None:
        ends = "ends in some seconds" if run["state"] == "running" else "is cancelled"
        out.print(f"The run {run['id']} {ends}.")

    show(found, as_json, say)


@contextmanager
def opened(place: Target) -> "Iterator[Overview]":
    """The state of a data directory that no server runs on, for the length of the command."""
    from services.trainer.overview import Overview
    from tandem.database import Database

    with closing(Database(place.settings.database)) as database:
        database.migrate()
        yield Overview(database, place.settings)


def _reader(place: Target, local: "Overview | None") -> Read:
    """What reads a run's state and a piece of its log, from the server or here."""
    if local is not None:
        return lambda run, after: (
            local.runs.get(run).state,
            [line.model_dump(mode="json") for line in local.runs.events(run, after=after, limit=_LINES)],
        )
    speaker = place.server
    assert speaker is not None
    return lambda run, after: (
        speaker.get(f"/v1/training/runs/{run}")["state"],
        speaker.get(f"/v1/training/runs/{run}/log", after=after, limit=_LINES)["data"],
    )


def _lines(read: Read, run: str, *, follow: bool) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        # The state is asked first: a log gets no more lines once its run has ended.
        state, found = read(run, after)
        yield from found
        after = found[-1]["id"] if found else after
        if len(found) < _LINES:
            if not follow or state not in ("waiting", "running"):
                return
            time.sleep(_LOOK_EVERY)


def _outcome(run: dict[str, Any]) -> str:
    at = run["progress"]
    if run["state"] == "running" and at:
        left = f"{at['seconds_left'] / 60:.0f} min left"
        return f"running: step {at['step']:.0f} of {at['steps']:.0f}, loss {at['loss']:.3f}, {left}"
    if run["state"] == "done":
        verdict = "promoted" if run["promoted"] else "not promoted"
        why = "" if run["promoted"] else f": {run['message'] or ' '.join(run['reasons'])}"
        return f"{run['adapter']} {verdict}{why}"
    return f"{run['state']}: {run['message']}" if run["message"] else str(run["state"])


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
