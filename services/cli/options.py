"""Options that every command shares, and what they lead to."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from services.cli.server import Server, need_server, running_server
from tandem.settings import Settings, load_settings

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="State, index and adapters. Default: TANDEM_DATA_DIR, else .tandem", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]

# Into a file or a pipe nobody has a narrow window: tables get the room they need.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Target:
    """Where a command does its work: a running server, or straight on the data directory."""

    settings: Settings
    server: Server | None


def settings_for(data_dir: Path | None, **overrides: Any) -> Settings:
    """The settings with the command's own options on top."""
    return load_settings(data_dir=data_dir, **overrides)


def target(data_dir: Path | None) -> Target:
    """A running server where there is one, else the data directory."""
    settings = settings_for(data_dir)
    return Target(settings, running_server(settings, data_dir_given=data_dir is not None))


def server(data_dir: Path | None, command: str) -> Server:
    """The running server, or an error that says what to do."""
    return need_server(settings_for(data_dir), data_dir_given=data_dir is not None, command=command)


def show(result: Any, as_json: bool, table: Callable[[Any], None]) -> None:
    """Prints a result: as one JSON document, or by `table` for people."""
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=2, default=str))
    else:
        table(result)
