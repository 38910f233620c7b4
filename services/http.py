"""An HTTP server inside a process that has other things to end, too."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Generator
from typing import Any

import uvicorn

from tandem.errors import Unavailable
from tandem.settings import ServerSettings


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process decides in which order its parts end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def stop_on_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def check_port(server: ServerSettings) -> None:
    """Looks whether the port is free, before anything slow is started.

    Raises:
        Unavailable: It is taken, or the address is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as exc:
            raise Unavailable(
                f"Port {server.port} on {server.host} cannot be used: {exc.strerror}. End the program that holds it, "
                f"or take another: --port {server.port + 1}, or TANDEM_SERVER__PORT."
            ) from exc


@contextlib.asynccontextmanager
async def listening(app: Any, server: ServerSettings) -> AsyncIterator[None]:
    """Serves an ASGI application for as long as the block runs.

    Raises:
        Unavailable: The port is taken.
    """
    check_port(server)
    config = uvicorn.Config(
        app,
        host=server.host,
        port=server.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    http = _Server(config)
    serving = asyncio.create_task(http.serve(), name="http")
    try:
        while not http.started:
            if serving.done():
                raise Unavailable(f"The HTTP server could not start on {server.host}:{server.port}.")
            await asyncio.sleep(0.02)
        yield
    finally:
        http.should_exit = True
        with contextlib.suppress(SystemExit):  # uvicorn's way to say that it could not start
            await serving
