"""Two rankings of the points that a person may find, made into one that depends on nothing else.

An engine breaks ties by where a point lies in its storage, and the last digit of a score by the points beside it. Both
would let documents that the asker may not read show through, so ranks are taken from rounded scores, and equals share
theirs: an id follows from how often its document was changed, also before the asker could read it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

# Reciprocal rank fusion scores 1 / (k + rank), ranks from 0.
RRF_K = 10
# Far above the noise of single precision, far below what tells two passages apart.
DIGITS = 5
_EQUAL = 2 * 10**-DIGITS
# So many times the points wanted may come back for being equals: a passage that hundreds of documents share.
_MOST = 8


@dataclass(frozen=True)
class Ranked:
    """A point as one ranking has it. `score`: higher is better; `similarity`: its cosine to the question."""

    id: str
    score: float
    similarity: float


@dataclass(frozen=True)
class Fused:
    """A point with its reciprocal rank score over all rankings."""

    id: str
    score: float
    similarity: float


_Point = TypeVar("_Point")


def settled_top(fetch: Callable[[int], Sequence[Ranked]], count: int) -> list[Ranked]:
    """The best points of a ranking, the same ones whichever of equally good points the engine puts first.

    Args:
        fetch: Gives the engine's best points, at most as many as asked for, best first.
        count: Points wanted.

    Returns:
        The best `count` and the equals of the last of them, by score, then id; at most `_MOST * count`.
    """
    limit = count + 1
    found = fetch(limit)
    # Equals of the last one that counts may lie beyond the limit, and which of them came in is chance.
    while len(found) == limit and found[-1].score > found[count - 1].score - _EQUAL:
        limit *= 2
        found = fetch(limit)
    ordered = sorted(found, key=lambda point: (-round(point.score, DIGITS), point.id))
    return _with_equals(ordered, count, lambda point: round(point.score, DIGITS))


def fuse(rankings: Iterable[Sequence[Ranked]], count: int) -> list[Fused]:
    """Fuses rankings by reciprocal rank.

    Args:
        rankings: Each best first.
        count: Points wanted.

    Returns:
        The best `count` and the equals of the last of them, by score, similarity and id; at most `_MOST * count`.
    """
    scores: dict[str, float] = {}
    similarity: dict[str, float] = {}
    for ranking in rankings:
        rank, last = 0, None
        for place, point in enumerate(ranking):
            if (score := round(point.score, DIGITS)) != last:
                rank, last = place, score
            scores[point.id] = scores.get(point.id, 0.0) + 1.0 / (RRF_K + rank)
            similarity[point.id] = round(point.similarity, DIGITS)
    fused = [Fused(id, score, similarity[id]) for id, score in scores.items()]
    ordered = sorted(fused, key=lambda point: (-point.score, -point.similarity, point.id))
    return _with_equals(ordered, count, lambda point: (point.score, point.similarity))


def _with_equals(ordered: Sequence[_Point], count: int, worth: Callable[[_Point], object]) -> list[_Point]:
    """Cuts after the equals of the last point that counts: which of them come first is for who knows the documents."""
    end = min(count, len(ordered))
    while 0 < end < min(len(ordered), _MOST * count) and worth(ordered[end]) == worth(ordered[end - 1]):
        end += 1
    return list(ordered[:end])
