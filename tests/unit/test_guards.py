"""What the guards refuse, and what they must not."""

import pytest

from tandem.settings import load_settings
from training.examples import ExampleSource, StyleExample, load_examples
from training.guards import guard


def example(answer: str = "It is so [1].", text: str = "It is so.", **fields: object) -> StyleExample:
    values = {"question": "Is it?", "sources": (ExampleSource(text=text),), "answer": answer, "approved_by": "ada"}
    return StyleExample.model_validate(values | fields)


def reason(refused: StyleExample) -> str | None:
    refusals = guard([refused]).refusals
    return refusals[0].reason if refusals else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe@contoso.com.", "email"),
        ("Write to help@desk.example or help [at] desk [dot] example.", None),
        ("Pay to DE89 3704 0044 0532 0130 00.", "iban"),
        ("Pay to DE88 3704 0044 0532 0130 00.", None),  # the checksum is wrong: a number like any other
        ("The card is 4111 1111 1111 1111.", "card"),
        ("The serial number is 4111 1111 1111 1112.", None),
        ("Call +44 20 7946 0958.", "phone"),
        ("Call extension 7700 or 0555 814 220 from 8 to 17.", None),
        ("password: hunter2hunter2", "secret"),
        ("The key is AKIAABCDEFGHIJKLMNOP.", "secret"),
        ("A password must have 12 characters.", None),
        ("Order 1234567890123 holds 12,000 pieces.", None),
    ],
)
def test_personal_data_and_secrets(text: str, expected: str | None):
    assert reason(example(text=text)) == expected
    assert reason(example(answer=f"{text} [1]")) == expected


def test_each_rule_names_itself():
    assert reason(example(approved_by=" ")) == "unapproved"
    assert reason(example(answer="It is so.")) == "no_citation"
    assert reason(example(answer="It is so [2].")) == "bad_citation"
    assert reason(example(sources=(), answer="The fee is 12 euros.")) == "no_source"
    assert reason(example(sources=(), answer="Good morning to you.")) is None
    assert reason(example(answer="I can't find that in the documents.")) is None


def test_a_duplicate_is_refused_once_and_names_the_first():
    one, other = example(), example(answer="It is not so [1].")
    found = guard([one, other, one])
    assert found.examples == (one, other)
    assert [(refusal.number, refusal.reason) for refusal in found.refusals] == [(3, "duplicate")]
    assert "example 1" in found.refusals[0].message


def test_the_shipped_examples_pass():
    settings = load_settings().training
    for path in (settings.examples, settings.heldout):
        assert guard(load_examples(path)).refusals == ()
