"""The page in a real browser, against the real HTTP service. The assistant is a double, so that no model is needed."""

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from services.chat.app import create_app
from tandem.adapters import ActiveAdapter
from tandem.bootstrap import Container
from tandem.database import Database
from tandem.draft import TextDelta
from tandem.errors import IndexUnavailable
from tandem.registry import Registry
from tandem.replicas import Replicas
from tandem.schemas import Answer, Ask, Passage, uses_adapter, uses_retrieval
from tandem.settings import load_settings
from tandem.tables import AnswerRow, DocumentRow, FeedbackRow, StyleCandidateRow, VersionRow
from tests.adapter_files import add_adapter

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
KEY = "key-ada"
HOSTILE = '<img src=x onerror="document.title=1"> <b>28 days</b>'
PASSAGES = (
    Passage(
        n=1, document_id="hr/leave.md", version_id="v", chunk_id="c1", title="Leave", version="4.1", page=3,
        effective_from=date(2026, 1, 1), heading="Leave > Days", quote=HOSTILE, url="https://example.com/leave",
    ),
    Passage(n=2, document_id="x.md", version_id="v", chunk_id="c2", title="X", quote="y", url="javascript:alert(1)"),
)  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: set CHROMIUM to its path"),
]


class AssistantDouble:
    """Answers in pieces, with markup that must stay text; `fail` in the question makes the index fail."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.asked: list[Ask] = []
        self.closed = 0

    async def answer(self, ask: Ask) -> AsyncIterator[TextDelta | Answer]:
        self.asked.append(ask)
        question = ask.messages[-1].content
        if "fail" in question:
            raise IndexUnavailable("The index does not answer.")
        sourced = uses_retrieval(ask.arm)
        pieces = (f"Hello from {ask.arm}: {HOSTILE} ", "**exactly**. ", "[1][2]" if sourced else "No source.")
        try:
            for piece in pieces:
                yield TextDelta(text=piece)
                await asyncio.sleep(60 if "slow" in question else 0.02)
        finally:
            self.closed += 1
        answer = Answer(
            answer_id=f"ans_{len(self.asked)}_{ask.arm}",
            text="".join(pieces),
            arm=ask.arm,
            adapter="house-style@0123456789ab" if uses_adapter(ask.arm) else None,
            as_of=ask.as_of or date(2026, 3, 1),
            passages=PASSAGES if sourced else (),
            citations=PASSAGES[:1] if sourced else (),
        )
        with self._database.session() as session:
            row: dict[str, Any] = {"user": ask.principal.user, "question": question, "arm": ask.arm}
            receipt = answer.model_dump(mode="json")
            session.add(
                AnswerRow(id=answer.answer_id, text=answer.text, receipt=receipt, created_at=datetime.now(UTC), **row)
            )
        yield answer


class PartDouble:
    """An index, a model and an adapter pointer that are well."""

    def ping(self) -> None:
        pass

    async def complete(self, *_: Any) -> None:
        pass

    async def load_adapter(self, *_: Any) -> None:
        pass

    async def unload_adapter(self, *_: Any) -> None:
        pass


class Site:
    """A running service and what stands behind it."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = load_settings(data_dir=folder, **sections)
        self.settings = settings
        self.database = Database(settings.database)
        self.database.migrate()
        self.assistant = AssistantDouble(self.database)
        self.registry = Registry(settings.registry)
        part, unused = cast(Any, PartDouble()), cast(Any, None)
        container = Container(
            settings=settings,
            database=self.database,
            generations=part,
            embedder=unused,
            sparse=unused,
            retriever=unused,
            registry=self.registry,
            completions=part,
            adapters=ActiveAdapter(self.registry, Replicas([part]), "house-style"),
            assistant=cast(Any, self.assistant),
            style=unused,
        )
        self.url = f"http://127.0.0.1:{port}"
        config = uvicorn.Config(create_app(container), port=port, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.05)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.database.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    with site.database.session() as session:
        session.add(DocumentRow(id="hr/leave.md", created_at=datetime.now(UTC)))
        session.flush()
        hashes = {"content_hash": "", "metadata_hash": "", "reader": "s", "created_at": datetime.now(UTC)}
        for seq, (text, start, end) in enumerate(
            (("25 days.", None, date(2026, 1, 1)), ("28 days.", date(2026, 1, 1), None)), start=1
        ):
            version = {"id": f"v{seq}", "document_id": "hr/leave.md", "seq": seq, "state": "published", "text": text}
            session.add(
                VersionRow(**version, **hashes, title="<i>Leave</i>", groups=None, live_from=start, live_until=end)
            )
        session.add(DocumentRow(id="x.md", created_at=datetime.now(UTC)))  # what is quoted must be there to be rated
        session.flush()
        session.add(VersionRow(id="x", document_id="x.md", seq=1, state="published", text="y", **hashes))
    yield site
    site.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page. An error in its scripts, or anything that the content policy blocks, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    context.close()
    assert wrong == []


def ask(page: Page, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")


def test_an_answer_streams_in_and_its_citation_leads_to_the_source(page: Page, site: Site):
    page.goto(site.url)
    expect(page.locator(".chip").first).to_have_text("<i>Leave</i>")
    ask(page, "How many days?")
    expect(page.locator(".answer-text")).to_contain_text(f"Hello from tandem: {HOSTILE}")
    expect(page.locator(".answer-text strong")).to_have_text("exactly")
    expect(page.locator(".answer-facts")).to_contain_text("house-style@0123456789ab")
    page.get_by_role("button", name="Source 1: Leave").click()
    source = page.locator(".source.chosen")
    expect(source.locator("blockquote")).to_have_text(HOSTILE)
    for words in ("cited", "version 4.1", "page 3", "Leave › Days"):
        expect(source).to_contain_text(words)
    expect(source.get_by_role("link")).to_have_attribute("href", "https://example.com/leave")
    expect(page.locator(".source a")).to_have_count(1)  # a javascript: address becomes no link
    expect(page.locator(".answer img, .source img, .answer b, .source b")).to_have_count(0)
    assert page.title() == "Tandem"


def test_a_follow_up_carries_the_conversation_and_a_reload_keeps_it(page: Page, site: Site):
    page.goto(site.url)
    ask(page, "How many days?")
    expect(page.locator(".answer-facts")).to_have_count(1)
    page.fill("#as-of", "2026-03-01")
    ask(page, "And for part-timers?")
    expect(page.locator(".answer-facts")).to_have_count(2)
    last = site.assistant.asked[-1]
    assert [turn.role for turn in last.messages] == ["user", "assistant", "user"]
    assert last.as_of == date(2026, 3, 1)
    page.reload()
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_four_arms_stand_side_by_side_each_with_its_sources(page: Page, site: Site):
    page.goto(site.url)
    page.get_by_label("Compare four arms").check(force=True)
    ask(page, "How many days?")
    expect(page.locator(".grid .answer-facts")).to_have_count(4)
    for model, arm in (("tandem", "tandem"), ("tandem-rag", "rag"), ("tandem-style", "style"), ("tandem-base", "base")):
        answer = page.locator(f".answer[data-model={model}]")
        expect(answer.locator(".answer-text")).to_contain_text(f"Hello from {arm}")
        expect(answer.locator(".cite")).to_have_count(2 if arm in ("tandem", "rag") else 0)
        expect(answer.locator(".answer-facts")).to_contain_text("first text")
    page.locator(".answer[data-model=tandem-rag] .cite").first.click()
    expect(page.locator(".sources h2")).to_have_text("Sources of “Retrieval only”")


def test_a_thumb_asks_whether_it_was_facts_or_tone(page: Page, site: Site):
    page.goto(site.url)
    ask(page, "A question to rate")
    page.get_by_role("button", name="Bad answer").click()
    page.get_by_role("button", name="Tone").click()
    expect(page.locator(".thumb-question")).to_have_text("Thank you.")
    with site.database.session() as session:
        rows = session.query(FeedbackRow.rating, FeedbackRow.about).all()
    assert [tuple(row) for row in rows] == [("down", "tone")]
    page.get_by_role("button", name="Suggest a better answer").click()
    page.get_by_label("How should it be said?").fill("You have 28 days. [1]")
    page.get_by_role("button", name="Suggest it").click()
    expect(page.locator("#sheet")).to_be_hidden()
    with site.database.session() as session:
        (candidate,) = session.query(StyleCandidateRow).all()
    assert (candidate.state, candidate.example["answer"]) == ("open", "You have 28 days. [1]")


def test_an_error_is_a_sentence_and_stop_ends_the_generation(page: Page, site: Site):
    page.goto(site.url)
    ask(page, "please fail")
    expect(page.locator(".answer .notice.bad")).to_have_text("The index does not answer.")
    closed = site.assistant.closed
    ask(page, "a slow one")
    expect(page.locator(".answer-text").last).to_contain_text("Hello from tandem")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".answer-text").last).to_contain_text("Stopped.")
    deadline = time.monotonic() + 3
    while site.assistant.closed == closed and time.monotonic() < deadline:
        time.sleep(0.05)
    assert site.assistant.closed == closed + 1


def test_documents_show_versions_and_what_changed(page: Page, site: Site):
    page.goto(f"{site.url}/#documents")
    row = page.get_by_role("row").filter(has_text="hr/leave.md")
    expect(row).to_contain_text("<i>Leave</i>")
    expect(row).to_contain_text("admins only")
    expect(row).to_contain_text("in force")
    row.get_by_role("button", name="2 versions").click()
    page.get_by_role("button", name="What changed").click()
    expect(page.locator(".diff-line.added")).to_have_text("+28 days.")
    expect(page.locator(".diff-line.removed")).to_have_text("-25 days.")


def test_adapters_are_promoted_tried_and_rolled_back(page: Page, tmp_path: Path):
    site = Site(tmp_path / "site")
    try:
        one, two = (add_adapter(site.registry, tmp_path / str(seed), seed) for seed in (1, 2))
        site.registry.promote(one, "tests")
        page.set_viewport_size({"width": 360, "height": 740})
        page.goto(f"{site.url}/#adapters")
        page.get_by_role("button", name="Try on 10%").click()
        expect(page.get_by_text("a candidate answers 10% of the conversations")).to_be_visible()
        expect(page.get_by_text("Nothing is judged yet: the candidate had 0 conversations")).to_be_visible()
        expect(page.locator("#adapters td[data-label=Conversations]")).to_have_text(["0", "0"])
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.get_by_role("button", name="Stop the trial").click()
        expect(page.get_by_text(f"{two.served} is on trial no more.")).to_be_visible()
        page.get_by_role("button", name="Promote").click()
        expect(page.get_by_text(f"{two.served} is active now.")).to_be_visible()
        expect(page.locator("#adapters .chosen h3")).to_have_text(two.served)
        page.get_by_role("button", name="Roll back").click()
        expect(page.locator("#adapters .chosen h3")).to_have_text(one.served)
        (two.path / "adapter_model.safetensors").write_bytes(b"bit rot")
        page.get_by_role("button", name="Promote").click()
        expect(page.get_by_role("alert")).to_contain_text("not those it was registered with")
        expect(page.locator("#adapters .chosen h3")).to_have_text(one.served)
    finally:
        site.close()


def receipts(site: Site, served: str, count: int, *, failed: int, declined: int) -> None:
    """Stores answers of one adapter, each of a conversation of its own."""
    with site.database.session() as session:
        for n in range(count):
            fails, declines = n < failed, failed <= n < failed + declined
            asked = f"Question {n} of {served}?"
            receipt = {
                "declined": declines,
                "citations": [] if declines else [{"n": 1}],
                "timings": {"total": 1.0},
                "ask": {"messages": [{"role": "user", "content": asked}]},
                "failed_adapter": served if fails else None,
            }
            row: dict[str, Any] = {"user": "ada", "question": asked, "arm": "tandem", "text": "x", "receipt": receipt}
            session.add(AnswerRow(id=asked, adapter=None if fails else served, created_at=datetime.now(UTC), **row))


def test_a_trial_shows_failures_apart_and_what_it_lacks(page: Page, tmp_path: Path):
    site = Site(tmp_path / "site")
    try:
        one, two = (add_adapter(site.registry, tmp_path / str(seed), seed) for seed in (1, 2))
        site.registry.promote(one, "tests")
        site.registry.start_canary(two, 0.5, "tests")
        receipts(site, two.served, 60, failed=15, declined=9)
        receipts(site, one.served, 80, failed=20, declined=6)
        page.goto(f"{site.url}/#adapters")
        for column, texts in (
            ("Failed", ["25% of 60", "25% of 80"]),
            ("Declined", ["20% of 45", "10% of 60"]),  # of those answered, as the judge has it
            ("Cites", ["100% of 36", "100% of 54"]),
        ):
            expect(page.get_by_role("columnheader", name=column)).to_be_visible()
            expect(page.locator(f"#adapters td[data-label={column}]")).to_have_text(texts)
        expect(page.locator("#adapters")).to_contain_text("Only failures are judged yet: the candidate answered 45")
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    finally:
        site.close()


def test_a_double_click_on_roll_back_steps_one_version_back(page: Page, tmp_path: Path):
    site = Site(tmp_path / "site")
    try:
        refs = [add_adapter(site.registry, tmp_path / str(seed), seed) for seed in (1, 2, 3)]
        for ref in refs:
            site.registry.promote(ref, "tests")
        asked: list[Any] = []
        page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
        page.goto(f"{site.url}/#adapters")
        page.get_by_role("button", name="Roll back").dblclick()
        expect(page.locator("#adapters .chosen h3")).to_have_text(refs[1].served)
        page.wait_for_load_state("networkidle")
        assert asked == [{"expected": refs[2].digest}]
        assert site.registry.active("house-style") == refs[1]
        expect(page.get_by_role("button", name="Roll back")).to_be_enabled()
    finally:
        site.close()


def test_while_an_action_is_under_way_none_can_be_begun_and_a_refusal_shows_what_is_now(page: Page, tmp_path: Path):
    site = Site(tmp_path / "site")
    try:
        one, two = (add_adapter(site.registry, tmp_path / str(seed), seed) for seed in (1, 2))
        site.registry.promote(one, "tests")
        waiting: list[Any] = []
        page.route("**/promote", lambda route: waiting.append(route))  # Playwright wants no built-in
        page.goto(f"{site.url}/#adapters")
        page.get_by_role("button", name="Promote").click()
        for name in ("Promote", "Roll back", "Try on 10%"):
            expect(page.get_by_role("button", name=name)).to_be_disabled()
        site.registry.promote(two, "somebody else")
        refusal = {"error": {"message": "Another one is active.", "code": "adapter_error", "param": None}}
        waiting[0].fulfill(status=409, json=refusal)
        expect(page.get_by_role("alert")).to_contain_text("Another one is active.")
        expect(page.locator("#adapters .chosen h3")).to_have_text(two.served)
        expect(page.get_by_role("button", name="Promote")).to_be_enabled()
    finally:
        site.close()


@pytest.mark.parametrize("tab", ["ask", "documents", "adapters", "training", "signals"])
def test_nothing_is_wider_than_a_phone(page: Page, site: Site, tab: str):
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{site.url}/#{tab}")
    expect(page.locator(f"#{tab}")).to_be_visible()
    if tab == "ask":
        ask(page, "How many days?")
        expect(page.locator(".answer-facts")).to_have_count(1)
    else:
        expect(page.locator(f"#{tab} h1")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_server_with_keys_asks_for_one_until_it_is_right(page: Page, tmp_path: Path):
    site = Site(tmp_path, auth={"api_keys": {KEY: {"user": "ada", "groups": ["everyone"]}}})
    try:
        page.goto(site.url)
        page.get_by_role("textbox", name="API key").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#key-reason")).to_contain_text("not known here")
        page.get_by_role("textbox", name="API key").fill(KEY)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#key-dialog")).to_be_hidden()
        ask(page, "How many days?")
        expect(page.locator(".answer-facts")).to_have_count(1)
        assert site.assistant.asked[0].principal.user == "ada"
        page.goto(f"{site.url}/#documents")
        expect(page.locator("#documents")).to_contain_text("no documents that you may read")
        expect(page.get_by_text("Upload a document")).to_have_count(0)  # not an admin
    finally:
        site.close()
