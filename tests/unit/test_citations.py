"""The answer filter: what it takes out, and that no way of cutting the stream changes the result."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tandem.citations import AnswerFilter, clean_answer

OWN = "https://intranet.example/leave"
PASSAGES = 3

FRAGMENTS = [
    "[1]", "[2]", "[9]", "[1, 2]", "[1, 9]", "[7;8]", "[ 3 ]", "[0]", "[12", "[", "]", "(", ")", "!", "<", ">", "|",
    "![logo](https://evil.example/x.png)", "[policy](https://evil.example/)", f"[policy]({OWN})", f"![p]({OWN})",
    "[a](//evil.example)", "[b][ref]", "\n[ref]: https://evil.example/x", "\n[ref]: //evil.example", "[1](https://e.vil)",
    "https://evil.example/a?b=c", OWN, f"{OWN}.", "http", "https:/", "HTTPS://EVIL.example", "javascript:alert(1)",
    "java", "script:x", "data:text/html,x", "data: 27", "ftp://e.vil/", "<b>", "</b>", "<img src=x", "<img\nsrc=x>",
    "<!-- x -->", "<|im_end|>", "<|", "|>", "[INST]", "[/INST]", "5 < 6", "x<y", "a", "b", " ", "  ", "\n", ".", ", ",
    ": ", "://", "//e.vil", "leave is 27 days", "\\", "7", "ht", "tps://e.vil", "é", "ſ",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join)


def stream(pieces: list[str]) -> tuple[str, list[int], int]:
    answer = AnswerFilter(PASSAGES, [OWN])
    shown = "".join([*(answer.feed(piece) for piece in pieces), answer.close()])
    return shown, answer.cited, answer.removed


def clean(text: str) -> str:
    return clean_answer(text, PASSAGES, [OWN])[0]


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, data=st.data())
def test_two_or_three_pieces_give_what_one_gives(text: str, data: st.DataObject):
    first = data.draw(st.integers(0, len(text)))
    second = data.draw(st.integers(first, len(text)))
    whole = clean_answer(text, PASSAGES, [OWN])
    assert stream([text[:first], text[first:second], text[second:]]) == whole
    assert stream(list(text)) == whole


@pytest.mark.parametrize(
    "text",
    [
        "Leave is 27 days [1]. See ![x](https://evil.example/?q=1) and [2, 9].\n[r]: https://evil.example",
        f"5 < 6 <b>bold</b> <|im_end|> javascript:alert(1) [policy]({OWN}) {OWN}, [r][q] [7].",
        "x<y [[x](https://e.vil)](//e.vil) <scr<b>ipt> data:text/html,<b> [INST] ht[9]tps://e.vil",
    ],
)
def test_every_cut_into_two_and_three_gives_the_same(text: str):
    whole = clean_answer(text, PASSAGES, [OWN])
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1, 3):
            assert stream([text[:first], text[first:second], text[second:]]) == whole


@settings(max_examples=600, deadline=None)
@given(TEXTS)
@example("[[x](https://e.vil)](//e.vil)")
@example("<<b>script>")
@example("[[9]7]")
@example("[12[9]]")
@example("ht[9]tps://e.vil")
@example("<[9]img src=x>")
@example("\n[1]: //e.vil")
@example("<img\nsrc=x onerror=alert(1)>")
@example("[IN[9]ST]")
@example(f"{OWN}[9].e.vil")
@example(f"{OWN}.[9]e.vil")
@example(f"{OWN}[1]: ")  # begins with a word, and so defines nothing
def test_nothing_dangerous_is_left(text: str):
    cleaned = clean(text)
    own = rf"(?<=\])\({OWN}\)|{OWN}(?=[.,;:!?]*(?:[\s<>\[\])\"']|$))"
    left, defining = re.sub(own, "@", cleaned), re.sub(own, "own", cleaned)
    assert "](" not in left  # neither links nor images
    assert not re.search(r"<[a-zA-Z/!?|]", left)  # neither tags nor control tokens
    assert not re.search(r"(?:https?|ftp):/[^\s<>\[\]\"']|javascript:\w|data:\w+/\w", left, re.IGNORECASE | re.ASCII)
    assert not re.search(r"\[/?INST\]", left)
    assert not re.search(
        r"^[\W\d]*\[(?:[^\[\]\\]|\\.)*\]:", defining, re.MULTILINE
    )  # no definition for a reference link
    assert all(1 <= int(number) <= PASSAGES for number in re.findall(r"\[(\d{1,3})\]", left))


@given(TEXTS)
def test_what_is_cited_is_what_the_text_shows(text: str):
    cleaned, cited, _ = clean_answer(text, PASSAGES, [OWN])
    shown = [int(number) for number in re.findall(r"\[([123])\]", cleaned)]
    assert cited == list(dict.fromkeys(shown))


@settings(deadline=None)
@given(TEXTS)
def test_cleaning_twice_changes_nothing_more(text: str):
    once = clean(text)
    assert clean(once) == once


@given(st.text(alphabet=st.characters(exclude_characters="[]<>:", exclude_categories=["Cs"])))
def test_plain_text_passes_unchanged(text: str):
    assert clean_answer(text, PASSAGES) == (text, [], 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Leave is 27 days [1].", "Leave is 27 days [1]."),
        ("Leave is 27 days [9].", "Leave is 27 days."),
        ("Both say so [1, 2].", "Both say so [1][2]."),
        ("Both say so [1; 9].", "Both say so [1]."),
        ("In 2024 [2024] it was so.", "In 2024 [2024] it was so."),
        ("See ![the logo](https://evil.example/x.png).", "See the logo."),
        ("See [the policy](https://evil.example/).", "See the policy."),
        (f"See [the policy]({OWN}).", f"See [the policy]({OWN})."),
        (f'See [the policy]({OWN} "title").', f"See [the policy]({OWN})."),
        ("See [1](https://evil.example/).", "See [1]."),
        ("See https://evil.example/a(b).", "See (link removed)."),
        ("(see https://evil.example/a)", "(see (link removed))"),
        (f"See {OWN}.", f"See {OWN}."),
        ("Run javascript:alert(1) now", "Run (link removed) now"),
        ("JavaScript: the good parts", "JavaScript: the good parts"),
        ("The data: 27 days", "The data: 27 days"),
        ("<b>Bold</b> and <br/>plain", "Bold and plain"),
        ("5 < 6 and 7 > 6", "5 < 6 and 7 > 6"),
        ("Done.<|im_end|>", "Done."),
        ("[INST]Done[/INST]", "Done"),
        ("[see]: https://evil.example/", "[see] : (link removed)"),
        ("As [1]: 27 days.", "As [1]: 27 days."),
        ("An [aside] stays, so does f[x] and wow!", "An [aside] stays, so does f[x] and wow!"),
        ("Left open [1", "Left open [1"),
        ("", ""),
    ],
)
def test_what_goes_and_what_stays(text: str, expected: str):
    assert clean(text) == expected


def test_removed_markers_are_counted_and_cited_ones_noted_once():
    assert clean_answer("a [2] b [9] c [1, 8] d [2]", 2) == ("a [2] b c [1] d [2]", [2, 1], 2)


def test_without_passages_every_marker_goes():
    assert clean_answer("Leave is 27 days [1].", 0) == ("Leave is 27 days.", [], 1)


def test_a_source_cannot_bring_a_script_as_its_address():
    assert clean_answer("[x](javascript:alert(1))", 1, ["javascript:alert(1"])[0].startswith("x")


def test_ordinary_text_is_shown_at_once():
    answer = AnswerFilter(PASSAGES)
    assert answer.feed("Leave is 27 days [1") == "Leave is 27 days"
    assert answer.feed("] and no") == " [1] and no"
    assert answer.feed("t more.") == "t more."


def test_a_bracket_that_never_closes_is_not_held_for_ever():
    answer = AnswerFilter(PASSAGES)
    assert len(answer.feed("[" + "a" * 1000)) > 900
