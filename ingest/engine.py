"""Where documents are read, split and embedded: in this process and its sandbox, or on a cluster (`ingest.ray_engine`).

What comes of it is published by the same code either way.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ingest.readers import Reading
from ingest.sandbox import Sandbox
from ingest.splitter import split
from tandem.embedder import Embedder, Vectors
from tandem.errors import DocumentError
from tandem.schemas import Chunk
from tandem.settings import IngestSettings, Settings, SplitterSettings


@dataclass(frozen=True)
class Job:
    """A file to be read. `name`: path or id, whose ending decides the format."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Prepared:
    """A file as read and split."""

    reading: Reading
    chunks: tuple[Chunk, ...]


class Engine(Protocol):
    """The stages of an ingest that need no database."""

    def prepare(
        self, jobs: Sequence[Job], splitter: SplitterSettings, model_id: str
    ) -> Iterator[Prepared | DocumentError]:
        """Reads and splits files.

        Args:
            jobs: The files.
            splitter: How long chunks are.
            model_id: The embedding model, part of each chunk's key.

        Returns:
            One outcome a job, in their order, as they become ready; a bad file is a DocumentError and stops nothing.
        """

    def embed(self, embedder: Embedder, texts: Sequence[str]) -> Vectors:
        """Embeds texts with this model: float32, shape (len(texts), dimension), each row of length 1."""

    def close(self) -> None:
        """Ends what the engine started."""


class LocalEngine:
    """One machine: files are read in a killable child process, one at a time, and embedded in this one.

    Args:
        settings: The child's limits.
        sandbox: A running one to share; it is then not closed here.
    """

    def __init__(self, settings: IngestSettings, sandbox: Sandbox | None = None) -> None:
        self._sandbox = sandbox or Sandbox(settings)
        self._owned = sandbox is None

    def prepare(
        self, jobs: Sequence[Job], splitter: SplitterSettings, model_id: str
    ) -> Iterator[Prepared | DocumentError]:
        for job in jobs:
            yield prepare(self._sandbox, job, splitter, model_id)

    def embed(self, embedder: Embedder, texts: Sequence[str]) -> Vectors:
        return embedder.embed(texts)

    def close(self) -> None:
        if self._owned:
            self._sandbox.close()


def prepare(sandbox: Sandbox, job: Job, splitter: SplitterSettings, model_id: str) -> Prepared | DocumentError:
    """Reads and splits one file."""
    try:
        reading = sandbox.parse(job.name, job.data)
    except DocumentError as exc:
        return exc
    return Prepared(reading, tuple(split(reading.text, reading.blocks, splitter, model_id)))


def open_engine(settings: Settings) -> Engine:
    """The engine that `ingest.engine` names.

    Raises:
        SettingsError: It is not installed.
        Unavailable: Its cluster does not answer.
    """
    if settings.ingest.engine == "local":
        return LocalEngine(settings.ingest)
    from ingest.ray_engine import RayEngine  # an extra

    return RayEngine(settings)
