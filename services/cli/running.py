"""`tandem up`, `models`, `settings`, `demo`: what starts and describes the service."""

import asyncio
import sys
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr
from rich.table import Table

from services.cli.options import AsJson, DataDir, err, out, settings_for, show
from tandem.settings import REPOSITORY, Settings

SAMPLE = REPOSITORY / "samples" / "corpus" / "v2"


def register(app: typer.Typer) -> None:
    app.command("up")(up)
    app.command("models")(models)
    app.command("settings")(settings)
    app.command("demo")(demo)


def up(
    data_dir: DataDir = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on. Default: TANDEM_SERVER__PORT, else 8080.")
    ] = None,
    no_model: Annotated[bool, typer.Option("--no-model", help="Start no vLLM; answers are passages.")] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Ingest the sample company's documents if there are none yet.")
    ] = False,
) -> None:
    """Start API, page, ingestion, trainer and a local vLLM, and stay until Ctrl-C."""
    from services.embedded import Embedded

    overrides: dict[str, Any] = {}
    if port is not None:
        base = settings_for(data_dir)
        overrides["server"] = base.server.model_dump() | {"port": port}
    effective = settings_for(data_dir, **overrides)

    def ready(address: str) -> None:
        out.print(_welcome(address, keyed=bool(effective.auth.api_keys)), markup=False)
        sys.stdout.flush()

    def say(line: str) -> None:
        err.print(line, markup=False)

    first = SAMPLE if sample else None
    asyncio.run(Embedded(effective, with_model=not no_model, first_documents=first, say=say).run(ready))


def models(as_json: AsJson = False) -> None:
    """Prepare the embedding model and the base model in the cache folder; does nothing when they are there."""
    from services.model.weights import ensure_models

    weights = ensure_models(settings_for(None))

    def lines(found: dict[str, str]) -> None:
        for name, path in found.items():
            out.print(f"{name}: {path}", markup=False)

    show({"embedder": str(weights.embedder), "base": str(weights.base)}, as_json, lines)


def settings(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print the effective settings, secrets masked, each with what it means."""
    effective = settings_for(data_dir)
    rows = list(_rows(effective, ""))

    def table(_: Any) -> None:
        grid = Table("setting", "value", "meaning")
        for name, value, meaning in rows:
            grid.add_row(name, value, meaning)
        out.print(grid)

    show({name: value for name, value, _ in rows}, as_json, table)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's data directory, .tandem/demo.")] = False,
) -> None:
    """Show it all: ingest a corpus, ask in four arms, apply its second version, ask again."""
    from services.cli.demo import run_demo

    raise typer.Exit(run_demo(keep=keep))


def _rows(section: BaseModel | Settings, prefix: str) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        variable = f"{prefix}__{name.upper()}" if prefix else f"TANDEM_{name.upper()}"
        if name == "api_keys":  # the keys are the secrets here; whom they stand for is not
            value = {f"{key[:2]}***": who.model_dump() for key, who in value.items()}
        if isinstance(value, BaseModel):
            rows.extend(_rows(value, variable))
        else:
            shown = "***" if isinstance(value, SecretStr) else "" if value is None else str(value)
            rows.append((variable, shown, field.description or ""))
    return rows


def _welcome(address: str, *, keyed: bool) -> str:
    key = "YOUR_KEY" if keyed else "none"
    header = " -H 'Authorization: Bearer YOUR_KEY'" if keyed else ""
    body = '{"model": "tandem", "messages": [{"role": "user", "content": "How much is the daily meal allowance?"}]}'
    return f"""
Tandem is ready: {address}

curl -s {address}/v1/chat/completions{header} -H 'Content-Type: application/json' -d '{body}'

from openai import OpenAI
client = OpenAI(base_url="{address}/v1", api_key="{key}")
question = {{"role": "user", "content": "How much is the daily meal allowance?"}}
print(client.chat.completions.create(model="tandem", messages=[question]).choices[0].message.content)

Your own documents: tandem ingest FOLDER --groups everyone      Ctrl-C ends everything.
"""
