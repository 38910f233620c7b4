"""The Training section of the page in a real browser: the schedule, runs and logs, and examples to decide on."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

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
    expect(page.locator("#training")).to_contain_text("None waits.")
    (approved,) = candidates.list("approved")
    assert "28" not in approved.example.model_dump_json()
    assert approved.example.answer.endswith("[1]")
    assert approved.decided_by == "local"


def test_an_example_is_refused_and_nothing_is_wider_than_a_phone(page: Page, site: Site):  # noqa: F811
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{site.url}/#training")
    expect(page.locator("#training")).to_contain_text("Too curt.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="Refuse").click()
    expect(page.locator("#training")).to_contain_text("Refused: nothing is trained on it.")
    assert [each.state for each in Candidates(site.database, site.settings).list()] == ["refused"]
