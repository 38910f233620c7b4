import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from services.model.weights import EMBEDDERS, ensure_models
from tandem.embedder import Embedder
from tandem.errors import ModelUnavailable
from tandem.settings import EmbeddingSettings, load_settings
from tandem.weights import embedder_name, model_dir

LEAVE = "Employees may carry over up to five unused days of annual leave."
# The first numbers of what the original network gives in transformers 5.19 (float32, mean pooling, normalised).
REFERENCE = [0.04064, 0.0371, 0.08471, 0.06085, 0.07323, 0.04105, -0.00615, -0.08519]


def mixed_texts() -> list[str]:
    words = LEAVE.split()
    return [" ".join(words[n % 7 :] * (1 + n * n % 23)) for n in range(120)]


@pytest.fixture(scope="module")
def exact() -> Embedder:
    """The same network in float32."""
    chosen = load_settings(embedding={"model": "all-MiniLM-L6-v2"})
    return Embedder(ensure_models(chosen, base=False).embedder, chosen.embedding)


def test_vectors_are_those_of_the_original_network(exact: Embedder):
    # A CPU that computes in bfloat16 rounds to about three digits.
    np.testing.assert_allclose(exact.embed([LEAVE])[0, :8], REFERENCE, atol=2e-3)


def test_int8_vectors_are_near_those_in_float32(exact: Embedder):
    chosen = load_settings(embedding={"model": "all-MiniLM-L6-v2-int8"})
    embedder = Embedder(ensure_models(chosen, base=False).embedder, chosen.embedding)
    texts = mixed_texts()
    # CPUs without VNNI saturate sums of two products, and come out a little further off.
    assert np.min(np.sum(embedder.embed(texts) * exact.embed(texts), axis=1)) > 0.97


def test_each_model_has_a_folder_and_a_name_of_its_own():
    folders = set()
    for model in EMBEDDERS:
        chosen = load_settings(embedding={"model": model})
        assert model_dir(chosen, model) == ensure_models(chosen, base=False).embedder
        folders.add(model_dir(chosen, model))
    assert len(folders) == len(EMBEDDERS)


def test_a_model_without_a_recipe_names_those_that_have_one():
    with pytest.raises(ModelUnavailable, match="TANDEM_EMBEDDING__MODEL to 'all-MiniLM-L6-v2-int8' or"):
        ensure_models(load_settings(embedding={"model": "other"}), base=False)


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


def test_many_at_once_with_several_batches_each_do_not_wait_for_one_another(embedder_dir: Path):
    # Small batches: each of them wants more than one request, and there are fewer requests than callers.
    embedder = Embedder(embedder_dir, EmbeddingSettings(batch_tokens=256))
    texts = mixed_texts()[:24]
    expected = embedder.embed(texts)
    done: list[int] = []

    def ask(number: int) -> None:
        for _ in range(12):
            found = embedder.embed(texts)
        done.append(number)
        assert np.min(np.sum(found * expected, axis=1)) > 0.9995

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(done) == list(range(8)), "callers hold requests and wait for each other's"


def test_the_model_is_named_with_its_digest(embedder: Embedder, embedder_dir: Path):
    assert embedder.model_id == embedder_dir.name
    assert embedder.model_id.rsplit("-", 1)[0] == embedder_name(load_settings())


async def test_the_event_loop_answers_while_texts_and_questions_are_embedded(embedder: Embedder):
    began = time.monotonic()
    ingest = asyncio.create_task(asyncio.to_thread(embedder.embed, mixed_texts()))
    pauses: list[float] = []

    async def beat() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.01)
            pauses.append(time.monotonic() - started)

    heart = asyncio.create_task(beat())
    answered = 0
    while not ingest.done():
        await asyncio.to_thread(embedder.embed, [LEAVE])
        answered += 1
    heart.cancel()
    # The first question comes back in the middle of the ingest, and others after it.
    assert answered > 3
    assert sorted(pauses)[len(pauses) // 2] < 0.1
    # On the loop itself one pause would be as long as the whole; a busy machine makes short ones.
    assert max(pauses) < 0.5 * (time.monotonic() - began)


def test_a_missing_model_names_the_command(tmp_path: Path):
    with pytest.raises(ModelUnavailable, match="tandem models"):
        Embedder(tmp_path / "absent", EmbeddingSettings())


def test_a_broken_model_is_told(tmp_path: Path, embedder_dir: Path):
    (tmp_path / "openvino_model.xml").write_text("<net")
    (tmp_path / "tokenizer.json").write_bytes((embedder_dir / "tokenizer.json").read_bytes())
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        Embedder(tmp_path, EmbeddingSettings())


FIRST = """
import sys, threading
from pathlib import Path
from tandem.embedder import Embedder
from tandem.settings import EmbeddingSettings
sys.setswitchinterval(1e-6)
embedder, start = Embedder(Path(sys.argv[1]), EmbeddingSettings()), threading.Barrier(8)
def ask():
    start.wait()
    embedder.embed(["How many days?"])
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_the_first_questions_of_a_process_may_come_at_once(embedder_dir: Path):
    for _ in range(4):  # eight of twelve such processes hung for ever
        subprocess.run([sys.executable, "-c", FIRST, str(embedder_dir)], check=True, timeout=60)
