"""What changed between two versions, passage by passage."""

from services.chat.difference import Paragraph, Section, compare, marked_words, paragraphs


def lines(*texts: str, heading: str = "Meals") -> list[Paragraph]:
    return [Paragraph(text, heading, 2) for text in texts]


def kinds(older: list[Paragraph], newer: list[Paragraph]) -> list[tuple[str, str, str]]:
    return [(change.kind, change.before, change.after) for change in compare(older, newer)]


DAY = "The meal allowance is EUR 45 a day."
HALF = "Half a day earns half of it."
KEEP = "Keep your receipts for ten years."


def test_equal_versions_have_no_changes_however_they_are_wrapped() -> None:
    assert compare(lines(DAY, HALF), lines(DAY.replace(" is ", "  is\t"), HALF)) == []


def test_a_figure_that_changed_is_one_changed_passage_in_its_place() -> None:
    newer = DAY.replace("45", "50")
    (change,) = compare(lines(HALF, DAY, KEEP), lines(HALF, newer, KEEP))
    assert (change.kind, change.before, change.after) == ("changed", DAY, newer)
    assert (change.heading, change.page) == ("Meals", 2)


def test_what_came_and_what_went_stand_where_they_stood() -> None:
    assert kinds(lines(DAY, HALF), lines(HALF, KEEP)) == [("removed", DAY, ""), ("added", "", KEEP)]


def test_a_passage_that_moved_is_no_change_of_its_text() -> None:
    assert kinds(lines(DAY, HALF, KEEP), lines(HALF, KEEP, DAY)) == [("moved", DAY, DAY)]


def test_a_passage_that_moved_and_changed_is_still_one() -> None:
    newer = DAY.replace("45", "50")
    assert kinds(lines(DAY, HALF, KEEP), lines(HALF, KEEP, newer)) == [("changed", DAY, newer)]


def test_other_words_in_the_same_place_are_another_passage() -> None:
    assert kinds(lines(DAY), lines("Parking costs nothing at all.")) == [
        ("removed", DAY, ""),
        ("added", "", "Parking costs nothing at all."),
    ]


def test_each_row_finds_its_own_counterpart() -> None:
    older = lines("Berlin | EUR 45 | 2 nights", "Paris | EUR 60 | 2 nights", "Rome | EUR 50 | 2 nights")
    newer = lines("Berlin | EUR 48 | 2 nights", "Rome | EUR 55 | 2 nights", "Paris | EUR 66 | 2 nights")
    pairs = {before.split()[0]: after.split()[0] for _, before, after in kinds(older, newer)}
    assert pairs == {"Berlin": "Berlin", "Paris": "Paris", "Rome": "Rome"}


def test_a_renamed_heading_shows_and_its_text_does_not() -> None:
    text = f"Meals\n\n{DAY}\n\n{HALF}"
    start = text.index(DAY)

    def under(heading: str) -> list[Paragraph]:
        return paragraphs(text, [Section(start, len(text), heading, 1)])

    (change,) = compare(under("Travel > Daily meals"), under("Travel > Daily allowances"))
    assert (change.kind, change.before, change.after) == ("changed", "Daily meals", "Daily allowances")
    assert change.heading == "Travel"


def test_headings_are_lines_of_their_own_once() -> None:
    text = "one\ntwo\nthree"
    found = paragraphs(text, [Section(0, 3, "A > B"), Section(4, 7, "A > B"), Section(8, 13, "A > C")])
    assert [(each.text, each.heading) for each in found] == [
        ("A", ""), ("B", "A"), ("one", "A > B"), ("two", "A > B"), ("C", "A"), ("three", "A > C"),
    ]  # fmt: skip


def test_marked_words_keep_figures_whole_and_give_both_texts_back() -> None:
    before, after = "It is EUR 1,450.00 from 2025-01-01.", "It is EUR 1,500.00 from 2026-01-01, at most."
    runs = list(marked_words(before, after))
    assert "".join(text for how, text in runs if how != "added") == before
    assert "".join(text for how, text in runs if how != "removed") == after
    assert ("removed", "1,450.00") in runs
    assert ("added", "2026-01-01, at most") in runs or ("added", "2026-01-01") in runs


def test_thousands_of_lines_are_compared() -> None:
    older = lines(*(f"Rule {n} costs EUR {n * 7}." for n in range(5000)))
    newer = [*lines("A new first rule."), *older[:2500], *lines("Rule 2500 costs EUR 1."), *older[2501:]]
    assert [change.kind for change in compare(older, newer)] == ["added", "changed"]


def test_a_text_rewritten_from_end_to_end_ends_too() -> None:
    older = lines(*(f"Alpha {n} beta." for n in range(2000)))
    newer = lines(*(f"Gamma {n} delta {n}." for n in range(2000)))
    assert len(compare(older, newer)) == 4000


def test_what_moved_through_a_text_that_was_rewritten_is_found() -> None:
    crossed = [*lines(*(f"Alpha {n} beta." for n in range(400))), *lines(HALF, DAY, *(f"x {n}" for n in range(400)))]
    other = [*lines(DAY), *lines(*(f"Gamma {n} delta {n}." for n in range(800))), *lines(HALF)]
    assert [change.after for change in compare(crossed, other) if change.kind == "moved"] == [DAY]
