"""`tandem`: the command line. Results go to standard output, logs and progress to standard error."""

import logging
import sys
from collections.abc import Sequence

import click
import typer

from services.cli import adapters, answers, documents, evaluate, examples, ingest, running, train, training
from tandem.errors import InputError, SettingsError, TandemError

app = typer.Typer(
    name="tandem",
    help="An assistant for documents that change, in a voice that does not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for room in (running, ingest, documents, answers, train, training, examples, adapters, evaluate):
    room.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: 0 success, 1 the work failed, 2 wrong usage. An error is one sentence, without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except TandemError as exc:
        sys.stderr.write(f"Error: {exc.message}\n")
        sys.exit(2 if isinstance(exc, InputError | SettingsError) else 1)
    except click.exceptions.Abort:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
