"""What goes into the vector index and what comes out of it."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from tandem.sparse import SparseVector


@dataclass(frozen=True)
class Point:
    """A chunk as the index stores it. Nobody finds it until its version is settled.

    Attributes:
        id: The chunk's id (a UUID).
        dense: float32, shape (dimension,), of length 1.
    """

    id: str
    document_id: str
    version_id: str
    dense: npt.NDArray[np.float32]
    sparse: SparseVector


@dataclass(frozen=True)
class Scope:
    """What a search may find.

    Attributes:
        as_of: The day that must lie in a version's live interval.
        groups: The asker's groups, at least one; None: an admin, who reads all.
        admitted: Versions that are found whatever the index says of them, because the database says so.
        excluded: Versions that are not found whatever the index says of them.
    """

    as_of: date
    groups: frozenset[str] | None
    admitted: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.groups is not None and not self.groups:
            # Qdrant takes an empty condition for "everything".
            raise ValueError("A scope without groups finds nothing; it must not be searched.")


@dataclass(frozen=True)
class Hit:
    """A point that was found. `score` is the fused rank score, `similarity` the cosine, -1 to 1."""

    chunk_id: str
    score: float
    similarity: float
