"""Reading style examples."""

import json
from pathlib import Path

import pytest

from tandem.errors import ExampleError
from training.examples import data_digest, group_by_sources, load_examples

SHORT = {
    "question": "How long?",
    "sources": [{"title": "T", "heading": "H", "text": "It takes 5 days."}],
    "answer": "It takes 5 days [1].",
    "approved_by": "ada",
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_both_forms_mean_the_same(tmp_path: Path):
    chat = {key: value for key, value in SHORT.items() if key not in ("question", "answer")}
    chat["messages"] = [
        {"role": "system", "content": "ignored"},
        {"role": "user", "content": SHORT["question"]},
        {"role": "assistant", "content": SHORT["answer"]},
    ]
    one, two = load_examples(write(tmp_path / "e.jsonl", SHORT, "", chat))
    assert one == two
    assert one.answerable


def test_declining_examples_are_known(tmp_path: Path):
    row = SHORT | {"answer": "I can't find that in the documents.\n\nQuestions? Ask the document owner."}
    assert not load_examples(write(tmp_path / "e.jsonl", row))[0].answerable


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", r"line 2: not JSON"),
        ("[1]", r"line 2: a JSON object is needed"),
        (SHORT | {"answer": "  "}, r"line 2: 'answer' is wrong"),
        (SHORT | {"sources": [{"title": "no text"}]}, r"line 2: 'sources.0.text' is wrong"),
        (SHORT | {"colour": "blue"}, r"line 2: 'colour' is wrong"),
        ({"messages": [{"role": "user", "content": "?"}]}, r"line 2: 'messages' must end with"),
        ({"messages": "no list"}, r"line 2: 'messages' must end with"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: object, said: str):
    with pytest.raises(ExampleError, match=said):
        load_examples(write(tmp_path / "e.jsonl", SHORT, line))


def test_files_that_are_none(tmp_path: Path):
    with pytest.raises(ExampleError, match="cannot be read"):
        load_examples(tmp_path / "missing.jsonl")
    with pytest.raises(ExampleError, match="holds no examples"):
        load_examples(write(tmp_path / "empty.jsonl", ""))
    (tmp_path / "latin.jsonl").write_bytes('{"question": "Gebühr?"}'.encode("latin-1"))
    with pytest.raises(ExampleError, match="not UTF-8"):
        load_examples(tmp_path / "latin.jsonl")


def test_groups_share_their_sources(tmp_path: Path):
    other = SHORT | {"sources": [{"title": "T", "text": "Another."}]}
    rows = load_examples(write(tmp_path / "e.jsonl", SHORT, other, SHORT | {"question": "And?"}))
    groups = group_by_sources(rows)
    assert [[example.question for example in group.examples] for group in groups] == [
        ["How long?", "And?"],
        ["How long?"],
    ]


def test_the_digest_is_about_the_content(tmp_path: Path):
    one, two = load_examples(write(tmp_path / "e.jsonl", SHORT, SHORT | {"question": "And?"}))
    assert data_digest([one, two]) == data_digest([two, one])
    assert data_digest([one]) != data_digest([two])
