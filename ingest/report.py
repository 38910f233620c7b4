"""What a run did, and what a deletion removed: the values that the command line and the API show."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from tandem.errors import Reason
from tandem.schemas import Value


class Failure(Value):
    """A document that was not ingested; if it was before, its last good version stays."""

    path: str
    reason: Reason
    message: str


class IngestReport(Value):
    """What a run did. The lists hold document ids, sorted.

    Attributes:
        chunks_embedded: Texts that had to be embedded.
        chunks_reused: Chunks whose embedding was there already, those of unchanged documents included.
        warnings: Sentences for the person who ran it.
        dry_run: Nothing was written; the lists say what would happen.
    """

    run_id: str
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    chunks_embedded: int = 0
    chunks_reused: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    dry_run: bool = False


class Progress(Value):
    """Where a run is. `total` and `done` count documents, or chunks at the stages `embed` and `reindex`."""

    stage: Literal["read", "embed", "publish", "delete", "reindex"]
    done: int
    total: int
    path: str = ""


OnProgress = Callable[[Progress], None]


class ReindexReport(Value):
    """What building another generation took.

    Attributes:
        generation: Its id.
        model_id: The embedding model.
        splitter: Version and sizes of the splitter.
        versions: Versions of documents in it.
    """

    generation: str
    model_id: str
    splitter: str
    versions: int
    chunks_embedded: int
    chunks_reused: int
    seconds: float


class DeletionReport(Value):
    """What the deletion of a document removed, and what a look into each store found afterwards.

    Attributes:
        remaining: Store -> what is still there; all zero when the deletion is complete.
    """

    document_id: str
    versions: int = 0
    chunks: int = 0
    points: int = 0
    embeddings: int = 0
    answers: int = 0
    style_candidates: int = 0
    remaining: dict[str, int] = Field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every store was found empty of the document."""
        return not any(self.remaining.values())
