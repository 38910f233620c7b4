"""Style candidates: what feedback suggests, what a person makes of it, and that the guards say no in time."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tandem.database import Database
from tandem.errors import ExampleError, InputError, NotFound
from tandem.settings import load_settings
from tandem.tables import AnswerRow, AuditRow
from training.candidates import Candidates, Edit, made_up, suggest, withdraw
from training.examples import ExampleSource, StyleExample

NOW = datetime(2026, 3, 2, tzinfo=UTC)
PASSAGES = [
    {"n": 2, "document_id": "hr/leave.md", "title": "Leave", "heading": "Days", "quote": "You have 28 days a year."},
    {"n": 5, "document_id": "hr/old.md", "title": "Old", "heading": "", "quote": "You had 25 days."},
    {"n": 6, "document_id": "hr/none.md", "title": "Empty", "heading": "", "quote": " "},
]


@pytest.fixture
def candidates(database: Database, tmp_path: Path) -> Candidates:
    mine = [
        StyleExample(
            question="Known?", answer="It is known. [1]", sources=(ExampleSource(text="Known."),), approved_by="ada"
        ),
        StyleExample(question="Draft?", answer="A draft. [1]", sources=(ExampleSource(text="A draft."),)),
    ]
    heldout = [StyleExample(question="Held?", answer="Held. [1]", sources=(ExampleSource(text="Held out."),))]
    paths = {}
    for name, rows in (("examples", mine), ("heldout", heldout)):
        paths[name] = tmp_path / f"{name}.jsonl"
        paths[name].write_text("".join(f"{row.model_dump_json()}\n" for row in rows))
    return Candidates(database, load_settings(data_dir=tmp_path / "data", training=paths))


def answer(database: Database, text: str = "28 days, [2] not 25. [5]", **receipt: Any) -> AnswerRow:
    row = AnswerRow(
        id="ans_1", user="ada", question="How many days?", arm="tandem", text=text, created_at=NOW,
        receipt={"passages": PASSAGES} | receipt,
    )  # fmt: skip
    with database.session() as session:
        return session.merge(row)


def suggested(database: Database, row: AnswerRow, suggestion: str = "", comment: str = "Too curt.") -> str | None:
    with database.session() as session:
        return suggest(session, row, "ada", comment, suggestion)


def test_an_answer_becomes_a_candidate_with_its_quotes_as_sources(database: Database, candidates: Candidates):
    id = suggested(database, answer(database))
    (found,) = candidates.list("open")
    assert found.id == id
    assert found.example == StyleExample(
        question="How many days?",
        sources=(
            ExampleSource(title="Leave", heading="Days", text="You have 28 days a year."),
            ExampleSource(title="Old", text="You had 25 days."),
        ),
        answer="28 days, [1] not 25. [2]",  # cited by place, as examples do
        topic="Leave",
        tags=("feedback",),
    )
    assert (found.document_ids, found.user, found.comment) == (("hr/leave.md", "hr/old.md"), "ada", "Too curt.")
    assert found.example.approved_by == ""


def test_a_suggestion_is_the_answer_and_a_second_one_replaces_the_first(database: Database, candidates: Candidates):
    row = answer(database)
    first = suggested(database, row)
    second = suggested(database, row, "You have 28 days. [2]")
    assert first == second
    assert [each.example.answer for each in candidates.list()] == ["You have 28 days. [1]"]
    with database.session() as session:
        withdraw(session, row.id, "ada")
    assert candidates.list() == []


def test_no_candidate_of_what_the_model_did_not_say(database: Database, candidates: Candidates):
    assert suggested(database, answer(database, degraded="retrieval_only")) is None
    assert suggested(database, answer(database, text=" ")) is None
    assert candidates.list() == []
    assert suggested(database, answer(database, text=" "), "You have 28 days. [2]") is not None


def test_approval_names_who_and_a_decision_is_not_undone_by_more_feedback(database: Database, candidates: Candidates):
    row = answer(database)
    id = suggested(database, row)
    assert id is not None
    done = candidates.approve(id[:8], "root", Edit(answer="You have 28 days. [1]"))
    assert (done.state, done.decided_by, done.example.approved_by) == ("approved", "root", "root")
    assert done.decided_at is not None
    assert done.example.answer == "You have 28 days. [1]"
    assert suggested(database, row, "Something else.") == id
    with database.session() as session:
        withdraw(session, row.id, "ada")
        audit = session.query(AuditRow).one()
        assert (audit.user, audit.action, audit.subject) == ("root", "example_approved", id)
    assert candidates.get(id) == done
    refused = candidates.refuse(id, "bob")
    assert (refused.state, refused.decided_by) == ("refused", "bob")


def test_an_example_that_was_replaced_since_it_was_looked_at_is_not_approved(
    database: Database, candidates: Candidates, monkeypatch: pytest.MonkeyPatch
):
    row = answer(database)
    id = suggested(database, row)
    assert id is not None
    seen = candidates.get(id).digest
    assert suggested(database, row, "The guard is called Basil. [1]") == id  # its author thinks again
    with pytest.raises(ExampleError, match="changed since you looked"):
        candidates.approve(id, "root", Edit(seen=seen[:12]))

    def slow(*_: Any) -> None:  # while the guards look at it
        suggested(database, row, "You have 28 days. [1]")

    monkeypatch.setattr(candidates, "_check", slow)
    with pytest.raises(ExampleError, match="changed since you looked"):
        candidates.approve(id, "root")
    assert candidates.get(id).state == "open"
    monkeypatch.undo()
    assert candidates.approve(id, "root", Edit(seen=candidates.get(id).digest[:12])).state == "approved"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (Edit(answer="Write to jane.doe@acme.com. [1]"), "email"),
        (Edit(answer="You have 28 days."), "no_citation"),
        (Edit(answer="You have 28 days. [7]"), "bad_citation"),
        (Edit(sources=(), answer="You have 28 days."), "no_source"),
        (Edit(question="Known?", sources=(ExampleSource(text="Known."),), answer="It is  KNOWN. [1]"), "duplicate"),
        (Edit(sources=(ExampleSource(text="Held out."),), answer="Held. [1]"), "held_out"),
    ],
)
def test_who_approves_is_told_at_once_what_a_guard_minds(
    database: Database, candidates: Candidates, edit: Edit, reason: str
):
    id = suggested(database, answer(database))
    assert id is not None
    before = candidates.get(id)
    with pytest.raises(ExampleError, match=rf"not approved: .*\({reason}\)"):
        candidates.approve(id, "root", edit)
    assert candidates.get(id) == before
    with pytest.raises(InputError, match="cannot be kept: answer"):
        candidates.approve(id, "root", Edit(answer="  "))


def test_the_same_example_is_not_approved_twice(database: Database, candidates: Candidates):
    row = answer(database)
    first = suggested(database, row)
    with database.session() as session:
        second = suggest(session, row, "bob", "", "")
    assert first is not None
    assert second is not None
    candidates.approve(first, "root")
    with pytest.raises(ExampleError, match="duplicate"):
        candidates.approve(second, "root")
    assert candidates.approve(first, "root").state == "approved"  # itself is no duplicate


def test_a_draft_in_the_file_that_nobody_approved_is_no_duplicate(database: Database, candidates: Candidates):
    id = suggested(database, answer(database))
    assert id is not None
    edit = Edit(question="Draft?", sources=(ExampleSource(text="A draft."),), answer="A draft. [1]")
    assert candidates.approve(id, "root", edit).state == "approved"


def test_whoever_approves_may_vouch_that_the_people_are_invented(database: Database, candidates: Candidates):
    id = suggested(database, answer(database))
    assert id is not None
    named = "Doris Kemble runs the desk."
    edit = Edit(question="Who runs the desk?", sources=(ExampleSource(text=named),), answer=f"{named} [1]")
    with pytest.raises(ExampleError, match=r"invented_people.*\(name\)"):
        candidates.approve(id, "root", edit)
    done = candidates.approve(id, "root", edit.model_copy(update={"invented_people": True}))
    assert done.example.tags == ("feedback", "made-up")
    with pytest.raises(ExampleError, match=r"\(name\)"):
        candidates.approve(id, "root", Edit(invented_people=False))
    assert "made-up" not in made_up(candidates.get(id).example.model_copy(update={"tags": ()})).tags


@pytest.mark.parametrize("id", ["", "x", "nobody-1", "%", "____", "a" * 40])
def test_there_is_no_such_candidate(database: Database, candidates: Candidates, id: str):
    suggested(database, answer(database))
    for what in (candidates.get, lambda id: candidates.approve(id, "root"), lambda id: candidates.refuse(id, "root")):
        with pytest.raises(NotFound, match="no style candidate"):
            what(id)


def test_a_draft_has_other_figures_everywhere(database: Database, candidates: Candidates):
    id = suggested(database, answer(database))
    assert id is not None
    example = candidates.get(id).example
    draft = made_up(example)
    text = " ".join([draft.answer, *(source.text for source in draft.sources)])
    assert "28" not in text
    assert "25" not in text
    assert ("[1]" in draft.answer, "[2]" in draft.answer) == (True, True)
    said = draft.answer.split()[0]
    assert said in draft.sources[0].text
    assert made_up(example) == draft  # what is shown is what is approved
