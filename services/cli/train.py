"""`tandem train`: style examples to an adapter, in the command's own process; the run is written down as any other."""

import getpass
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import AsJson, DataDir, err, out, settings_for, show
from tandem.errors import TandemError

if TYPE_CHECKING:  # the commands import what they need, so that `tandem --help` answers at once
    from tandem.settings import Settings
    from training.events import TrainingEvent
    from training.result import Result


def register(app: typer.Typer) -> None:
    app.command("train")(train)


def train(
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Style examples, JSON Lines. Default: TANDEM_TRAINING__EXAMPLES and what was approved from feedback."
        ),
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

    settings = settings_for(data_dir)
    prepare_data_dir(settings)
    ensure_models(settings)  # the embedder chooses each example's evidence
    with progress_bar(visible=not as_json and err.is_terminal) as on_event:
        result = _recorded(settings, examples, name or settings.adapter.name, on_event)
    data = {**result.manifest.model_dump(mode="json"), "promoted": result.promoted, "overtaken": result.overtaken}
    show(data, as_json, lambda _: _print(result))


def _recorded(
    settings: "Settings", examples: Path | None, name: str, on_event: "Callable[[TrainingEvent], None]"
) -> "Result":
    """Trains, with a row and a log in the state database, and tells the webhook."""
    from services.trainer.record import Record
    from services.trainer.webhook import Webhook
    from tandem.database import Database
    from training.candidates import Candidates
    from training.examples import load_examples
    from training.job import train as run
    from training.pool import gather_examples, write_examples
    from training.runs import TrainingRuns
    from training.turn import Turn

    with ExitStack() as stack:
        database = Database(settings.database)
        stack.callback(database.close)
        database.migrate()
        runs, webhook = TrainingRuns(database), Webhook(settings.training)
        stack.callback(webhook.close)
        stack.enter_context(Turn(database))
        runs.break_off(at=datetime.now(UTC))
        if examples is not None:
            given = tuple(load_examples(examples))
        else:
            given = gather_examples(settings, Candidates(database, settings)).all
        with database.session() as session:
            user = getpass.getuser()
            id = runs.want(session, "manual", name, user, at=datetime.now(UTC), resumes=False)
        if examples is None:
            examples = settings.runs_dir / f"examples-{id}.jsonl"
            stack.callback(examples.unlink, missing_ok=True)
            write_examples(examples, given)
        record = Record(runs, webhook, id, runs.start(id, given, at=datetime.now(UTC)))
        record.started()

        def both(event: "TrainingEvent") -> None:
            record.event(event)
            on_event(event)

        try:
            result = run(settings, examples=examples, name=name, on_event=both)
            assert result is not None  # this process is the only one
        except TandemError as exc:
            record.failed(exc.message)
            raise
        except BaseException as exc:
            stopped = isinstance(exc, KeyboardInterrupt)
            record.interrupted("It was stopped by hand." if stopped else f"It failed unexpectedly: {exc!r}.")
            raise
        record.finished(result)
        return result


@contextmanager
def progress_bar(*, visible: bool) -> "Iterator[Callable[[TrainingEvent], None]]":
    """A bar on standard error while the adapter is trained: step, loss, tokens a second and the time left.

    Where nobody watches a terminal, each event is a line.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    def line(event: "TrainingEvent") -> None:
        err.print(f"{event.stage}: {event.message}", markup=False, soft_wrap=True)

    if not visible:
        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[facts]}", markup=False), console=err, transient=True) as bar:
        task = bar.add_task("train", total=None, facts="", visible=False)

        def step(event: "TrainingEvent") -> None:
            at = event.data
            if event.stage != "train" or "step" not in at:
                bar.update(task, visible=False)
                line(event)
                return
            facts = f"loss {at['loss']:.3f}, {at['tokens_per_second']:.0f} tokens/s, {_left(at['seconds_left'])} left"
            bar.update(task, visible=True, completed=int(at["step"]), total=int(at["steps"]), facts=facts)

        yield step


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _print(result: "Result") -> None:
    manifest = result.manifest
    out.print(
        f"{manifest.served}: {'active' if result.promoted else 'kept as a candidate, not promoted'}", markup=False
    )
    for reason in (*(manifest.gate.reasons if manifest.gate else ()), *filter(None, [result.overtaken])):
        out.print(f"  {reason}", markup=False)
