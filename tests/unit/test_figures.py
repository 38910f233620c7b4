"""Figures in sentences, and what the sentences are about."""

from decimal import Decimal

import pytest

from ingest.figures import figures, subject


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The allowance is EUR 45 a day.", [("EUR", "45", "")]),
        ("It costs 1,450.00 EUR, or €1.5 million.", [("EUR", "1450.00", ""), ("EUR", "1500000", "")]),
        ("VAT is 19 % and not 7 percent.", [("%", "19", ""), ("%", "7", "")]),
        ("Answer within two weeks.", [("time", "1209600", "most")]),
        ("Give 30 days or 5 working days of notice.", [("time", "2592000", ""), ("working day", "5", "")]),
        ("The term is 2 years.", [("months", "24", "")]),
        ("A password has at least twelve characters.", [("character", "12", "least")]),
        ("From 31 March 2026 until 2026-04-30.", [("date", "20260331", "least"), ("date", "20260430", "")]),
        ("Every 1 May at 09:30.", [("day of the year", "501", ""), ("clock", "930", "")]),
        ("See section 4.2 of ISO 27001, version 2.1.", []),
        ("Install all Brook 2 sensors.", []),
        ("Since 2024 the office is open.", []),
    ],
)
def test_figures_have_a_kind_a_value_and_a_bound(sentence: str, expected: list[tuple[str, str, str]]) -> None:
    found = [(figure.kind, figure.value.normalize(), figure.bound) for figure in figures(sentence)]
    assert found == [(kind, Decimal(value).normalize(), bound) for kind, value, bound in expected]


def test_the_subject_is_what_stays_without_figures_and_small_words() -> None:
    one, other = "The daily meal allowance is EUR 45.", "Daily meal allowances are EUR 50 at most."
    assert subject(one, figures(one)) == subject(other, figures(other)) == {"daily", "meal", "allowance"}
