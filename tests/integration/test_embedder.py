import threading
from pathlib import Path

import numpy as np
import pytest

from tandem.embedder import Embedder
from tandem.errors import ModelUnavailable
from tandem.settings import EmbeddingSettings

LEAVE = "Employees may carry over up to five unused days of annual leave."
# The first numbers of what the original network gives in transformers 5.19 (float32, mean pooling, normalised).
REFERENCE = [0.04064, 0.0371, 0.08471, 0.06085, 0.07323, 0.04105, -0.00615, -0.08519]


def mixed_texts() -> list[str]:
    words = LEAVE.split()
    return [" ".join(words[n % 7 :] * (1 + n * n % 23)) for n in range(120)]


def test_vectors_are_those_of_the_original_network(embedder: Embedder):
    # A CPU that computes in bfloat16 rounds to about three digits.
    np.testing.assert_allclose(embedder.embed([LEAVE])[0, :8], REFERENCE, atol=2e-3)


def test_shape_type_and_length(embedder: Embedder):
    vectors = embedder.embed(mixed_texts())
    assert vectors.shape == (120, 384) == (120, embedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_make_no_vectors(embedder: Embedder):
    assert embedder.embed([]).shape == (0, 384)


def test_batching_and_order_change_nothing(embedder: Embedder):
    texts = mixed_texts()
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    assert np.min(np.sum(together * alone, axis=1)) > 0.9995


def test_meaning_is_nearer_than_words(embedder: Embedder):
    question, answer, decoy = embedder.embed(
        ["How many holidays can I take into next year?", LEAVE, "This year the next book is about many years."]
    )
    assert question @ answer > question @ decoy + 0.1


def test_empty_and_odd_texts_have_vectors(embedder: Embedder):
    vectors = embedder.embed(["", " ", "\x00\u200b", "日本語", "x" * 10_000])
    assert np.isfinite(vectors).all()


def test_only_the_first_tokens_are_read(embedder_dir: Path):
    short = Embedder(embedder_dir, EmbeddingSettings(max_tokens=32))
    head = "leave " * 30  # and the two tokens at the ends
    one, other = short.embed([head, head + "pension scheme"])
    assert one @ other > 0.9999
    assert short.count_tokens(head + "pension scheme") == 32


def test_threads_get_their_own_vectors(embedder: Embedder):
    texts = mixed_texts()
    expected = embedder.embed(texts)
    wrong: list[int] = []

    def ask(number: int) -> None:
        for text in range(number, 120, 6):
            if embedder.embed([texts[text]])[0] @ expected[text] < 0.9995:
                wrong.append(text)

    def ingest() -> None:
        if np.min(np.sum(embedder.embed(texts * 2) * np.concatenate([expected, expected]), axis=1)) < 0.9995:
            wrong.append(-1)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    threads.append(threading.Thread(target=ingest))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_the_model_is_named_with_its_digest(embedder: Embedder, embedder_dir: Path):
    assert embedder.model_id == embedder_dir.name
    assert embedder.model_id.startswith("all-MiniLM-L6-v2-")


def test_a_missing_model_names_the_command(tmp_path: Path):
    with pytest.raises(ModelUnavailable, match="tandem models"):
        Embedder(tmp_path / "absent", EmbeddingSettings())


def test_a_broken_model_is_told(tmp_path: Path, embedder_dir: Path):
    (tmp_path / "openvino_model.xml").write_text("<net")
    (tmp_path / "tokenizer.json").write_bytes((embedder_dir / "tokenizer.json").read_bytes())
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        Embedder(tmp_path, EmbeddingSettings())
