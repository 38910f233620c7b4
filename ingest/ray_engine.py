"""Reading, splitting and embedding on the workers of a Ray cluster. Publishing stays with the process that ingests.

Needs the extra `ray`. Every worker needs this package and the prepared embedding model, as the machine that starts the
run has them; neither needs the database or the index.
"""

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ingest.engine import Job, Prepared, prepare
from ingest.sandbox import Sandbox
from tandem.embedder import Embedder, Vectors
from tandem.errors import DocumentError, SettingsError, Unavailable
from tandem.settings import IngestSettings, Settings, SplitterSettings
from tandem.weights import models_dir

# Texts that one worker embeds at once: enough for full batches, few enough that all workers have some.
_TEXTS = 64


class RayEngine:
    """Shares the stages out among `ingest.ray_workers` workers.

    Args:
        settings: Limits, the number of workers, the cluster's address; without one a cluster of this machine's own is
            started and ended.

    Raises:
        SettingsError: The extra `ray` is not installed.
        Unavailable: The cluster does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._ray = _import_ray()
        self._settings = settings
        self._workers = settings.ingest.ray_workers
        self._owned = not self._ray.is_initialized()
        if self._owned:
            self._connect(settings.ingest)
        reader = self._ray.remote(num_cpus=0.5, max_restarts=-1, max_task_retries=2)(_Reader)
        self._readers = [reader.remote(settings.ingest) for _ in range(self._workers)]
        self._embedders: dict[str, list[Any]] = {}

    def prepare(
        self, jobs: Sequence[Job], splitter: SplitterSettings, model_id: str
    ) -> Iterator[Prepared | DocumentError]:
        outcomes = self._shared_out(self._readers, "prepare", [(job, splitter, model_id) for job in jobs])
        for outcome in outcomes:
            # An exception as a value loses its class on the way, so it travels as its two parts.
            yield outcome if isinstance(outcome, Prepared) else DocumentError(*outcome)

    def embed(self, embedder: Embedder, texts: Sequence[str]) -> Vectors:
        workers = self._embedders.get(embedder.model_id)
        if workers is None:
            actor = self._ray.remote(num_cpus=0.5, max_restarts=-1, max_task_retries=2)(_Embedder)
            workers = [actor.remote(self._settings, embedder.model_id) for _ in range(self._workers)]
            self._embedders[embedder.model_id] = workers
        # By length, as within a batch: a worker that pads short texts to a long one computes for nothing.
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        parts = [order[start : start + _TEXTS] for start in range(0, len(order), _TEXTS)]
        vectors = np.zeros((len(texts), embedder.dimension), dtype=np.float32)
        outcomes = self._shared_out(workers, "embed", [([texts[n] for n in part],) for part in parts])
        for part, found in zip(parts, outcomes, strict=True):
            vectors[part] = found
        return vectors

    def close(self) -> None:
        for worker in (*self._readers, *(worker for each in self._embedders.values() for worker in each)):
            self._ray.kill(worker)
        if self._owned:
            self._ray.shutdown()

    def _connect(self, settings: IngestSettings) -> None:
        own = {} if settings.ray_address else {"num_cpus": max(1, self._workers), "include_dashboard": False}
        try:
            self._ray.init(address=settings.ray_address, log_to_driver=False, configure_logging=False, **own)
        except (ConnectionError, RuntimeError, ValueError, OSError) as exc:
            raise Unavailable(
                f"The Ray cluster {settings.ray_address or 'of this machine'!r} does not answer: {exc}. "
                "Check TANDEM_INGEST__RAY_ADDRESS, or ingest with --engine local."
            ) from exc

    def _shared_out(self, workers: Sequence[Any], method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """The results in the calls' order; each worker has at most two calls at a time, so that none gathers many."""
        waiting: list[Any] = []
        for n, call in enumerate(calls):
            if len(waiting) >= 2 * len(workers):
                yield self._result(waiting.pop(0))
            waiting.append(getattr(workers[n % len(workers)], method).remote(*call))
        for future in waiting:
            yield self._result(future)

    def _result(self, future: Any) -> Any:
        try:
            return self._ray.get(future)
        except self._ray.exceptions.RayError as exc:
            last = str(exc).strip().splitlines()[-1]
            raise Unavailable(
                f"A worker of the Ray cluster failed: {last}. What was published stays; run the ingest again."
            ) from exc


class _Reader:
    """Runs on a worker: reads and splits files in a sandbox of its own."""

    def __init__(self, settings: IngestSettings) -> None:
        self._sandbox = Sandbox(settings)

    def prepare(self, job: Job, splitter: SplitterSettings, model_id: str) -> Prepared | tuple[str, str]:
        outcome = prepare(self._sandbox, job, splitter, model_id)
        return outcome if isinstance(outcome, Prepared) else (outcome.reason, outcome.message)


class _Embedder:
    """Runs on a worker: one copy of the embedding model, on one core."""

    def __init__(self, settings: Settings, model_id: str) -> None:
        alone = settings.embedding.model_copy(update={"threads": 1})
        self._embedder = Embedder(models_dir(settings) / model_id, alone)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._embedder.embed(texts)


def _import_ray() -> ModuleType:
    try:
        import ray
    except ModuleNotFoundError as exc:
        raise SettingsError(
            "The engine `ray` is not installed: run `pip install 'tandem-assistant[ray]'`, "
            "or ingest with --engine local."
        ) from exc
    module: ModuleType = ray
    return module
