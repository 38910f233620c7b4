from datetime import UTC, date, datetime
from pathlib import Path
from typing import get_args

import pytest

from eval.arms import run_suite
from eval.diagnose import Diagnosis, Label, diagnose_suite
from eval.library import DocumentVersion, Library, load_library
from eval.receipts import Rating, Receipt, load_receipts, read_receipt
from eval.replay import diagnose_receipt
from eval.suite import Case
from tandem.database import Database
from tandem.errors import InputError, ModelUnavailable, NotFound
from tandem.prompt import DECLINE
from tandem.schemas import ARMS, Answer, Arm, Ask, Message, Passage, Principal
from tandem.style import StyleGuide
from tandem.tables import AnswerRow, DocumentRow, FeedbackRow, VersionRow
from tests.scripted_assistant import DAY, ScriptedAssistant, passage

STYLE = StyleGuide(closing_line="Bye.")
RIGHT, WRONG, STALE = "The meal allowance is EUR 52 [1].", "The meal allowance is EUR 99 [1].", "It is EUR 45 [1]."
NOW = passage(1, "The daily meal allowance for domestic trips is EUR 52.")
NEAR = passage(1, "Trips are booked with the travel desk.")
OLD = passage(1, "The meal allowance is EUR 45.", version="travel-1")
CASE = {
    "id": "meals",
    "question": "How much is the daily meal allowance for domestic trips?",
    "all_of": [["EUR 52"]],
    "none_of": ["EUR 45"],
    "answerable": True,
    "evidence": ["travel.md"],
}
UNANSWERABLE = {"all_of": [], "answerable": False, "evidence": []}


def version(id: str, text: str, **fields: object) -> DocumentVersion:
    document = {"document_id": f"{id.split('-')[0]}.md", "groups": ("everyone",)}
    return DocumentVersion.model_validate(document | {"id": id, "text": text} | fields)


LIBRARY = Library(
    [
        version("travel-1", "Travel. The meal allowance is EUR 45.", seq=1, live_until=date(2026, 1, 1)),
        version(
            "travel-2",
            "Trips. The daily meal allowance for domestic trips is EUR 52.",
            seq=2,
            live_from=date(2026, 1, 1),
        ),
        version("pets-1", "Dogs are welcome in the office on Fridays."),
    ]
)


async def diagnose(
    tandem: str | Exception,
    rag: str | Exception,
    passages: list[Passage],
    library: Library | None = LIBRARY,
    arm: Arm = "tandem",
    read_alone: str = "",
    **fields: object,
) -> Diagnosis:
    script = {"tandem": tandem, "rag": rag, "style": WRONG, "base": WRONG}
    case = Case.model_validate(CASE | fields)
    outcomes = await run_suite(ScriptedAssistant(script, passages, read_alone=read_alone), [case], ARMS, style=STYLE)
    (diagnosis,) = diagnose_suite(outcomes, library, arm)
    return diagnosis


async def test_ok() -> None:
    assert (await diagnose(f"{RIGHT}\nBye.", RIGHT, [NOW])).label == "ok"
    declined = await diagnose(f"{DECLINE}\nBye.", RIGHT, [NEAR], **UNANSWERABLE)
    assert (declined.label, declined.owner) == ("ok", None)


async def test_style_when_the_facts_are_right() -> None:
    found = await diagnose(RIGHT, RIGHT, [NOW])
    assert (found.label, found.owner) == ("style", "style curator")
    assert "'Bye.'" in found.evidence
    # The arm without an adapter cannot be trained into the style.
    assert (await diagnose(RIGHT, RIGHT, [NOW], arm="rag")).owner == "platform engineer"


async def test_adapter_when_rag_is_right() -> None:
    found = await diagnose(WRONG, RIGHT, [NOW])
    assert (found.label, found.owner) == ("adapter", "style curator")


async def test_reading_when_both_are_wrong_with_the_evidence_there() -> None:
    found = await diagnose(WRONG, WRONG, [NOW])
    assert (found.label, found.owner) == ("reading", "platform engineer")
    assert "wrong too" in found.evidence
    assert (await diagnose(WRONG, ModelUnavailable("down"), [NOW])).label == "reading"
    # A superseded value, but quoted from a text that is in force: misread, not stale.
    both = passage(1, "It is EUR 52; until last year it was EUR 45.")
    assert (await diagnose(STALE, STALE, [both])).label == "reading"


async def test_reading_says_from_which_sentence_alone_it_was_answered() -> None:
    near = "Trips are booked with the travel desk."
    found = await diagnose(WRONG, WRONG, [NOW], read_alone=near)
    assert (found.label, found.owner) == ("reading", "platform engineer")
    assert near in found.evidence
    assert "BEST_ALONE" in found.action
    assert "wrong too" in (await diagnose(WRONG, WRONG, [NOW], read_alone=NOW.quote)).evidence


async def test_over_decline_names_who_taught_it() -> None:
    taught = await diagnose(DECLINE, RIGHT, [NOW])
    assert (taught.label, taught.owner) == ("over_decline", "style curator")
    both = await diagnose(DECLINE, DECLINE, [NOW])
    assert (both.label, both.owner) == ("over_decline", "platform engineer")


async def test_over_answer_names_who_taught_it() -> None:
    taught = await diagnose(WRONG, DECLINE, [NEAR], **UNANSWERABLE)
    assert (taught.label, taught.owner) == ("over_answer", "style curator")
    both = await diagnose(WRONG, WRONG, [NEAR], **UNANSWERABLE)
    assert (both.label, both.owner) == ("over_answer", "platform engineer")


async def test_missing_document() -> None:
    gone = await diagnose(WRONG, WRONG, [NEAR], evidence=["gone.md"], none_of=[])
    assert (gone.label, gone.owner) == ("missing_document", "document owner")
    assert "'gone.md'" in gone.evidence
    assert (await diagnose(DECLINE, DECLINE, [], library=None)).label == "missing_document"


async def test_a_document_closed_to_the_asker_is_missing_for_them() -> None:
    found = await diagnose(DECLINE, DECLINE, [NEAR], groups=["guests"])
    assert found.label == "missing_document"
    assert "['guests'] may not read it" in found.evidence


async def test_retrieval_when_the_document_or_its_sentence_was_not_found() -> None:
    other = await diagnose(DECLINE, DECLINE, [passage(1, "Dogs are welcome.", "pets.md", "pets-1")])
    assert (other.label, other.owner) == ("retrieval", "platform engineer")
    assert "was not among the passages (pets.md)" in other.evidence
    sentence = await diagnose(DECLINE, DECLINE, [NEAR])
    assert sentence.label == "retrieval"
    assert "not the sentences" in sentence.evidence
    assert (await diagnose(WRONG, WRONG, [NEAR], library=None)).label == "retrieval"


async def test_stale_document_when_a_withdrawn_version_was_quoted() -> None:
    found = await diagnose(STALE, STALE, [OLD])
    assert (found.label, found.owner) == ("stale_document", "platform engineer")
    # Over HTTP a passage does not name its version: then the text in force decides.
    unnamed = OLD.model_copy(update={"version_id": ""})
    assert (await diagnose(STALE, STALE, [unnamed])).label == "stale_document"
    gone = await diagnose(STALE, STALE, [OLD], **UNANSWERABLE)
    assert gone.label == "stale_document"


async def test_stale_document_when_the_text_in_force_is_out_of_date() -> None:
    behind = Library([version("travel-1", "Travel. The meal allowance is EUR 45.", owner="Finance")])
    found = await diagnose(STALE, STALE, [OLD], library=behind)
    assert (found.label, found.owner) == ("stale_document", "document owner")
    assert "Finance" in found.action
    future = Library([version("travel-2", "It is EUR 52.", live_from=date(2031, 1, 1))])
    early = await diagnose(DECLINE, DECLINE, [], library=future)
    assert early.label == "stale_document"
    assert "effective dates" in early.action


async def test_an_arm_that_crashed_has_no_label() -> None:
    script = {"tandem": ModelUnavailable("down"), "rag": RIGHT, "style": WRONG, "base": WRONG}
    outcomes = await run_suite(ScriptedAssistant(script, [NOW]), [Case.model_validate(CASE)])
    assert diagnose_suite(outcomes, LIBRARY) == []


async def test_an_arm_without_documents_is_refused() -> None:
    with pytest.raises(InputError, match="'base' answers without documents"):
        diagnose_suite([], LIBRARY, "base")


# Single answers, judged without keys.


def receipt(text: str, passages: list[Passage], *ratings: Rating, arm: Arm = "tandem", **fields: object) -> Receipt:
    answer = Answer(
        answer_id="ans-1", text=text, arm=arm, as_of=DAY, declined=text.startswith(DECLINE), passages=tuple(passages),
        citations=tuple(p for p in passages if f"[{p.n}]" in text),
    ).model_copy(update=fields)  # fmt: skip
    return Receipt(answer=answer, question=str(CASE["question"]), ratings=ratings)


async def again(given: Receipt, rag: str | Exception = RIGHT, library: Library = LIBRARY) -> Diagnosis:
    passages = given.answer.passages
    assistant = ScriptedAssistant({"tandem": given.answer.text, "rag": rag, "style": WRONG, "base": WRONG}, passages)
    found = await diagnose_receipt(given, assistant, library, style=STYLE, today=DAY)
    assert [ask.arm for ask in assistant.asked] == list(ARMS)
    assert {ask.as_of for ask in assistant.asked} == {DAY}
    return found


FACTS, TONE = Rating(rating="down", about="facts"), Rating(rating="down", about="tone")
ELSEWHERE = [passage(1, "Dogs are welcome in the office on Fridays.", "pets.md", "pets-1")]


@pytest.mark.parametrize(
    ("label", "given", "rag"),
    [
        ("ok", receipt(f"{RIGHT}\nBye.", [NOW]), RIGHT),
        ("ok", receipt(f"{RIGHT}\nBye.", [NOW], Rating(rating="up", about="facts")), RIGHT),
        ("style", receipt(RIGHT, [NOW]), RIGHT),
        ("style", receipt(f"{RIGHT}\nBye.", [NOW], TONE), RIGHT),
        ("adapter", receipt(WRONG, [NOW]), RIGHT),
        ("adapter", receipt(f"{RIGHT}\nBye.", [NOW], degraded="no_adapter"), RIGHT),
        ("reading", receipt(WRONG, [NOW]), WRONG),
        ("reading", receipt(WRONG, [NOW]), ModelUnavailable("down")),
        ("reading", receipt("See below [1].", [NOW], degraded="retrieval_only"), RIGHT),
        ("over_answer", receipt(WRONG, ELSEWHERE), DECLINE),
        ("over_answer", receipt(WRONG, ELSEWHERE), WRONG),
        ("over_decline", receipt(DECLINE, [NOW]), RIGHT),
        ("over_decline", receipt(DECLINE, [NOW], FACTS), DECLINE),
        ("retrieval", receipt(DECLINE, ELSEWHERE), DECLINE),
        ("retrieval", receipt("Dogs are welcome in the office on Fridays [1].\nBye.", ELSEWHERE, FACTS), DECLINE),
        ("retrieval", receipt(RIGHT, [], arm="style"), RIGHT),
        ("stale_document", receipt("The meal allowance is EUR 45 [1].", [OLD]), RIGHT),
        ("stale_document", receipt(f"{RIGHT}\nBye.", [NOW], FACTS), RIGHT),
    ],
)
async def test_a_receipt_is_diagnosed(label: Label, given: Receipt, rag: str | Exception) -> None:
    found = await again(given, rag)
    assert found.label == label, found.evidence
    assert (found.owner is None) == (label == "ok")
    assert found.evidence.endswith((".", ")"))
    assert found.action.endswith(".")


async def test_a_decline_that_no_document_could_help_is_a_missing_document() -> None:
    pets = Library([version("pets-1", "Dogs are welcome in the office on Fridays.")])
    found = await again(receipt(DECLINE, ELSEWHERE), DECLINE, pets)
    assert (found.label, found.owner) == ("missing_document", "document owner")
    disputed = receipt("Dogs are welcome in the office on Fridays [1].\nBye.", ELSEWHERE, FACTS)
    assert (await again(disputed, DECLINE, pets)).label == "missing_document"


async def test_a_replaced_version_that_still_says_so_is_not_outdated() -> None:
    same = Library(
        [
            version("travel-1", "The meal allowance is EUR 52.", seq=1, live_until=date(2026, 1, 1)),
            version("travel-2", "The meal allowance is EUR 52 from now on.", seq=2, live_from=date(2026, 1, 1)),
        ]
    )
    kept = passage(1, "The daily meal allowance for domestic trips is EUR 52.", version="travel-1")
    assert (await again(receipt(f"{RIGHT}\nBye.", [kept]), library=same)).label == "ok"


async def test_an_answer_for_an_earlier_day_is_judged_by_that_day() -> None:
    given = receipt("The daily meal allowance for domestic trips is EUR 45 [1].\nBye.", [
        passage(1, "The daily meal allowance for domestic trips is EUR 45.", version="travel-1")
    ]).model_copy(update={"dated": date(2025, 6, 1)})  # fmt: skip
    assert (await again(given)).label == "ok"
    assert (await again(given.model_copy(update={"dated": None}))).label == "stale_document"


def test_every_label_is_reached_by_the_tests_of_this_file() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{label}"' in source for label in get_args(Label))


# Reading back from the database.


@pytest.fixture
def database(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'tandem.db'}")
    database.migrate()
    yield database
    database.close()


def stored(id: str, day: int, receipt: dict[str, object]) -> AnswerRow:
    return AnswerRow(
        id=id, user="ada", question="And per night?", arm="rag", adapter=None, text="EUR 90 [1].", receipt=receipt,
        created_at=datetime(2026, 3, day, tzinfo=UTC),
    )  # fmt: skip


def test_receipts_come_back_with_their_feedback(database: Database) -> None:
    turns = (Message(role="user", content="Hotels?"), Message(role="assistant", content="Yes."))
    ask = Ask(
        messages=(*turns, Message(role="user", content="And per night?")), arm="rag", principal=Principal(user="ada")
    )
    answer = Answer(answer_id="a1", text="EUR 90 [1].", arm="rag", as_of=DAY, passages=(NOW,), citations=(NOW,))
    whole = answer.model_dump(mode="json") | {
        "ask": ask.model_dump(mode="json", exclude={"principal"}),
        "prompt_version": "x",
    }
    with database.session() as session:
        session.add_all([stored("a1", 1, whole), stored("a2", 2, whole), stored("a3", 3, {})])
    with database.session() as session:
        for n, (id, rating) in enumerate([("a1", "down"), ("a2", "up")]):
            when = datetime(2026, 3, 4, tzinfo=UTC)
            session.add(FeedbackRow(id=str(n), answer_id=id, user="ada", rating=rating, about="facts", created_at=when))
    (bad,) = load_receipts(database)
    assert bad.answer.passages == (NOW,)
    assert bad.history == turns
    assert bad.complaint("facts")
    assert not bad.complaint("tone")
    assert bad.dated is None
    later, first = load_receipts(database, ["a2", "a1"])
    assert (later.answer.answer_id, first.answer.answer_id) == ("a1", "a1")  # the receipt's own word
    assert later.dated == DAY
    with pytest.raises(NotFound, match="no answer 'a9'"):
        load_receipts(database, ["a9"])
    with pytest.raises(InputError, match="receipt of the answer 'a3' cannot be read: as_of"):
        load_receipts(database, ["a3"])


def test_a_receipt_without_the_question_asked_is_still_read() -> None:
    assert read_receipt(stored("a1", 1, {"as_of": "2026-03-01"})).history == ()


def test_the_library_has_what_was_committed(database: Database) -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    with database.session() as session:
        session.add(DocumentRow(id="travel.md", root="", created_at=when))
    with database.session() as session:
        for seq, state in enumerate(("retired", "published", "staged"), start=1):
            row = {"id": f"v{seq}", "document_id": "travel.md", "seq": seq, "state": state, "groups": ["everyone"]}
            hashes = {"content_hash": "", "metadata_hash": "", "reader": "", "text": f"text {seq}"}
            session.add(VersionRow(**row, **hashes, created_at=when))
    library = load_library(database)
    assert [version.id for version in library.of("travel.md")] == ["v1", "v2"]
    assert [version.id for version in library.in_force(DAY)] == ["v2"]
    assert library.version("v3") is None


def test_search_finds_the_document_about_it_for_those_who_may_read_it() -> None:
    found = LIBRARY.search("Are dogs welcome?", DAY, Principal(user="a", groups=frozenset({"everyone"})))
    assert found is not None
    assert (found.version.document_id, found.share) == ("pets.md", 1.0)
    assert LIBRARY.search("Are dogs welcome?", DAY, Principal(user="a")) is None
