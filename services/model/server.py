"""vLLM as a supervised child process."""

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from services.model import lora_plugin
from services.model.invocation import command, environment, on_cpu
from services.model.pulse import first_token, until_it_hangs
from tandem.completions import Completions
from tandem.errors import AdapterError, ModelUnavailable, TandemError, Unavailable
from tandem.registry import AdapterRef, Registry
from tandem.settings import Settings

log = logging.getLogger(__name__)

LEASH = Path(__file__).parent.parent / "leash.py"
LOG_BYTES = 20_000_000  # an older log is moved aside at a start
_STOP_GRACE = 15.0
_MAX_BACKOFF = 30.0
_HEALTHY = 120.0  # seconds of running after which a crash counts as the first again
_HOPELESS = 3  # starts that failed before the first answer ever


class ModelServer:
    """Starts vLLM, restarts it when it dies or hangs, and loads its adapters again.

    The event loop that calls `start` must belong to a thread that lives as long as the server: on Linux a child is
    told of its parent's death by the thread that started it.

    Args:
        settings: `settings.model` decides the flags; the log goes to the data directory.
        base_dir: Folder of the base model.
        registry: Its active version of `settings.adapter.name` is loaded at each start.
    """

    def __init__(self, settings: Settings, base_dir: Path, registry: Registry) -> None:
        self._settings = settings
        self._base_dir = base_dir
        self._registry = registry
        self._host = settings.model.host
        self._port = settings.model.port
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._client: Completions | None = None
        self._loaded: dict[str, AdapterRef] = {}
        self._stopping = False
        self._failure: ModelUnavailable | None = None
        self._ready = asyncio.Event()
        self._was_ready = False
        self.restarts = 0

    @property
    def url(self) -> str:
        """The endpoint, ending in /v1. Known once `start` has returned."""
        host = "127.0.0.1" if self._host == "0.0.0.0" else self._host
        return f"http://{host}:{self._port}/v1"

    @property
    def log_path(self) -> Path:
        return self._settings.data_dir / "logs" / "vllm.log"

    @property
    def pid(self) -> int | None:
        """Process that holds vLLM on its leash; None when it is not running."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts the child and its supervision; returns before vLLM answers.

        Raises:
            ModelUnavailable: vLLM is not installed, or the folder holds no model.
            Unavailable: The port is in use.
        """
        if importlib.util.find_spec("vllm") is None:
            raise ModelUnavailable(
                "vLLM is not installed: run `make install`, or set TANDEM_MODEL__URL to an OpenAI-compatible endpoint."
            )
        if not (self._base_dir / "config.json").is_file():
            raise ModelUnavailable(
                f"The model folder {str(self._base_dir)!r} holds no config.json: run `tandem models`, or correct "
                "TANDEM_MODEL__PATH."
            )
        if on_cpu() and not lora_plugin.installed():
            log.warning(
                "vLLM will not find Tandem's plugin %r, because this installation is older than the code: adapters are "
                "many times slower and may leak into answers of the base model. Run `make install`.",
                lora_plugin.NAME,
            )
        self._port = _free_port(self._host, self._settings.model.port)
        key = self._settings.model.api_key
        self._client = Completions(self.url, key.get_secret_value() if key else None, self._settings.model.timeout)
        self._stopping = False
        await self._spawn()
        self._supervisor = asyncio.create_task(self._supervise(), name="vllm supervisor")

    async def wait_ready(self) -> None:
        """Waits until vLLM has answered with a token.

        Raises:
            ModelUnavailable: It ended again and again, or took longer than `settings.model.startup_timeout`.
        """
        waiting = asyncio.create_task(self._ready.wait())
        try:
            async with asyncio.timeout(self._settings.model.startup_timeout):
                while not waiting.done():
                    await asyncio.wait({waiting}, timeout=0.2)
                    if self._failure is not None:
                        raise self._failure
        except TimeoutError as exc:
            raise ModelUnavailable(
                f"vLLM did not answer within {self._settings.model.startup_timeout:.0f} s "
                f"(TANDEM_MODEL__STARTUP_TIMEOUT): see {str(self.log_path)!r}."
            ) from exc
        finally:
            waiting.cancel()

    async def load_adapter(self, ref: AdapterRef) -> None:
        """Loads an adapter, now and after each restart.

        Raises:
            AdapterError: It is broken, or vLLM refuses it.
            ModelUnavailable: vLLM does not answer.
        """
        await asyncio.to_thread(self._registry.verify, ref)
        await self._completions.load_adapter(ref.served, ref.path)
        self._loaded[ref.served] = ref

    async def unload_adapter(self, ref: AdapterRef) -> None:
        """Has vLLM forget an adapter. Raises what `load_adapter` raises."""
        self._loaded.pop(ref.served, None)
        await self._completions.unload_adapter(ref.served)

    async def stop(self) -> None:
        """Ends vLLM with all its processes. Safe to call twice."""
        self._stopping = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        await self._end_process()
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        self._ready.clear()

    @property
    def _completions(self) -> Completions:
        if self._client is None:
            raise ModelUnavailable("The model server is not started.")
        return self._client

    async def _spawn(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with self.log_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-S",  # the leash needs no packages
                str(LEASH),
                str(os.getpid()),
                *self.command(),
                env=environment(self._settings.model),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # a group of its own: Ctrl-C is for us to pass on
            )

    async def _supervise(self) -> None:
        failures = 0
        while True:
            assert self._process is not None
            started = time.monotonic()
            watch = asyncio.create_task(self._watch(self._process), name="vllm watch")
            try:
                code = await self._process.wait()
            finally:
                watch.cancel()
            self._ready.clear()
            await self._end_process()  # what the leash may have left, if it was killed itself
            if self._stopping:
                return
            failures = 1 if time.monotonic() - started > _HEALTHY else failures + 1
            if not self._was_ready and failures >= _HOPELESS:
                self._failure = ModelUnavailable(
                    f"vLLM ended {failures} times before its first answer: {_last_line(self.log_path)} "
                    f"The whole log is {str(self.log_path)!r}."
                )
                log.error(self._failure.message)
                return
            pause = min(_MAX_BACKOFF, 2.0 ** (failures - 1))
            log.warning("vLLM ended with status %s; it is started again in %.0f s", code, pause)
            await asyncio.sleep(pause)
            self.restarts += 1
            await self._spawn_again()

    async def _spawn_again(self) -> None:
        """Starts it as soon as the system lets it, which may lack memory, processes or disk for a while."""
        pause = 1.0
        while True:
            try:
                return await self._spawn()
            except OSError as exc:
                log.error("vLLM cannot be started (%s); it is tried again in %.0f s", exc, pause)
                await asyncio.sleep(pause)
                pause = min(_MAX_BACKOFF, 2 * pause)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Announces a vLLM that answers, and ends one that no longer does: its supervision then starts another."""
        model = self._settings.model
        try:
            # How long the first start may take is for `wait_ready` to say.
            async with asyncio.timeout(model.startup_timeout if self._was_ready else None):
                await self._announce()
        except TimeoutError:
            log.error("vLLM has not answered within %.0f s of its start; another is started", model.startup_timeout)
        else:
            await until_it_hangs(self._completions, model.name, model.hang_timeout)
            log.error("vLLM runs and has given no token for %.0f s; another is started", model.hang_timeout)
        with contextlib.suppress(ProcessLookupError):
            process.terminate()

    async def _announce(self) -> None:
        """Waits for the first token: vLLM's /health says yes before the engine can answer."""
        await first_token(self._completions, self._settings.model.name)
        for ref in list(self._loaded.values()):
            try:
                await self._completions.load_adapter(ref.served, ref.path)
            except TandemError as exc:
                log.warning("the adapter %s is not loaded again: %s", ref.served, exc.message)
        self._was_ready = True
        self._ready.set()

    async def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_GRACE)
            except TimeoutError:
                log.warning("vLLM did not end within %.0f s and is killed", _STOP_GRACE)
        # The whole group: the leash, the server, its engine and workers.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    def command(self) -> list[str]:
        """vLLM's command line."""
        return command(self._settings.model, self._base_dir, self._port, self._wanted())

    def _wanted(self) -> list[AdapterRef]:
        """The versions to start with. A broken one must not keep vLLM from starting."""
        wanted = []
        for served in self._registry.speaking(self._settings.adapter.name):
            try:
                self._registry.check(served)
                wanted.append(served)
            except AdapterError as exc:
                log.warning("vLLM starts without an adapter: %s", exc.message)
        return wanted


def _free_port(host: str, wanted: int) -> int:
    """The port asked for, if nobody has it; for 0 a free one.

    Raises:
        Unavailable: Somebody has it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as exc:
            raise Unavailable(
                f"Port {wanted} for the model server is in use ({exc.strerror}): set TANDEM_MODEL__PORT to another, "
                "or to 0 for any free one."
            ) from exc
        return int(probe.getsockname()[1])


def _last_line(path: Path) -> str:
    """The line of a log that says most: the last one with an error."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-200:]
    except OSError:
        return "it left no log."
    telling = [line.strip() for line in lines if "Error" in line and not line.lstrip().startswith(("File", "^"))]
    return (telling or [line.strip() for line in lines if line.strip()] or ["it left no log."])[-1][:300]
