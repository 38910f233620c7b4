"""The splitter: whole text, bounded chunks, boundaries that stay where they are."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import Document

from ingest.readers import Draft, Reading
from ingest.splitter import AnchoredNodeParser, recipe, split, weigh
from tandem.schemas import Chunk
from tandem.settings import SplitterSettings

SETTINGS = SplitterSettings()
WORDS = (
    "the of and a to in is you that it he was for on are as with his they at be this have from or one had by".split()
)


def paragraph(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) + str(rng.randrange(100)) for _ in range(words)).capitalize() + "."


def draft(sections: list[tuple[str, list[str]]]) -> Reading:
    made = Draft()
    for heading, paragraphs in sections:
        made.heading(1, heading)
        for text in paragraphs:
            made.add(text)
    return made.finish(fallback_title="t")


def chunks_of(reading: Reading, settings: SplitterSettings = SETTINGS) -> list[Chunk]:
    return split(reading.text, reading.blocks, settings, "model")


def keys(reading: Reading) -> set[str]:
    return {chunk.key for chunk in chunks_of(reading)}


def long_section(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [paragraph(rng, rng.randrange(8, 70)) for _ in range(count)]


@given(st.lists(st.lists(st.integers(1, 300), max_size=8), min_size=1, max_size=5), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_chunks_cover_the_text_in_order_and_stay_within_bounds(shape: list[list[int]], seed: int) -> None:
    rng = random.Random(seed)
    shape = [*shape, [5]]
    reading = draft([(f"H{n}", [paragraph(rng, words) for words in section]) for n, section in enumerate(shape)])
    found = chunks_of(reading)
    assert [chunk.ordinal for chunk in found] == list(range(len(found)))
    position = 0
    for chunk in found:
        assert chunk.start >= position
        assert chunk.text == reading.text[chunk.start : chunk.end]
        # A single sentence may be longer; nothing else.
        assert weigh(chunk.text) <= SETTINGS.max_words or ". " not in chunk.text
        assert weigh(chunk.text) <= 2 * SETTINGS.max_words
        position = chunk.end
    assert " ".join(chunk.text for chunk in found).split() == " ".join(block.text for block in reading.blocks).split()


def test_a_chunk_never_reaches_over_a_heading() -> None:
    found = chunks_of(draft([("One", ["Short."]), ("Two", ["Also short."])]))
    assert [(chunk.heading, chunk.text) for chunk in found] == [("One", "Short."), ("Two", "Also short.")]


@pytest.mark.parametrize("seed", range(5))
def test_a_paragraph_at_the_head_of_a_long_section_leaves_nine_tenths_alone(seed: int) -> None:
    paragraphs = long_section(seed, 120)
    before = keys(draft([("One", paragraphs)]))
    after = keys(draft([("One", ["Something entirely new stands here now.", *paragraphs])]))
    assert len(before) > 30
    assert len(before & after) >= 0.9 * len(before)


@pytest.mark.parametrize("seed", range(5))
def test_an_edited_paragraph_costs_few_chunks(seed: int) -> None:
    paragraphs = long_section(seed, 120)
    before = keys(draft([("One", paragraphs)]))
    paragraphs[60] = "Changed " + paragraphs[60]
    after = keys(draft([("One", paragraphs)]))
    assert 1 <= len(after - before) <= 4


def test_a_word_changed_in_each_of_many_sections_costs_hardly_more_than_a_chunk_each() -> None:
    sections = [(f"Section {n}", long_section(n, 30)) for n in range(60)]
    before = keys(draft(sections))
    for _, paragraphs in sections:
        words = paragraphs[15].split()
        words[len(words) // 2] = "changed"
        paragraphs[15] = " ".join(words)
    assert len(keys(draft(sections)) - before) <= 1.1 * len(sections)


def test_a_section_that_moves_keeps_its_keys() -> None:
    a, b = long_section(1, 10), long_section(2, 10)
    assert keys(draft([("A", a), ("B", b)])) == keys(draft([("B", b), ("A", a)]))


def test_the_heading_and_the_model_are_part_of_the_key() -> None:
    one, two = draft([("A", ["Same."])]), draft([("B", ["Same."])])
    assert keys(one).isdisjoint(keys(two))
    assert keys(one).isdisjoint({chunk.key for chunk in split(one.text, one.blocks, SETTINGS, "other")})


def test_pieces_of_a_table_repeat_its_header() -> None:
    made = Draft()
    made.heading(1, "Prices")
    made.add("All prices are in euros:")
    made.table([["Product", "Price"], *([f"Product number {n} of our range", f"EUR {n}"] for n in range(100))])
    found = chunks_of(made.finish(fallback_title="t"))
    assert len(found) > 4
    assert found[0].text.startswith("All prices are in euros:\nProduct | Price\nProduct number 0")
    for chunk in found[1:]:
        assert chunk.text.startswith("Product | Price\nProduct number")
        assert chunk.text.count("Product | Price") == 1
    rows = [line for chunk in found for line in chunk.text.splitlines() if line.startswith("Product number")]
    assert rows == [f"Product number {n} of our range | EUR {n}" for n in range(100)]


def test_what_a_colon_introduces_stays_with_it() -> None:
    items = "\n".join(f"- {paragraph(random.Random(n), 12)}" for n in range(30))
    made = Draft()
    made.add(paragraph(random.Random(99), 100))
    made.add("These are forbidden:")
    made.add(items, "list")
    found = chunks_of(made.finish(fallback_title="t"))
    holder = next(chunk for chunk in found if "These are forbidden:" in chunk.text)
    assert "These are forbidden:\n- " in holder.text


@pytest.mark.parametrize("text", ["x" * 100_000, "a1b2 " * 20_000, "\u6587" * 20_000, "word, " * 5_000])
def test_text_without_sentences_is_cut(text: str) -> None:
    reading = draft([("H", [text])])
    found = chunks_of(reading)
    assert len(found) > 5
    assert max(len(chunk.text) for chunk in found) < 8_000
    assert "".join("".join(chunk.text.split()) for chunk in found) == "".join(text.split())


def test_sentences_of_a_long_paragraph_are_not_torn() -> None:
    text = " ".join(f"Rule {n} says, e.g. Dr. Smith no. {n} pays 1.5 percent of EUR {n},000." for n in range(60))
    for chunk in chunks_of(draft([("H", [text])])):
        assert chunk.text.startswith("Rule ")
        assert chunk.text.endswith("000.")


def test_other_sizes_are_another_recipe() -> None:
    small = SplitterSettings(target_words=30, max_words=60)
    assert recipe(small) != recipe(SETTINGS)
    reading = draft([("One", long_section(3, 40))])
    assert len(chunks_of(reading, small)) > len(chunks_of(reading))


def test_the_node_parser_splits_documents_of_others_too() -> None:
    text = "\n\n".join(long_section(4, 30))
    nodes = AnchoredNodeParser().get_nodes_from_documents([Document(text=text, metadata={"title": "T"})])
    assert len(nodes) > 5
    for node in nodes:
        assert text[node.start_char_idx : node.end_char_idx] == node.text
        assert node.metadata["title"] == "T"
