"""What a run did, and what a deletion removed: the values that the command line and the API show."""

from typing import Literal

from pydantic import Field

from tandem.errors import Reason
from tandem.schemas import Value

# Where the row of a run that is going on keeps how far it has got.
PROGRESS = "progress"


class Failure(Value):
    """A document that was not ingested; if it was before, its last good version stays."""

    path: str
    reason: Reason
    message: str


class Statement(Value):
    """A sentence of a document, with where it stands and who may read it (`None`: admins only)."""

    document_id: str
    title: str
    heading: str
    sentence: str
    groups: tuple[str, ...] | None


class Contradiction(Value):
    """Two documents that say the same of the same thing with another figure.

    Attributes:
        first: In the document that was ingested.
        second: In another one that is in force at the same time.
        figures: The figures that differ, as the first and the second write them.
    """

    first: Statement
    second: Statement
    figures: tuple[str, str]

    @property
    def sentence(self) -> str:
        """The warning for the person who ingested."""
        one, other = self.first, self.second
        under = f" under {one.heading.rsplit(' > ', 1)[-1]!r}" if one.heading else ""
        return (
            f"{one.document_id} and {other.document_id} contradict each other{under}: {one.sentence!r} (readable by "
            f"{_readers(one.groups)}) against {other.sentence!r} (readable by {_readers(other.groups)})."
        )


class Removed(Value):
    """What stores held of deleted documents.

    Attributes:
        versions, chunks: Texts in the state database.
        points: Vectors in the index.
        embeddings: Stored embeddings that no other document needs; the `shared` ones are of texts that others hold too.
        answers: Receipts, of all people, that quote them or that carry such an answer on in their conversation.
        feedback: Thumbs and comments on these answers.
        style_candidates: Examples for training made from them.
    """

    versions: int = 0
    chunks: int = 0
    points: int = 0
    embeddings: int = 0
    embeddings_shared: int = 0
    answers: int = 0
    feedback: int = 0
    style_candidates: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(**{name: getattr(self, name) + getattr(other, name) for name in Removed.model_fields})


class IngestReport(Value):
    """What a run did. The lists hold document ids, sorted.

    Attributes:
        chunks_embedded: Texts that had to be embedded.
        chunks_reused: Chunks whose embedding was there already, those of unchanged documents included.
        removed: What the deleted documents held; None where nothing was deleted.
        warnings: Sentences for the person who ran it.
        contradictions: What new text says against other documents; each is among the warnings, too.
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
    removed: Removed | None = None
    warnings: tuple[str, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    dry_run: bool = False


class Progress(Value):
    """Where a run is. `total` counts the documents found, `done` those read, published or deleted. At the stage
    `embed` both count the texts of the group at hand, at the stage `reindex` versions.
    """

    stage: Literal["read", "embed", "publish", "delete", "reindex"]
    done: int
    total: int
    path: str = ""


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


class DeletionReport(Removed):
    """What the deletion of a document removed, and what a look into each store found afterwards.

    Attributes:
        adapters: Adapters in the registry that learned from examples made of it; training anew forgets them.
        notes: What cannot be probed, and why that is no text of the document.
        remaining: Store -> what is still there; all zero when the deletion is complete.
    """

    document_id: str
    adapters: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    remaining: dict[str, int] = Field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every store was found empty of the document."""
        return not any(self.remaining.values())


def _readers(groups: tuple[str, ...] | None) -> str:
    return "admins only" if groups is None else ", ".join(groups) or "nobody"
