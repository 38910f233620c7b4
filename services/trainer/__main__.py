"""The trainer service alone, for docker-compose: `python -m services.trainer`."""

import asyncio
import contextlib
import logging
import signal
import sys

from services.trainer.service import Trainer
from tandem.database import Database
from tandem.errors import TandemError
from tandem.settings import Settings, load_settings


async def serve(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM."""
    database = Database(settings.database)
    await asyncio.to_thread(database.migrate)
    running = asyncio.create_task(Trainer(settings, database).run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await running
    finally:
        database.close()


def main() -> int:
    """Entry point."""
    try:
        settings = load_settings()
        logging.basicConfig(level=settings.log_level, stream=sys.stderr)
        logging.getLogger("httpx").setLevel(
            logging.WARNING
        )  # it logs whole addresses, and a webhook's may hold a token
        asyncio.run(serve(settings))
    except TandemError as exc:
        print(exc.message, file=sys.stderr)  # noqa: T201 - the one line for whoever started it
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
