import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.sentences import Unit, join_units, split_sentences, units


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Leave is 27 days. It lapses in April.", ["Leave is 27 days.", "It lapses in April."]),
        ("Ask Dr. Weir, e.g. by mail. Then wait.", ["Ask Dr. Weir, e.g. by mail.", "Then wait."]),
        ("See No. 5 of Art. 3. It applies.", ["See No. 5 of Art. 3.", "It applies."]),
        ("Version 1.2 costs EUR 3.50. Is it so? Yes!", ["Version 1.2 costs EUR 3.50.", "Is it so?", "Yes!"]),
        ("   ", []),
    ],
)
def test_sentences_end_where_they_end(line: str, expected: list[str]):
    assert split_sentences(line) == expected


def test_list_items_carry_the_line_that_introduces_them():
    text = "Bring along. You need:\n- a pass\n2. a desk\nb) a cup\nThat is all.\n- no more"
    assert units(text) == [
        Unit("Bring along."),
        Unit("You need:"),
        Unit("- a pass", "You need:"),
        Unit("2. a desk", "You need:"),
        Unit("b) a cup", "You need:"),
        Unit("That is all."),
        Unit("- no more"),
    ]


def test_a_blank_line_ends_what_a_lead_introduces():
    assert units("You need:\n\n- a pass")[-1] == Unit("- a pass")


def test_table_rows_carry_their_header():
    text = "Prices follow.\nModel | Price\nTN-200 | EUR 90\nTN-300 | EUR 120\nWithout tax.\n\nCity | Seat\nBonn | 4"
    assert units(text) == [
        Unit("Prices follow."),
        Unit("TN-200 | EUR 90", "Model | Price"),
        Unit("TN-300 | EUR 120", "Model | Price"),
        Unit("Without tax."),
        Unit("Bonn | 4", "City | Seat"),
    ]


def test_a_header_that_comes_again_is_no_row():
    assert units("A | B\n1 | 2\nA | B\n3 | 4") == [Unit("1 | 2", "A | B"), Unit("3 | 4", "A | B")]


@pytest.mark.parametrize(
    "text", ["Call 112 | mail help@example.org", "Call | mail\nThen wait.", "Call | mail\n\nWait."]
)
def test_a_line_with_a_bar_is_kept_though_it_is_no_table(text: str):
    assert units(text)[0] == Unit(text.splitlines()[0])


def test_units_are_joined_under_their_leads_once():
    header, lead = "Model | Price", "You need:"
    chosen = [Unit("TN-200 | 90", header), Unit("TN-300 | 120", header), Unit(lead), Unit("- a pass", lead)]
    assert join_units(chosen) == "Model | Price\nTN-200 | 90\nTN-300 | 120\nYou need:\n- a pass"
    assert join_units([]) == ""


WORDS = st.sampled_from(["Leave", "lapses.", "|", "-", "1.", "You need:", "\n", "\n\n", "e.g.", "27"])


@given(st.lists(WORDS, max_size=14).map(" ".join))
def test_no_word_is_lost(text: str):
    kept = " ".join(f"{unit.lead} {unit.text}" for unit in units(text)).split()
    assert set(text.split()) <= set(kept)
