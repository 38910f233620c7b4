"""nDCG@10 of dense, BM25 (frozen table) and hybrid search on two public collections, computed exactly.

The ranking is that of `VectorIndex.query`: the best candidates of each side, reciprocal rank fusion with its constant.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from services.model.weights import ensure_models
from tandem.embedder import Embedder
from tandem.fusion import Ranked, fuse
from tandem.settings import REPOSITORY, Settings
from tandem.sparse import SparseEncoder

COLLECTIONS = REPOSITORY.parent / "shared" / "data" / "ir"
CUT = 10


def read_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ndcg(ranked: list[str], relevant: dict[str, float]) -> float:
    gain = sum(relevant.get(id, 0) / math.log2(place + 2) for place, id in enumerate(ranked[:CUT]))
    best = sorted(relevant.values(), reverse=True)[:CUT]
    return gain / sum(value / math.log2(place + 2) for place, value in enumerate(best))


def best_first(scores: npt.NDArray[Any]) -> list[int]:
    return [int(place) for place in np.argsort(-scores, kind="stable")]


def fused(dense: npt.NDArray[Any], words: npt.NDArray[Any], candidates: int) -> list[int]:
    """As the service fuses them."""
    near, said = best_first(dense)[:candidates], [n for n in best_first(words)[:candidates] if words[n] > 0]
    rankings = [
        [Ranked(str(n), float(scores[n]), float(dense[n])) for n in side]
        for side, scores in ((near, dense), (said, words))
    ]
    return [int(point.id) for point in fuse(rankings, 2 * candidates)]


@pytest.mark.parametrize("name", ["cranfield", "med"])
def test_hybrid_is_no_worse_than_either(name: str, settings: Settings) -> None:
    folder = COLLECTIONS / name
    if not folder.is_dir():
        pytest.skip(f"the collection {str(folder)!r} is not here")
    documents, questions = read_lines(folder / "corpus.jsonl"), read_lines(folder / "queries.jsonl")
    relevant: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        question, document, grade = line.split("\t")
        relevant.setdefault(question, {})[document] = float(grade)
    questions = [question for question in questions if question["_id"] in relevant]
    texts = [
        text if text.startswith(title) else f"{title}\n{text}"
        for title, text in ((document.get("title", ""), document["text"]) for document in documents)
    ]
    embedder = Embedder(ensure_models(settings, base=False).embedder, settings.embedding)
    dense = embedder.embed([question["text"] for question in questions]) @ embedder.embed(texts).T
    sparse = SparseEncoder()
    stored = [dict(zip(v.indices, v.values, strict=True)) for v in map(sparse.encode_document, texts)]
    scores: dict[str, list[float]] = {"dense": [], "BM25": [], "hybrid": []}
    for row, question in zip(dense, questions, strict=True):
        asked = sparse.encode_query(question["text"])
        terms = list(zip(asked.indices, asked.values, strict=True))
        words = np.array([sum(weight * document.get(term, 0.0) for term, weight in terms) for document in stored])
        rankings = (best_first(row), best_first(words), fused(row, words, settings.retrieval.candidates))
        for way, ranking in zip(scores, rankings, strict=True):
            ids = [documents[n]["_id"] for n in ranking[:CUT]]
            scores[way].append(ndcg(ids, relevant[question["_id"]]))
    means = {way: float(np.mean(values)) for way, values in scores.items()}
    print(f"\n{name:10} {embedder.model_id}  " + "  ".join(f"{way} {mean:.4f}" for way, mean in means.items()))
    assert means["hybrid"] >= max(means["dense"], means["BM25"])
