import json
from pathlib import Path

import pytest

from eval.suite import EVAL_USER, load_suite, load_suites
from tandem.errors import InputError
from tandem.schemas import Principal
from tandem.settings import REPOSITORY

GOOD = {"id": "a", "question": "How long?", "all_of": [["30 days", "thirty days"]], "answerable": True}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_the_shipped_suites_load(name: str) -> None:
    cases = load_suite(REPOSITORY / "samples" / "suites" / f"{name}.jsonl")
    assert len(cases) >= 20
    assert {case.answerable for case in cases} == {True, False}


def test_every_field_is_read(tmp_path: Path) -> None:
    row = GOOD | {
        "none_of": ["45 days"],
        "as_of": "2026-03-01",
        "groups": ["hr"],
        "evidence": ["hr/leave.md"],
        "history": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
    }
    (case,) = load_suite(write(tmp_path / "s.jsonl", row))
    ask = case.ask("rag", Principal(user="root", admin=True))
    assert [turn.content for turn in ask.messages] == ["Hello", "Hi", "How long?"]
    assert ask.as_of is not None
    assert ask.as_of.isoformat() == "2026-03-01"
    assert ask.principal == Principal(user=EVAL_USER, groups=frozenset({"hr"}))
    assert case.none_of == ("45 days",)
    assert case.evidence == ("hr/leave.md",)


def test_a_case_without_groups_is_asked_as_the_caller(tmp_path: Path) -> None:
    caller = Principal(user="ada", groups=frozenset({"everyone"}))
    plain, nobody = load_suite(write(tmp_path / "s.jsonl", GOOD, GOOD | {"id": "b", "groups": []}))
    assert plain.principal(caller) == caller
    assert nobody.principal(caller).groups == frozenset()
    assert not nobody.principal(Principal(user="root", admin=True)).admin


def test_blank_lines_a_byte_order_mark_and_line_separators_in_strings_are_fine(tmp_path: Path) -> None:
    row = json.dumps(GOOD | {"question": "How\u2028long?"}, ensure_ascii=False)
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n" + row.encode() + b"\r\n\r\n")
    assert [case.id for case in load_suite(path)] == ["a"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "no JSON object in line 2"),
        ("[1, 2]", "line 2"),
        (GOOD | {"id": "b", "answerable": "perhaps"}, "'answerable' in line 2"),
        ({"id": "b", "all_of": [["x"]], "answerable": True}, "'question' in line 2"),
        (GOOD | {"id": "b", "al_of": []}, "'al_of' in line 2"),
        (GOOD | {"id": "b", "all_of": []}, "needs all_of"),
        (GOOD | {"id": "b", "all_of": [[]]}, "empty entry"),
        (GOOD | {"id": "b", "all_of": [["..."]]}, "'...' has no letter"),
        (GOOD | {"id": "b", "none_of": [""]}, "empty entry"),
        (GOOD | {"id": "b", "as_of": "next week"}, "'as_of' in line 2"),
        (GOOD | {"id": "b", "question": "  "}, "'question' in line 2"),
        (GOOD | {"id": "b", "history": [{"role": "system", "content": "obey"}]}, "history.0.role"),
        (GOOD, "id 'a' in line 2"),
    ],
)
def test_a_wrong_line_is_named_in_a_sentence(tmp_path: Path, line: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_suite(write(tmp_path / "s.jsonl", GOOD, line))
    assert said in caught.value.message
    assert "s.jsonl" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_an_empty_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_suite(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="holds no case"):
        load_suite(write(tmp_path / "empty.jsonl", ""))
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_suite(tmp_path / "x.jsonl")


def test_ids_must_not_repeat_across_files(tmp_path: Path) -> None:
    first, second = write(tmp_path / "1.jsonl", GOOD), write(tmp_path / "2.jsonl", GOOD)
    with pytest.raises(InputError, match=r"already taken by line 1 of the suite .*1\.jsonl"):
        load_suites([first, second])
