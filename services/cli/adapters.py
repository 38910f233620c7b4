"""`tandem adapters`: the versions in the registry, and which of them speaks."""

from typing import Annotated, Any

import typer
from rich.table import Table

from services.cli.options import AsJson, DataDir, Target, out, show, target
from tandem.errors import InputError
from tandem.registry import AdapterRef, Registry


def register(app: typer.Typer) -> None:
    adapters = typer.Typer(help="List, show, promote and roll back adapters.", no_args_is_help=True)
    adapters.command("list")(list_adapters)
    adapters.command("show")(show_adapter)
    adapters.command("promote")(promote)
    adapters.command("rollback")(rollback)
    app.add_typer(adapters, name="adapters")


def list_adapters(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all versions, newest first."""
    place = target(data_dir)
    if place.server:
        rows = place.server.get("/v1/adapters")["data"]
    else:
        registry = _registry(place)
        rows = [_row(registry, ref) for ref in registry.list()]

    def table(found: list[dict[str, Any]]) -> None:
        if not found:
            out.print("There are no adapters yet. Train one: tandem train")
            return
        grid = Table("adapter", "", "gate", "base model", "made")
        for row in found:
            gate = row["manifest"].get("gate") or {}
            verdict = "passed" if gate.get("passed") else "failed" if gate else "none"
            made = row["manifest"].get("created_at", "")[:19]
            base = row["manifest"].get("base_model", "")
            grid.add_row(row["served"], "active" if row["active"] else "", verdict, base, made)
        out.print(grid)

    show(rows, as_json, table)


def show_adapter(
    adapter: Annotated[str, typer.Argument(help="NAME@DIGEST, or NAME for the active version.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show an adapter's manifest and the verdict of its gate."""
    place = target(data_dir)
    if place.server:
        row = place.server.get(f"/v1/adapters/{adapter}")
    else:
        registry = _registry(place)
        row = _row(registry, registry.get(adapter) if "@" in adapter else _active(registry, adapter))

    def page(found: dict[str, Any]) -> None:
        out.print(f"{found['served']}{' (active)' if found['active'] else ''}", markup=False)
        for name, value in found["manifest"].items():
            if name != "gate":
                out.print(f"  {name}: {value}", markup=False)
        gate = found["manifest"].get("gate") or {}
        for reason in gate.get("reasons", ()):
            out.print(f"  gate: {reason}", markup=False)

    show(row, as_json, page)


def promote(
    adapter: Annotated[str, typer.Argument(help="NAME@DIGEST; the digest may be shortened.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a version active: the next answer is given with it."""
    if "@" not in adapter:
        raise InputError(f"{adapter!r} names no version. Write NAME@DIGEST; `tandem adapters list` has them.")
    place = target(data_dir)
    name, digest = adapter.split("@", 1)
    if place.server:
        row = place.server.post(f"/v1/adapters/{name}/promote", {"digest": digest})
    else:
        registry = _registry(place)
        ref = registry.get(adapter)
        registry.verify(ref)
        registry.promote(ref, "tandem adapters promote")
        row = _row(registry, ref)
    show(row, as_json, lambda found: out.print(f"{found['served']} is active.", markup=False))


def rollback(
    name: Annotated[str, typer.Argument(help="The adapter's name.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make the version active that was active before."""
    place = target(data_dir)
    if place.server:
        row = place.server.post(f"/v1/adapters/{name}/rollback")
    else:
        registry = _registry(place)
        row = _row(registry, registry.rollback(name, "tandem adapters rollback"))
    show(row, as_json, lambda found: out.print(f"{found['served']} is active again.", markup=False))


def _registry(place: Target) -> Registry:
    return Registry(place.settings.registry)


def _active(registry: Registry, name: str) -> AdapterRef:
    ref = registry.active(name)
    if ref is None:
        raise InputError(f"No version of the adapter {name!r} is active. `tandem adapters list` shows what there is.")
    return ref


def _row(registry: Registry, ref: AdapterRef) -> dict[str, Any]:
    manifest = registry.manifest(ref).model_dump(mode="json")
    active = registry.active(ref.name)
    return {
        "served": ref.served,
        "name": ref.name,
        "digest": ref.digest,
        "active": active is not None and active.digest == ref.digest,
        "manifest": manifest,
    }
