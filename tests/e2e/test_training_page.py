"""The Training section of the page in a real browser: the schedule, runs and logs, and examples to decide on."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tandem.tables import AnswerRow
from tests.e2e.test_page import Site, browser, page, pytestmark  # noqa: F401
from training.candidates import Candidates, suggest
from training.events import TrainingEvent
from training.runs import TrainingRuns
from training.schedule import Schedule

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
QUOTE = "Every member of staff has 28 days <b>of leave</b> a year."


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    schedule = Schedule(site.settings, site.database)
    schedule.due(datetime.now(UTC))
    schedule.looked(datetime.now(UTC), "3 new examples at the time due.")
    runs = TrainingRuns(site.database)
    with site.database.session() as session:
        id = runs.want(session, "schedule", "house-style", "schedule", at=NOW)
    attempt = runs.start(id, [], at=NOW)
    runs.log(id, TrainingEvent(stage="guard", message="2 of <b>3</b> examples pass."), at=NOW)
    runs.fail(id, attempt, "The base model is missing.", at=NOW)
    passage = {"n": 1, "document_id": "hr/leave.md", "title": "Leave", "heading": "Days", "quote": QUOTE}
    receipt = {"passages": [passage]}
    fields = {"user": "bob", "question": "How many days?", "arm": "tandem", "receipt": receipt, "created_at": NOW}
    with site.database.session() as session:
        answer = AnswerRow(id="ans_1", text="You have 28 days.", **fields)
        session.add(answer)
        session.flush()
        suggest(session, answer, "bob", "Too curt.", "")
    yield site
    site.close()


def test_the_schedule_the_runs_and_a_log(page: Page, site: Site):  # noqa: F811
    page.goto(f"{site.url}/#training")
    training = page.locator("#training")
    expect(training).to_contain_text("0 3 * * 0 · UTC")
    expect(training).to_contain_text("trainer running")
    expect(training).to_contain_text("The base model is missing.")
    training.get_by_role("button", name="Log").click()
    expect(page.locator("#sheet")).to_contain_text("guard    2 of <b>3</b> examples pass.")
    page.get_by_role("button", name="Close").click()
    training.get_by_role("button", name="Train now").click()
    expect(training).to_contain_text("A run waits for the trainer.")
    expect(training.get_by_role("button", name="Train now")).to_be_disabled()
    (wanted, _) = sorted(TrainingRuns(site.database).latest(9), key=lambda run: run.state, reverse=True)
    assert (wanted.state, wanted.cause, wanted.user) == ("waiting", "manual", "local")


def test_a_run_is_cancelled(page: Page, site: Site):  # noqa: F811
    page.goto(f"{site.url}/#training")
    training = page.locator("#training")
    training.get_by_role("button", name="Train now").click()
    training.get_by_role("button", name="Cancel the run").click()
    expect(training).to_contain_text("It was cancelled by local.")
    expect(training.get_by_role("button", name="Cancel the run")).to_have_count(0)
    expect(training.get_by_role("button", name="Train now")).to_be_enabled()


def test_a_run_is_looked_at_again_after_a_look_that_failed(page: Page, site: Site):  # noqa: F811
    page.goto(f"{site.url}/#training")
    training = page.locator("#training")
    training.get_by_role("button", name="Train now").click()
    expect(training).to_contain_text("A run waits for the trainer.")
    page.route("**/v1/training", lambda route: route.abort(), times=1)
    expect(training.locator(".notice.bad")).to_be_visible()
    expect(training).not_to_contain_text("A run waits for the trainer.")
    expect(training).to_contain_text("A run waits for the trainer.")


def test_an_example_is_made_up_edited_and_approved(page: Page, site: Site):  # noqa: F811
    candidates = Candidates(site.database, site.settings)
    page.goto(f"{site.url}/#training")
    card = page.locator("#training .card").filter(has_text="Too curt.")
    source = card.get_by_label("Source 1: Leave")
    expect(source).to_have_value(QUOTE)
    card.get_by_role("button", name="Approve").click()
    expect(card.get_by_role("alert")).to_contain_text("cites no source")  # said at once
    card.get_by_role("button", name="Make names and figures up").click()
    expect(source).not_to_have_value(QUOTE)
    answer = card.get_by_label("Answer")
    answer.fill(f"{answer.input_value()} [1]")
    card.get_by_role("button", name="Approve").click()
    expect(page.locator("#training")).to_contain_text("Approved: the next run is trained on it.")
    expect(page.get_by_text("None waits.")).to_be_visible()
    (approved,) = candidates.list("approved")
    assert "28" not in approved.example.model_dump_json()
    assert approved.example.answer.endswith("[1]")
    assert approved.decided_by == "local"


def another(site: Site, n: int) -> None:
    """One more example that waits."""
    passage = {"n": 1, "document_id": "hr/leave.md", "title": "Leave", "heading": "Days", "quote": QUOTE}
    fields = {"user": "bob", "arm": "tandem", "receipt": {"passages": [passage]}, "created_at": NOW}
    with site.database.session() as session:
        answer = AnswerRow(id=f"ans_{n}", question=f"Question {n}?", text="You have 28 days.", **fields)
        session.add(answer)
        session.flush()
        suggest(session, answer, "bob", f"Comment {n}.", "")


def test_what_is_written_in_one_example_outlives_decisions_on_others(page: Page, site: Site):  # noqa: F811
    another(site, 2)
    another(site, 3)
    page.goto(f"{site.url}/#training")
    training = page.locator("#training")
    training.get_by_role("button", name="Train now").click()  # from now on the page looks every three seconds
    expect(training.get_by_role("button", name="Train now")).to_be_disabled(timeout=15_000)
    cards = training.locator(".card").filter(has=page.get_by_role("button", name="Refuse"))
    expect(cards).to_have_count(3)
    first, second, third = (cards.filter(has_text=text) for text in ("Too curt.", "Comment 2.", "Comment 3."))
    second.get_by_label("Answer").fill("You have 28 days a year. [1]")
    third.get_by_label("These people are invented").check(force=True)
    third.get_by_label("Question").fill("How long?")
    first.get_by_role("button", name="Refuse").click()
    expect(training).to_contain_text("Refused: nothing is trained on it.")
    expect(first).to_have_count(0)
    expect(second.get_by_label("Answer")).to_have_value("You have 28 days a year. [1]")
    expect(page.get_by_role("heading", name="Examples to decide on")).to_be_focused()
    third.get_by_label("Question").focus()
    page.keyboard.press("End")
    another(site, 4)
    fourth = cards.filter(has_text="Comment 4.")
    expect(fourth).to_have_count(1, timeout=20_000)
    page.keyboard.type(" And when?")  # the focus and the place in the text are where they were
    expect(third.get_by_label("Question")).to_have_value("How long? And when?")
    page.locator("h1:visible").click()  # the focus leaves
    candidates = Candidates(site.database, site.settings)
    candidates.refuse(next(each.id for each in candidates.list("open") if each.comment == "Comment 4."), "somebody")
    expect(fourth).to_have_count(0, timeout=20_000)
    expect(second.get_by_label("Answer")).to_have_value("You have 28 days a year. [1]")
    expect(third.get_by_label("Question")).to_have_value("How long? And when?")
    expect(third.get_by_label("These people are invented")).to_be_checked()
    expect(cards).to_have_count(2)
    candidates.refuse(next(each.id for each in candidates.list("open") if each.comment == "Comment 3."), "somebody")
    expect(third).to_have_count(0, timeout=20_000)  # what somebody else decided on goes, edited or not


def test_a_look_from_before_a_decision_does_not_bring_the_example_back(page: Page, site: Site):  # noqa: F811
    page.goto(f"{site.url}/#training")
    training = page.locator("#training")
    expect(training).to_contain_text("Too curt.")
    held: list[Route] = []
    page.route(re.compile("state=open"), lambda route: held.append(route))  # Playwright wants no built-in
    with page.expect_response("**/v1/training", timeout=20_000):
        training.get_by_role("button", name="Train now").click()
    while not held:
        page.wait_for_timeout(50)
    before = held[0].fetch()
    assert "Too curt." in before.text()
    training.get_by_role("button", name="Refuse").click()
    expect(training.get_by_text("None waits.")).to_be_visible()
    while len(held) < 2:  # the look that follows the decision; it is kept back too, or it would set things right
        page.wait_for_timeout(50)
    with page.expect_event("requestfinished", lambda request: request == held[0].request):
        held[0].fulfill(response=before)
    page.wait_for_timeout(300)  # for the page to draw it, if it does
    expect(training.get_by_text("None waits.")).to_be_visible()
    assert training.get_by_role("button", name="Refuse").count() == 0


def test_an_unedited_example_that_changed_is_shown_as_it_is_now(page: Page, site: Site):  # noqa: F811
    page.goto(f"{site.url}/#training")
    training = page.locator("#training")
    expect(training).to_contain_text("Too curt.")
    with site.database.session() as session:
        answer = session.get(AnswerRow, "ans_1")
        assert answer is not None
        suggest(session, answer, "bob", "Too long.", "28 days. [1]")
    page.get_by_role("button", name="Train now").click()
    expect(training).to_contain_text("Too long.", timeout=15_000)
    expect(training.get_by_label("Answer")).to_have_value("28 days. [1]")
    expect(training.get_by_role("button", name="Refuse")).to_have_count(1)


def test_an_example_is_refused_and_nothing_is_wider_than_a_phone(page: Page, site: Site):  # noqa: F811
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{site.url}/#training")
    expect(page.locator("#training")).to_contain_text("Too curt.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Refuse").click()
    expect(page.locator("#training")).to_contain_text("Refused: nothing is trained on it.")
    assert [each.state for each in Candidates(site.database, site.settings).list()] == ["refused"]
