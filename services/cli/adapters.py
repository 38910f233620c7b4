"""`tandem adapters`: the versions in the registry, which of them speaks, and which is on trial."""

from typing import Annotated, Any

import typer
from rich.table import Table

from services.cli.options import AsJson, DataDir, Target, out, show, target
from tandem.adapter_version import describe, describe_all
from tandem.errors import InputError
from tandem.registry import AdapterRef, Registry

Version = Annotated[str, typer.Argument(help="NAME@DIGEST; the digest may be shortened to six digits.")]
Name = Annotated[str, typer.Argument(help="The adapter's name.")]


def register(app: typer.Typer) -> None:
    adapters = typer.Typer(
        help="List, show, promote, roll back, try and delete adapters. Changes take effect with the next answer.",
        no_args_is_help=True,
    )
    adapters.command("list")(list_adapters)
    adapters.command("show")(show_adapter)
    adapters.command("promote")(promote)
    adapters.command("rollback")(rollback)
    adapters.command("delete")(delete)
    adapters.command("canary")(canary)
    app.add_typer(adapters, name="adapters")


def list_adapters(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all versions, newest first."""
    place = target(data_dir)
    if place.server:
        rows = place.server.get("/v1/adapters")["data"]
    else:
        rows = [version.model_dump(mode="json") for version in describe_all(_registry(place))]

    def table(found: list[dict[str, Any]]) -> None:
        if not found:
            out.print("There are no adapters yet. Train one: tandem train")
            return
        grid = Table("adapter", "", "gate", "base model", "made")
        for row in found:
            gate = row["gate"] or {}
            verdict = "passed" if gate.get("passed") else "failed" if gate else "none"
            grid.add_row(row["served"], _state(row), verdict, row["base"] or "", (row["created_at"] or "")[:19])
        out.print(grid)

    show(rows, as_json, table)


def show_adapter(
    adapter: Annotated[str, typer.Argument(help="NAME@DIGEST, or NAME for the active version.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show an adapter's manifest, the verdict of its gate, and how it compares with the active version."""
    place = target(data_dir)
    if place.server:
        row = place.server.get(f"/v1/adapters/{adapter}")
    else:
        row = _row(_registry(place), _registry(place).get(adapter))
    show(row, as_json, _page)


def promote(adapter: Version, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Make a version active: the next answer is given with it. A version that cannot serve is refused."""
    place, name, digest = target(data_dir), *_parts(adapter)
    if place.server:
        row = place.server.post(f"/v1/adapters/{name}/promote", {"digest": digest})
    else:
        registry = _registry(place)
        ref = registry.get(adapter)
        registry.promote(ref, "tandem adapters promote")
        row = _row(registry, ref)
    show(row, as_json, lambda found: out.print(f"{found['served']} is active.", markup=False))


def rollback(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Make the version active that was active before."""
    place = target(data_dir)
    if place.server:
        row = place.server.post(f"/v1/adapters/{name}/rollback")
    else:
        registry = _registry(place)
        row = _row(registry, registry.rollback(name, "tandem adapters rollback"))
    show(row, as_json, lambda found: out.print(f"{found['served']} is active again.", markup=False))


def delete(adapter: Version, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Remove a version for good. Refused while it is active or on trial."""
    place, name, digest = target(data_dir), *_parts(adapter)
    if place.server:
        row = place.server.delete(f"/v1/adapters/{name}@{digest}")
    else:
        registry = _registry(place)
        ref = registry.get(adapter)
        registry.delete(ref, "tandem adapters delete")
        row = {"served": ref.served, "deleted": True}
    show(row, as_json, lambda found: out.print(f"{found['served']} is deleted.", markup=False))


def canary(
    adapter: Annotated[str, typer.Argument(help="NAME@DIGEST starts a trial; NAME shows how it stands.")],
    share: Annotated[
        float | None,
        typer.Option(help="Share of conversations that it answers, over 0, below 1. Default: TANDEM_CANARY__SHARE."),
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the trial of the adapter NAME.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have a candidate answer a share of the conversations; it is withdrawn by itself when it falls behind."""
    if share is not None and not 0 < share < 1:
        raise InputError(
            f"--share {share} is no share: take a number over 0 and below 1, so that the active version has some "
            "conversations to be compared by."
        )
    if stop:
        _stop(adapter.partition("@")[0], data_dir, as_json)
    elif "@" in adapter:
        _start(adapter, share, data_dir, as_json)
    else:
        _standing(adapter, data_dir, as_json)


def _start(adapter: str, share: float | None, data_dir: DataDir, as_json: bool) -> None:
    place, name, digest = target(data_dir), *_parts(adapter)
    if place.server:
        row = place.server.post(f"/v1/adapters/{name}/canary", {"digest": digest, "share": share})
    else:
        registry = _registry(place)
        ref = registry.get(adapter)
        registry.start_canary(ref, share or place.settings.canary.share, "tandem adapters canary")
        row = _row(registry, ref)
    show(
        row,
        as_json,
        lambda found: out.print(f"{found['served']} answers {found['canary']:.0%} of conversations.", markup=False),
    )


def _stop(name: str, data_dir: DataDir, as_json: bool) -> None:
    place = target(data_dir)
    if place.server:
        row = place.server.delete(f"/v1/adapters/{name}/canary")
    else:
        registry = _registry(place)
        row = _row(registry, registry.withdraw_canary(name, "tandem adapters canary --stop"))
    show(row, as_json, lambda found: out.print(f"{found['served']} is on trial no more.", markup=False))


def _standing(name: str, data_dir: DataDir, as_json: bool) -> None:
    place = target(data_dir)
    if place.server:
        state = place.server.get(f"/v1/adapters/{name}/canary")
    else:
        from eval.canary import judge
        from services.cli.evaluation import state_database

        registry = _registry(place)
        with state_database(place) as database:
            running = judge(database, registry, name, place.settings.canary)
        ends = [entry for entry in registry.history(name) if entry.kind == "withdraw"]
        state = {
            "running": running.model_dump(mode="json") if running else None,
            "last_end": ends[-1].model_dump(mode="json") if ends else None,
        }
    show(state, as_json, _trial)


def _trial(state: dict[str, Any]) -> None:
    running, end = state["running"], state["last_end"]
    if running is None:
        out.print("No candidate is on trial.")
        if end:
            out.print(f"The last was withdrawn by {end['by']}: {end['reason'] or 'no reason given.'}", markup=False)
        return
    grid = Table("adapter", "conversations", "cited", "declined", "failed", "median answer")
    for side in (running["candidate"], running["active"]):
        took = "" if side["seconds"] is None else f"{side['seconds']:.2f} s"
        cited = f"{side['cited']} of {side['stated']}"
        grid.add_row(
            side["served"], str(side["conversations"]), cited, str(side["declined"]), str(side["failed"]), took
        )
    out.print(f"The candidate answers {running['share']:.0%} of the conversations since {running['started_at'][:19]}.")
    out.print(grid)
    for reason in running["behind"]:
        out.print(f"It falls behind: {reason}", markup=False)
    if running["lacking"]:
        out.print(running["lacking"], markup=False)


def _page(found: dict[str, Any]) -> None:
    state = _state(found)
    out.print(f"{found['served']}{f' ({state})' if state else ''}", markup=False)
    for name, value in found["manifest"].items():
        if name != "gate":
            out.print(f"  {name}: {value}", markup=False)
    gate = found["gate"] or {}
    if gate:
        out.print(f"  gate: {'passed' if gate['passed'] else 'failed'}")
    for reason in gate.get("reasons", ()):
        out.print(f"  gate: {reason}", markup=False)
    beside = found["comparison"]
    if not beside:
        return
    out.print(f"beside {beside['active']}, which is active:", markup=False)
    for measure, (mine, theirs, difference) in beside["measures"].items():
        out.print(f"  {measure}: {mine:.1%}, there {theirs:.1%} ({difference:+.1%})", markup=False)
    for measure, (mean, low, high) in beside["paired"].items():
        out.print(f"  {measure} over the same questions: {mean:+.1%} ({low:+.1%} to {high:+.1%})", markup=False)
    for name, (mine, theirs) in beside["changed"].items():
        out.print(f"  {name}: {mine}, there {theirs}", markup=False)


def _state(row: dict[str, Any]) -> str:
    if row["active"]:
        return "active"
    return "" if row["canary"] is None else f"canary, {row['canary']:.0%}"


def _parts(adapter: str) -> tuple[str, str]:
    name, _, digest = adapter.partition("@")
    if not digest:
        raise InputError(f"{adapter!r} names no version. Write NAME@DIGEST; `tandem adapters list` has them.")
    return name, digest


def _registry(place: Target) -> Registry:
    return Registry.open(place.settings)


def _row(registry: Registry, ref: AdapterRef) -> dict[str, Any]:
    return describe(registry, ref).model_dump(mode="json")
