"""`tandem train`: style examples to an adapter, in the command's own process."""

from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, err, out, settings_for, show


def register(app: typer.Typer) -> None:
    app.command("train")(train)


def train(
    examples: Annotated[
        Path | None, typer.Option(help="Style examples, JSON Lines. Default: TANDEM_TRAINING__EXAMPLES.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the adapter. Default: TANDEM_ADAPTER__NAME.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Train an adapter, gate it, and promote it if it passes; a running server answers with it at the next question.

    A run that was stopped goes on where it stood when it is started again with the same examples and settings.
    """
    from services.embedded import prepare_data_dir
    from services.model.weights import ensure_models
    from training.job import TrainingEvent
    from training.job import train as run

    settings = settings_for(data_dir)
    prepare_data_dir(settings)
    ensure_models(settings, embedder=False)

    def log(event: TrainingEvent) -> None:
        err.print(f"{event.stage}: {event.message}", markup=False)

    manifest = run(settings, examples=examples, name=name, on_event=log)
    show(manifest.model_dump(mode="json"), as_json, lambda _: _print(manifest))


def _print(manifest: Any) -> None:
    gate = manifest.gate
    out.print(
        f"{manifest.served}: {'active' if gate and gate.passed else 'kept as a candidate, not promoted'}", markup=False
    )
    for reason in gate.reasons if gate else ():
        out.print(f"  {reason}", markup=False)
