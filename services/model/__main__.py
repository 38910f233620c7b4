"""The model service alone, for docker-compose: `python -m services.model`."""

import asyncio
import logging
import signal
import sys

from services.model.server import ModelServer
from services.model.weights import ensure_models
from tandem.errors import TandemError
from tandem.registry import Registry
from tandem.settings import Settings, load_settings


async def serve(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM."""
    weights = await asyncio.to_thread(ensure_models, settings, embedder=False)
    server = ModelServer(settings, weights.base, Registry.open(settings))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    try:
        stopping = asyncio.create_task(stop.wait())
        ready = asyncio.create_task(server.wait_ready())
        await asyncio.wait({stopping, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            logging.getLogger(__name__).info("the model answers at %s", server.url)
        else:
            ready.cancel()
        await stopping
    finally:
        await server.stop()


def main() -> int:
    """Entry point."""
    try:
        settings = load_settings()
        logging.basicConfig(level=settings.log_level, stream=sys.stderr)
        asyncio.run(serve(settings))
    except TandemError as exc:
        print(exc.message, file=sys.stderr)  # noqa: T201 - the one line for whoever started it
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
