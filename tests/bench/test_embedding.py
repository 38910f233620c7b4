"""Chunks a second on the CPU against sentence-transformers as it comes, on the same texts, in turns in one run."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ingest.readers import reader_for
from ingest.splitter import split
from services.model.weights import EMBEDDER, EMBEDDERS, ensure_models
from tandem.embedder import Embedder
from tandem.settings import REPOSITORY, Settings, load_settings

POLICIES = REPOSITORY.parent / "shared" / "data" / "site-policy" / "v2"
TEXTS = 1024
ROUNDS = 4


def chunk_texts(settings: Settings) -> list[str]:
    """Chunks as an ingest embeds them: of the policies where they are, and of the samples, varied to be enough."""
    roots = [root for root in (POLICIES, REPOSITORY / "samples" / "corpus") if root.is_dir()]
    texts: list[str] = []
    for path in sorted(path for root in roots for path in root.rglob("*") if path.suffix in {".md", ".html"}):
        reading = reader_for(path.name).read(path.name, path.read_bytes())
        texts += [chunk.embedding_text for chunk in split(reading.text, reading.blocks, settings.splitter, "")]
    texts = list(dict.fromkeys(texts))
    for n in range(TEXTS - len(texts)):
        words = texts[n].split()
        texts.append(" ".join(words[n % len(words) :] + words[: n % len(words)]) + f" {n}")
    order = np.random.default_rng(0).permutation(len(texts))[:TEXTS]
    return [texts[n] for n in order]


def test_speed_and_nearness(settings: Settings) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is missing: pip install -e '.[bench]'")
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    texts = chunk_texts(settings)
    usual = SentenceTransformer(str(EMBEDDER.source_file().parent), device="cpu")  # float32, batches of 32
    ways: dict[str, Callable[[Sequence[str]], Any]] = {"sentence-transformers": lambda some: usual.encode(list(some))}
    for name in EMBEDDERS:
        chosen = load_settings(embedding={"model": name})
        ways[name] = Embedder(ensure_models(chosen, base=False).embedder, chosen.embedding).embed
    slices = [texts[start : start + TEXTS // ROUNDS] for start in range(0, TEXTS, TEXTS // ROUNDS)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    computing: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[Any]] = {name: [] for name in ways}
    for embed in ways.values():
        embed(texts[:64])
    for some in slices:
        for name, embed in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found[name].append(embed(some))
            seconds[name].append(time.perf_counter() - wall)
            computing[name].append(time.process_time() - cpu)
    reference = np.concatenate(found["sentence-transformers"])
    base, base_cpu = (statistics.median(times["sentence-transformers"]) for times in (seconds, computing))
    print(f"\n{len(texts)} chunks, {os.cpu_count()} cores; ratios to sentence-transformers; cosine to its vectors")
    for name in ways:
        wall, cpu = statistics.median(seconds[name]), statistics.median(computing[name])
        cosine = np.sum(np.concatenate(found[name]) * reference, axis=1)
        print(
            f"{name:24} {len(slices[0]) / wall:7.1f} chunks/s  {base / wall:4.2f} times  "
            f"CPU {cpu:6.2f} s, {base_cpu / cpu:4.2f} times  cosine min {cosine.min():.4f} mean {cosine.mean():.4f}"
        )
