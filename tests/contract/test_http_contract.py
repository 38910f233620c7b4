"""The HTTP contract: shapes, statuses, rights, limits. The database is real; the assistant is a double, for faults."""

import asyncio
import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from ingest.report import DeletionReport, IngestReport, Progress
from ingest.run import Ingestor
from services.chat.adapters_api import Switch
from services.chat.app import create_app
from services.ingest.runs import IngestRuns
from tandem.adapters import ActiveAdapter
from tandem.assistant import Assistant
from tandem.bootstrap import Container
from tandem.completions import Completions
from tandem.database import Database
from tandem.draft import TextDelta
from tandem.errors import AdapterError, DatabaseUnavailable, IndexUnavailable, InputError, ModelUnavailable, TandemError
from tandem.registry import WEIGHTS, AdapterRef, Gate, Registry
from tandem.replicas import Replicas
from tandem.schemas import Answer, Ask, Metadata, Passage, Usage
from tandem.settings import Settings, load_settings
from tandem.tables import AnswerRow, AuditRow, DocumentRow, FeedbackRow, IngestRunRow, VersionRow
from tests.adapter_files import add_adapter

BASE = "http://127.0.0.1:8080"
QUESTION = [{"role": "user", "content": "How many days?"}]
KEYS = {
    "key-ada": {"user": "ada", "groups": ["everyone"]},
    "key-bob": {"user": "bob", "groups": ["everyone", "hr"]},
    "key-root": {"user": "root", "admin": True},
}
PASSAGE = Passage(
    n=1, document_id="hr/leave.md", version_id="v", chunk_id="c", title="Leave", quote="28 days.", text="28 days. Rest."
)


@dataclass
class AssistantDouble:
    """Says `pieces`, then gives the answer; `fault` is raised before piece number `fault_at`."""

    database: Database
    pieces: tuple[str, ...] = ("You have ", "28 days. [1]")
    fault: Exception | None = None
    fault_at: int = 0
    hold: asyncio.Event | None = None
    asked: list[Ask] = field(default_factory=list)
    closed: int = 0
    degraded: str | None = None

    async def answer(self, ask: Ask) -> AsyncIterator[TextDelta | Answer]:
        self.asked.append(ask)
        try:
            for number, piece in enumerate(self.pieces):
                if self.fault and number == self.fault_at:
                    raise self.fault
                yield TextDelta(text=piece)
                if self.hold:
                    await self.hold.wait()
            answer = Answer(
                answer_id=f"ans_{len(self.asked)}",
                text="".join(self.pieces),
                arm=ask.arm,
                as_of=ask.as_of or date(2026, 3, 1),
                degraded=self.degraded,
                citations=(PASSAGE,),
                passages=(PASSAGE,),
                removed_markers=2,
                usage=Usage(prompt_tokens=7, completion_tokens=4),
                timings={"retrieve": 0.01},
            )
            with self.database.session() as session:
                row = {"user": ask.principal.user, "question": ask.messages[-1].content, "arm": ask.arm}
                receipt = answer.model_dump(mode="json")
                when = datetime.now(UTC)
                session.add(AnswerRow(id=answer.answer_id, text=answer.text, receipt=receipt, created_at=when, **row))
            yield answer
        finally:
            self.closed += 1


@dataclass
class PartDouble:
    """A part that answers pings, or fails them with `fault`; as the model it also makes one token."""

    fault: TandemError | None = None

    def ping(self) -> None:
        if self.fault:
            raise self.fault

    base_url: str = "http://double/v1"
    adapters: list[str] = field(default_factory=list)
    refused: str = ""

    async def complete(self, *_: Any, **__: Any) -> None:
        self.ping()

    async def load_adapter(self, name: str, path: Path) -> None:
        self.ping()
        if name == self.refused:
            raise AdapterError(f"The model server refuses the adapter {name!r}.")
        self.adapters.append(name)

    async def unload_adapter(self, name: str) -> None:
        self.ping()
        if name in self.adapters:
            self.adapters.remove(name)


class IngestorDouble:
    """Takes half a second for a run, unless `fault` ends it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fault: Exception | None = None

    def ingest(
        self,
        paths: list[Path],
        *,
        dry_run: bool,
        groups: tuple[str, ...] | None,
        on_progress: Callable[[Progress], None],
        user: str,
        run_id: str,
    ) -> IngestReport:
        self.calls.append(("ingest", paths, dry_run, groups, user))
        on_progress(Progress(stage="read", done=1, total=2))
        time.sleep(0.5)
        if self.fault:
            raise self.fault
        return IngestReport(run_id=run_id, added=("a.md",), dry_run=dry_run)

    def ingest_upload(self, name: str, data: bytes, metadata: Metadata | None, *, user: str) -> IngestReport:
        if ".." in name:
            raise InputError(f"A document cannot be named {name!r}.", param="name")
        self.calls.append(("upload", name, data, metadata, user))
        return IngestReport(run_id="r", added=(name,))

    def delete(self, document_id: str, *, user: str) -> DeletionReport:
        self.calls.append(("delete", document_id, user))
        return DeletionReport(document_id=document_id, versions=2)


@dataclass
class House:
    """One service under test."""

    app: FastAPI
    settings: Settings
    database: Database
    assistant: AssistantDouble
    index: PartDouble
    model: PartDouble
    registry: Registry
    ingestor: IngestorDouble
    runs: IngestRuns

    def client(self, key: str | None = None, base: str = BASE, **headers: str) -> httpx.AsyncClient:
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=base, headers=headers)

    async def ask(self, key: str | None = None, **body: Any) -> httpx.Response:
        async with self.client(key) as client:
            return await client.post("/v1/chat/completions", json={"model": "tandem", "messages": QUESTION, **body})


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, migrated once; each test gets a copy."""
    path = tmp_path_factory.mktemp("template") / "tandem.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated: Path):
    monkeypatch.chdir(tmp_path)  # away from any .env
    made: list[House] = []

    def make(**sections: Any) -> House:
        settings = load_settings(data_dir=tmp_path / "data", **sections)
        settings.data_dir.mkdir(exist_ok=True)
        shutil.copy(migrated, settings.data_dir / "tandem.db")
        database = Database(settings.database)
        assistant, index, model = AssistantDouble(database), PartDouble(), PartDouble()
        registry, ingestor = Registry(settings.registry), IngestorDouble()
        runs = IngestRuns(database, cast(Ingestor, ingestor))
        unused: Any = None
        container = Container(
            settings=settings,
            database=database,
            generations=cast(Any, index),
            embedder=unused,
            sparse=unused,
            retriever=unused,
            registry=registry,
            completions=cast(Any, model),
            adapters=ActiveAdapter(registry, Replicas([cast(Completions, model)]), "house-style"),
            assistant=cast(Assistant, assistant),
            style=unused,
        )
        app = create_app(container, runs)
        made.append(House(app, settings, database, assistant, index, model, registry, ingestor, runs))
        return made[-1]

    yield make
    for house in made:
        house.database.close()


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build()


@pytest.fixture
def keyed(build: Callable[..., House]) -> House:
    return build(auth={"api_keys": KEYS})


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    return cast(dict[str, Any], body["error"])


def events_of(text: str) -> list[Any]:
    frames = [frame.removeprefix("data: ") for frame in text.split("\n\n") if frame]
    return [frame if frame == "[DONE]" else json.loads(frame) for frame in frames]


# ------------------------------------------------------------------------------------------------- completions


async def test_a_completion_has_openais_shape_and_the_receipt(house: House):
    response = await house.ask()
    body = response.json()
    assert response.status_code == 200
    assert (body["object"], body["model"]) == ("chat.completion", "tandem")
    message = {"role": "assistant", "content": "You have 28 days. [1]", "refusal": None}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    assert set(body["tandem"]) == {"arm", "adapter", "answer_id", "as_of", "degraded", "citations", "passages"}
    assert "text" not in body["tandem"]["passages"][0]  # the quote is the contract, the whole chunk is not


async def test_a_stream_is_role_deltas_finish_with_receipt_usage_done(house: House):
    response = await house.ask(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    role, first, second, last, usage, done = events_of(response.text)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"] for chunk in (first, second)] == [
        {"content": "You have "},
        {"content": "28 days. [1]"},
    ]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["tandem"]["answer_id"] == "ans_1"
    assert "tandem" not in second
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 11)
    assert first["usage"] is None
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in (role, first, second, last, usage)}) == 1


async def test_text_with_every_kind_of_character_survives_the_prebuilt_frame(house: House):
    house.assistant.pieces = ('"quoted" \\ \n\t', "\u2028 é 漢字 🙂 \x00", "data: [DONE]\n\n")
    events = events_of((await house.ask(stream=True)).text)
    assert [event["choices"][0]["delta"]["content"] for event in events[1:4]] == list(house.assistant.pieces)


async def test_the_official_client_works_unchanged(house: House):
    client = openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="none", http_client=house.client(), max_retries=0)
    whole = await client.chat.completions.create(model="tandem-rag", messages=cast(Any, QUESTION))
    assert whole.choices[0].message.content == "You have 28 days. [1]"
    assert (whole.model_extra or {})["tandem"]["citations"][0]["document_id"] == "hr/leave.md"
    stream = await client.chat.completions.create(model="tandem", messages=cast(Any, QUESTION), stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "You have 28 days. [1]"
    assert [model.id async for model in client.models.list()] == ["tandem", "tandem-rag", "tandem-style", "tandem-base"]
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.chat.completions.create(model="gpt-4", messages=cast(Any, QUESTION))
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="tandem", messages=cast(Any, QUESTION), n=2)
    assert refused.value.param == "n"


async def test_each_model_name_is_its_arm(house: House):
    for name, arm in (("tandem", "tandem"), ("tandem-rag", "rag"), ("tandem-style", "style"), ("tandem-base", "base")):
        assert (await house.ask(model=name)).json()["tandem"]["arm"] == arm
    async with house.client() as client:
        assert (await client.get("/v1/models/tandem-rag")).json()["id"] == "tandem-rag"
        assert error_of(await client.get("/v1/models/other"))["code"] == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "code", "retry"),
    [
        (IndexUnavailable("Qdrant does not answer."), 503, "index_unavailable", "5"),
        (DatabaseUnavailable("The database does not answer."), 503, "database_unavailable", "5"),
        (AdapterError("The adapter is broken."), 409, "adapter_error", None),
        (InputError("Too long.", param="messages"), 400, "invalid_request", None),
    ],
)
async def test_an_error_before_the_first_text_is_an_http_error(
    house: House, fault: TandemError, status: int, code: str, retry: str | None, stream: bool
):
    house.assistant.fault = fault
    response = await house.ask(stream=stream)
    error = error_of(response)
    assert (response.status_code, error["code"], error["message"]) == (status, code, fault.message)
    assert response.headers.get("retry-after") == retry


async def test_an_error_after_the_first_text_is_an_event(house: House):
    house.assistant.fault, house.assistant.fault_at = IndexUnavailable("Qdrant does not answer."), 1
    response = await house.ask(stream=True)
    events = events_of(response.text)
    assert response.status_code == 200
    assert events[1]["choices"][0]["delta"] == {"content": "You have "}
    assert events[2]["error"]["code"] == "index_unavailable"
    client = openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="none", http_client=house.client(), max_retries=0)
    stream = await client.chat.completions.create(model="tandem", messages=cast(Any, QUESTION), stream=True)
    with pytest.raises(openai.APIError, match="Qdrant does not answer"):
        [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_gives_an_id_and_no_trace(house: House, stream: bool, caplog: pytest.LogCaptureFixture):
    house.assistant.fault = ZeroDivisionError("secret detail")
    response = await house.ask(stream=stream)
    error = error_of(response)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert error["code"] in caplog.text  # the id leads to the trace
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (b"", 400, "body"),
        (b"{", 400, "JSON"),
        (b"[1, 2]", 400, "object"),
        (b'"text"', 400, "object"),
        (b"null", 400, "body"),
        (b'{"\xff', 400, "UTF-8"),
        (b"[" * 100_000, 400, "body"),
        (b'{"model": "tandem"}', 400, "messages"),
        (b'{"model": "tandem", "messages": [], "temperature": NaN}', 400, "temperature"),
        (b'{"model": "tandem", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogate"),
        (b'{"model": "tandem\\ud800", "messages": []}', 400, "surrogate"),
        (b'{"x": ' + b"9" * 5000 + b"}", 400, "body"),
        (b" " * 1_000_001, 413, "1,000,000 bytes"),
    ],
)
async def test_nonsense_gets_one_sentence(house: House, content: bytes, status: int, word: str):
    async with house.client() as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/v1/chat/completions", content=content, headers=headers)
    error = error_of(response)
    assert response.status_code == status
    assert word in error["message"]


async def test_json_sent_as_a_form_is_told_the_header(house: House):
    async with house.client() as client:
        body = json.dumps({"model": "tandem", "messages": QUESTION})
        response = await client.post("/v1/chat/completions", content=body, headers={"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "Content-Type: application/json" in error_of(response)["message"]


async def test_a_body_without_a_length_is_stopped_at_the_limit(house: House):
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 50_000_000:
            sent += 100_000
            yield b" " * 100_000

    async with house.client() as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/v1/chat/completions", content=endless(), headers=headers)
    assert response.status_code == 413
    assert sent < 2_000_000


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nothing"), ("PUT", "/v1/models"), ("GET", "/../etc/passwd")])
async def test_unknown_routes_have_the_same_shape(house: House, method: str, path: str):
    async with house.client() as client:
        response = await client.request(method, path)
    assert response.status_code in (404, 405)
    assert "/openapi.json" in error_of(response)["message"]


async def test_beyond_the_queue_one_is_refused_at_once(build: Callable[..., House]):
    house = build(server={"max_concurrency": 1, "max_queue": 1})
    house.assistant.hold = asyncio.Event()
    admitted = [asyncio.create_task(house.ask()) for _ in range(2)]
    while len(house.assistant.asked) < 1:
        await asyncio.sleep(0.01)
    started = time.perf_counter()
    refused = await house.ask()
    assert time.perf_counter() - started < 2  # the others are held until the test lets go
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert error_of(refused)["type"] == "rate_limit_error"
    assert len(house.assistant.asked) == 1  # the second waits, and does not reach the model
    house.assistant.hold.set()
    assert [response.status_code for response in await asyncio.gather(*admitted)] == [200, 200]
    assert (await house.ask()).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_ends_the_generation_and_frees_its_place(
    build: Callable[..., House], stream: bool
):
    house = build(server={"max_concurrency": 1, "max_queue": 0})
    house.assistant.hold = asyncio.Event()  # never set: only the disconnect can end it
    gone = asyncio.Event()
    body = json.dumps({"model": "tandem", "messages": QUESTION, "stream": stream}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"", "query_string": b""}
    request = asyncio.create_task(house.app({**scope, "headers": headers, "asgi": {"version": "3.0"}}, receive, send))
    while not house.assistant.asked:
        await asyncio.sleep(0.01)
    assert house.assistant.closed == 0
    gone.set()
    await asyncio.wait_for(request, 1.0)
    assert house.assistant.closed == 1
    house.assistant.hold.set()
    assert (await house.ask()).status_code == 200
    async with house.client() as client:
        assert 'tandem_requests_total{arm="tandem",status="499"} 1.0' in (await client.get("/metrics")).text


# ------------------------------------------------------------------------------------------------------- rights


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic key-ada", "Bearer key-ad", "Bearer kéy"])
async def test_without_a_known_key_nothing_is_answered(keyed: House, header: str | None):
    async with keyed.client() as client:
        headers = {"Authorization": header.encode()} if header else {}
        # The body is no JSON either: who may not ask does not even learn that.
        response = await client.post("/v1/chat/completions", content=b"{", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert error_of(response)["type"] == "authentication_error"
    assert keyed.assistant.asked == []


async def test_the_key_says_who_asks_and_the_body_cannot(keyed: House):
    assert (await keyed.ask("key-bob", user="root")).status_code == 200
    principal = keyed.assistant.asked[0].principal
    assert (principal.user, principal.groups, principal.admin) == ("bob", frozenset({"everyone", "hr"}), False)
    assert error_of(await keyed.ask("key-ada", tandem={"groups": ["hr"]}))["code"] == "forbidden"


@pytest.mark.parametrize(
    ("host", "origin", "method", "status"),
    [
        ("127.0.0.1:8080", None, "POST", 201),
        ("localhost:8080", "http://localhost:8080", "POST", 201),
        ("[::1]:8080", None, "POST", 201),
        ("evil.example", None, "GET", 403),
        ("evil.example:8080", "http://evil.example:8080", "POST", 403),
        ("127.0.0.1.evil.example", None, "GET", 403),
        ("127.0.0.1:8080", "https://evil.example", "POST", 403),
        ("127.0.0.1:8080", "null", "POST", 403),
        ("localhost:8080", "http://localhost:9999", "POST", 403),
        ("tandem.example", "https://tandem.example", "POST", 201),
        ("", None, "GET", 403),
    ],
)
async def test_single_user_mode_serves_only_its_own_page(
    build: Callable[..., House], host: str, origin: str | None, method: str, status: int
):
    house = build(server={"public_url": "https://tandem.example"})
    add_versions(house.database, "hr/leave.md", {})
    await house.ask()
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    async with house.client(**headers) as client:
        if method == "GET":
            response = await client.get("/v1/models")
        else:
            response = await client.post("/v1/feedback", json={"answer_id": "ans_1", "rating": "up"})
    assert response.status_code == status


async def test_with_keys_any_host_may_be_used(keyed: House):
    async with keyed.client("key-ada", base="http://tandem.internal", Origin="https://app.internal") as client:
        response = await client.post("/v1/chat/completions", json={"model": "tandem", "messages": QUESTION})
    assert response.status_code == 200


def test_an_open_address_without_keys_is_refused_at_the_start(build: Callable[..., House]):
    with pytest.raises(TandemError, match="TANDEM_AUTH__API_KEYS"):
        build(server={"host": "0.0.0.0"})
    build(server={"host": "0.0.0.0"}, auth={"single_user_remote": True})


async def test_a_receipt_is_its_askers_and_the_admins(keyed: House):
    add_versions(keyed.database, "hr/leave.md", {})
    await keyed.ask("key-ada")
    statuses = {}
    for key in ("key-ada", "key-bob", "key-root"):
        async with keyed.client(key) as client:
            statuses[key] = (await client.get("/v1/answers/ans_1")).status_code
    assert statuses == {"key-ada": 200, "key-bob": 404, "key-root": 200}
    async with keyed.client("key-ada") as client:
        body = (await client.get("/v1/answers/ans_1")).json()
        missing = await client.get("/v1/answers/ans_9")
    async with keyed.client("key-bob") as client:
        foreign = await client.get("/v1/answers/ans_1")
    assert (body["question"], body["receipt"]["removed_markers"]) == ("How many days?", 2)
    # A stranger's answer and one that never was cannot be told apart.
    assert missing.text.replace("ans_9", "") == foreign.text.replace("ans_1", "")


async def test_an_answer_is_withheld_while_it_quotes_what_its_asker_may_not_read(keyed: House):
    """Its text repeats the passage, so it goes as a whole, in the words of an answer that never was."""
    add_versions(keyed.database, "hr/leave.md", {"state": "retired", "groups": ["everyone"]}, {"groups": ["everyone"]})
    await keyed.ask("key-ada")

    async def seen(key: str = "key-ada", id: str = "ans_1") -> list[tuple[int, str]]:
        async with keyed.client(key) as client:
            answers = [
                await client.get(f"/v1/answers/{id}"),
                await client.post("/v1/feedback", json={"answer_id": id, "rating": "up"}),
            ]
        return [(answer.status_code, answer.text.replace(id, "")) for answer in answers]

    def change(**values: Any) -> None:
        with keyed.database.session() as session:
            session.execute(update(VersionRow).where(VersionRow.state == "published").values(**values))

    assert [status for status, _ in await seen()] == [200, 201]
    change(groups=["hr"])
    assert await seen() == await seen(id="ans_9")
    assert [status for status, _ in await seen("key-root")] == [200, 201]
    change(groups=None)
    assert await seen() == await seen(id="ans_9")
    change(groups=["everyone"])
    assert [status for status, _ in await seen()] == [200, 201]
    change(state="retired")  # being deleted: from this moment on admins do not see it either
    assert await seen() == await seen(id="ans_9")
    assert await seen("key-root") == await seen("key-root", "ans_9")


async def test_feedback_is_kept_once_for_each_person(keyed: House):
    add_versions(keyed.database, "hr/leave.md", {})
    await keyed.ask("key-ada")
    async with keyed.client("key-ada") as client:
        for about in ("", "facts"):
            thumb = {"answer_id": "ans_1", "rating": "down", "about": about, "comment": "It is 30.\x00"}
            assert (await client.post("/v1/feedback", json=thumb)).status_code == 201
        wrong = await client.post("/v1/feedback", json={"answer_id": "ans_1", "rating": "sideways"})
        unknown = await client.post("/v1/feedback", json={"answer_id": "ans_9", "rating": "up"})
    async with keyed.client("key-bob") as client:
        foreign = await client.post("/v1/feedback", json={"answer_id": "ans_1", "rating": "up"})
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "rating")
    assert (unknown.status_code, foreign.status_code) == (404, 404)
    with keyed.database.session() as session:
        rows = session.query(FeedbackRow).all()
    assert [(row.user, row.rating, row.about, row.comment) for row in rows] == [("ada", "down", "facts", "It is 30. ")]


# ---------------------------------------------------------------------------------------------------- documents


def add_versions(database: Database, document_id: str, *versions: dict[str, Any]) -> None:
    now = datetime.now(UTC)
    with database.session() as session:
        session.add(DocumentRow(id=document_id, created_at=now))
        session.flush()
        for seq, version in enumerate(versions, start=1):
            plain = {"state": "published", "title": document_id, "groups": ["everyone"], "text": f"Text {seq}."}
            hashes = {"content_hash": "", "metadata_hash": "", "reader": "s"}
            row = {"id": f"{document_id}#{seq}", "document_id": document_id, "seq": seq, "created_at": now}
            session.add(VersionRow(**{**plain, **hashes, **row, **version}))


@pytest.fixture
def shelf(keyed: House) -> House:
    add_versions(
        keyed.database,
        "hr/leave.md",
        {"live_until": date(2026, 1, 1), "text": "Leave.\n25 days."},
        {"live_from": date(2026, 1, 1), "text": "Leave.\n28 days."},
        {"live_from": date(2999, 1, 1), "text": "Leave.\n30 days."},
        {"state": "staged", "text": "half written"},
    )
    add_versions(keyed.database, "hr/salary.md", {"groups": ["hr"]})
    add_versions(keyed.database, "board.md", {"groups": None})
    add_versions(keyed.database, "closed.md", {"live_until": date(2026, 1, 1)}, {"groups": ["hr"]})
    add_versions(keyed.database, "old.md", {"live_until": date(2020, 1, 1)})
    add_versions(keyed.database, "leaving.md", {"state": "retired"})
    return keyed


async def test_a_person_sees_the_documents_of_their_groups(shelf: House):
    seen = {}
    for key in ("key-ada", "key-bob", "key-root"):
        async with shelf.client(key) as client:
            seen[key] = {row["id"]: row["status"] for row in (await client.get("/v1/documents")).json()["data"]}
            for document_id in ("hr/leave.md", "hr/salary.md", "board.md", "closed.md", "leaving.md"):
                status = 200 if document_id in seen[key] else 404
                for path in ("", "/versions"):
                    assert (await client.get(f"/v1/documents/{document_id}{path}")).status_code == status
    common = {"hr/leave.md": "live", "old.md": "ended"}
    assert seen["key-ada"] == common
    assert seen["key-bob"] == {**common, "hr/salary.md": "live", "closed.md": "live"}
    assert seen["key-root"] == {**common, "hr/salary.md": "live", "closed.md": "live", "board.md": "live"}


async def test_versions_and_their_difference(shelf: House):
    async with shelf.client("key-ada") as client:
        document = (await client.get("/v1/documents/hr/leave.md")).json()
        versions = (await client.get("/v1/documents/hr/leave.md/versions")).json()["data"]
        last = (await client.get("/v1/documents/hr/leave.md/diff")).json()
        chosen = (await client.get("/v1/documents/hr/leave.md/diff?from=1&to=2")).json()
        missing = await client.get("/v1/documents/hr/leave.md/diff?from=1&to=4")
        single = await client.get("/v1/documents/old.md/diff")
        nonsense = await client.get("/v1/documents/hr/leave.md/diff?from=x")
    assert (document["seq"], document["text"], document["versions"]) == (2, "Leave.\n28 days.", 3)
    assert [(row["seq"], row["status"]) for row in versions] == [(3, "upcoming"), (2, "live"), (1, "ended")]
    assert versions[0]["created_at"].endswith("Z")
    assert (last["from_seq"], last["to_seq"]) == (2, 3)
    assert {"-25 days.", "+28 days.", " Leave."} <= set(chosen["lines"])
    assert (missing.status_code, single.status_code, nonsense.status_code) == (404, 400, 400)
    assert error_of(nonsense)["param"] == "from"


async def test_only_admins_add_and_remove(shelf: House):
    file = {"file": ("travel.md", b"# Travel")}
    async with shelf.client("key-bob") as client:
        assert (await client.post("/v1/documents", files=file)).status_code == 403
        assert (await client.delete("/v1/documents/hr/leave.md")).status_code == 403
        assert (await client.get("/v1/ingest/runs")).status_code == 403
        assert (await client.post("/v1/ingest/runs", json={"paths": ["/srv"]})).status_code == 403
        assert (await client.post("/v1/adapters/house-style/rollback")).status_code == 403
    assert shelf.ingestor.calls == []
    async with shelf.client("key-root") as client:
        assert (await client.delete("/v1/documents/hr/leave.md")).json()["versions"] == 2
        assert (await client.delete("/v1/documents/nothing.md")).status_code == 404
    assert shelf.ingestor.calls == [("delete", "hr/leave.md", "root")]


async def test_an_upload_with_its_metadata(house: House):
    fields = {"title": "Travel", "groups": "everyone, finance", "effective_from": "2026-03-01", "owner": ""}
    async with house.client() as client:
        response = await client.post("/v1/documents", data=fields, files={"file": ("travel.md", b"# Travel")})
    assert (response.status_code, response.json()["added"]) == (201, ["travel.md"])
    metadata = Metadata(title="Travel", groups=("everyone", "finance"), effective_from=date(2026, 3, 1))
    assert house.ingestor.calls == [("upload", "travel.md", b"# Travel", metadata, "local")]


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"title": "x"}, None, "file"),
        ({"file": "not a file"}, None, "file"),
        ({"effective_from": "soon"}, {"file": ("a.md", b"x")}, "effective_from"),
        ({"colour": "red"}, {"file": ("a.md", b"x")}, "colour"),
        ({"name": "../../etc/cron.d/x"}, {"file": ("a.md", b"x")}, "name"),
    ],
)
async def test_a_wrong_upload_names_its_field(
    house: House, fields: dict[str, str], files: dict[str, Any] | None, param: str
):
    async with house.client() as client:
        response = await client.post("/v1/documents", data=fields, files=files)
        broken = await client.post(
            "/v1/documents", content=b"--x", headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
    assert (response.status_code, error_of(response)["param"]) == (400, param)
    assert broken.status_code == 400
    assert house.ingestor.calls == []


async def test_an_upload_over_the_limit_is_refused(build: Callable[..., House]):
    house = build(server={"max_upload_bytes": 10_000})
    async with house.client() as client:
        for size in (20_000, 200_000):
            response = await client.post("/v1/documents", files={"file": ("a.md", b"x" * size)})
            assert response.status_code in (400, 413)
            assert "larger" in error_of(response)["message"]


async def test_a_run_is_followed_to_its_report_and_a_second_one_waits_its_turn(house: House):
    async with house.client() as client:
        started = await client.post("/v1/ingest/runs", json={"paths": ["/srv/policies"], "groups": ["everyone"]})
        run = started.json()
        assert (started.status_code, run["state"]) == (202, "running")
        second = await client.post("/v1/ingest/runs", json={"paths": ["/srv/other"]})
        assert (second.status_code, "/srv/policies" in error_of(second)["message"]) == (429, True)
        await asyncio.sleep(0.2)
        assert (await client.get(f"/v1/ingest/runs/{run['id']}")).json()["progress"]["total"] == 2
        await house.runs.wait(run["id"])
        done = (await client.get(f"/v1/ingest/runs/{run['id']}")).json()
        assert (done["state"], done["report"]["added"], done["progress"]) == ("done", ["a.md"], None)
        waited = await client.post("/v1/ingest/runs", json={"paths": ["/srv"], "dry_run": True, "wait": True})
        assert (waited.status_code, waited.json()["report"]["dry_run"]) == (200, True)
        runs = (await client.get("/v1/ingest/runs")).json()["data"]
        assert [row["paths"] for row in runs] == [["/srv"], ["/srv/policies"]]
        assert (await client.get("/v1/ingest/runs/none")).status_code == 404
    assert house.ingestor.calls[0] == ("ingest", [Path("/srv/policies")], False, ("everyone",), "local")


async def test_a_failed_run_says_why_and_a_bug_only_that_there_was_one(house: House):
    async with house.client() as client:
        for fault, words in ((InputError("There is nothing at '/x'."), "nothing at"), (KeyError("k"), "unexpectedly")):
            house.ingestor.fault = fault
            run = (await client.post("/v1/ingest/runs", json={"paths": ["/x"], "wait": True})).json()
            assert run["state"] == "failed"
            assert words in run["message"]
        house.ingestor.fault = None
        assert (await client.post("/v1/ingest/runs", json={"paths": ["/x"], "wait": True})).json()["state"] == "done"


async def test_runs_of_other_processes_are_listed_too(house: House):
    with house.database.session() as session:
        session.add(IngestRunRow(id="cli", state="failed", paths=["/a"], started_at=datetime(2026, 1, 1, tzinfo=UTC)))
    async with house.client() as client:
        assert (await client.get("/v1/ingest/runs/cli")).json()["message"] == "It was interrupted."


@pytest.mark.parametrize("path", ["relative/folder", "", "~/x", "/a\x00b"])
async def test_a_path_must_be_absolute(house: House, path: str):
    async with house.client() as client:
        response = await client.post("/v1/ingest/runs", json={"paths": [path]})
    assert (response.status_code, error_of(response)["param"]) == (400, "paths")


async def test_server_paths_can_be_switched_off(build: Callable[..., House]):
    house = build(ingest={"server_paths": False})
    async with house.client() as client:
        assert (await client.post("/v1/ingest/runs", json={"paths": ["/srv"]})).status_code == 403
        assert (await client.get("/v1/me")).json()["server_paths"] is False


# ----------------------------------------------------------------------------------------------------- adapters


STYLE = "/v1/adapters/house-style"


def three_versions(house: House, folder: Path) -> list[AdapterRef]:
    return [add_adapter(house.registry, folder / str(seed), seed, prompt_version="old") for seed in (1, 2, 3)]


async def test_adapters_are_listed_promoted_and_rolled_back(house: House, tmp_path: Path):
    first, second, _ = three_versions(house, tmp_path)
    async with house.client() as client:
        listed = (await client.get("/v1/adapters")).json()["data"]
        assert {first.digest, second.digest} < {row["digest"] for row in listed}
        assert not any(row["active"] or row["prompt_matches"] or row["canary"] for row in listed)
        for ref, digest in ((first, first.digest), (second, second.digest[:12])):
            promoted = await client.post(f"{STYLE}/promote", json={"digest": digest})
            assert promoted.status_code == 200
            assert ref.served in house.model.adapters  # loaded before it was promoted
        assert (await client.get(STYLE)).json()["digest"] == second.digest
        assert (await client.get("/readyz")).json()["adapter"] == second.served
        for _ in range(2):  # a second click, or a client that asks again
            back = await client.post(f"{STYLE}/rollback", json={"expected": second.digest[:12]})
        assert (back.status_code, back.json()["error"]["message"]) == (
            409,
            f"Nothing was rolled back: {first.served} is active, not {second.served}.",
        )
        assert (await client.get(STYLE)).json()["digest"] == first.digest
        assert (await client.post(f"{STYLE}/rollback")).status_code == 409
        unknown = await client.post(f"{STYLE}/promote", json={"digest": "ffffffffffff"})
        nonsense = await client.post(f"{STYLE}/promote", json={"digest": "../../x"})
        assert (unknown.status_code, nonsense.status_code) == (404, 400)
        assert (await client.get("/v1/adapters/house-style@000000000000")).status_code == 404
        changes = (await client.get(f"{STYLE}/history")).json()["data"]
    assert [entry["kind"] for entry in changes] == ["promote", "promote", "rollback"]
    assert {entry["by"] for entry in changes} == {"local"}
    assert audited(house) == [("promote", first.served), ("promote", second.served), ("rollback", first.served)]


async def test_a_promotion_stands_when_the_audit_log_is_away(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    first, *_ = three_versions(house, tmp_path)

    class Away:
        def session(self) -> None:
            raise DatabaseUnavailable("The database does not answer.")

    adapters = ActiveAdapter(house.registry, Replicas([cast(Completions, house.model)]), "house-style")
    switch = Switch(house.registry, adapters, cast(Database, Away()))
    await switch.promote("house-style", first.digest, "ada")  # an error would have the client ask again
    assert house.registry.active("house-style") == first
    assert f"ada, promote of {first.served}" in caplog.text


async def test_a_version_is_shown_beside_the_active_one(house: House, tmp_path: Path):
    def gate(right: float) -> Gate:
        differences = {"candidate-active": {"right": (0.1, 0.02, 0.2)}}
        return Gate(passed=True, metrics={"candidate": {"right": right, "style": 0.9}}, differences=differences)

    old = add_adapter(house.registry, tmp_path / "old", 1, gate=gate(0.5), lora={"rank": 8})
    recipe = {"gate": gate(0.75), "lora": {"rank": 16}, "data_digest": "e" * 64, "parent": old.served}
    new = add_adapter(house.registry, tmp_path / "new", 2, **recipe)
    house.registry.promote(old, "ada")
    async with house.client() as client:
        beside = (await client.get(f"/v1/adapters/{new.served}")).json()["comparison"]
        assert (await client.get(f"/v1/adapters/{old.served}")).json()["comparison"] is None
    assert beside["active"] == old.served
    assert beside["measures"] == {"right": [0.75, 0.5, 0.25], "style": [0.9, 0.9, 0.0]}
    assert beside["paired"] == {"right": [0.1, 0.02, 0.2]}
    assert beside["changed"] == {"lora.rank": [16, 8], "data_digest": ["e" * 64, "d" * 64]}


async def test_an_adapter_that_cannot_serve_is_refused_and_the_old_one_stays(house: House, tmp_path: Path):
    old, broken, refused = three_versions(house, tmp_path)
    (broken.path / WEIGHTS).write_bytes(b"bit rot")
    house.model.refused = refused.served
    async with house.client() as client:
        assert (await client.post(f"{STYLE}/promote", json={"digest": old.digest})).status_code == 200
        for ref, reason in ((broken, "not those it was registered with"), (refused, "refuses the adapter")):
            for path in ("promote", "canary"):
                response = await client.post(f"{STYLE}/{path}", json={"digest": ref.digest})
                error = error_of(response)
                assert (response.status_code, error["code"]) == (409, "adapter_error")
                assert reason in error["message"]
        assert (await client.get(STYLE)).json()["digest"] == old.digest


async def test_without_the_model_an_adapter_is_promoted_and_loaded_later(house: House, tmp_path: Path):
    first, *_ = three_versions(house, tmp_path)
    house.model.fault = ModelUnavailable("down")
    async with house.client() as client:
        assert (await client.post(f"{STYLE}/promote", json={"digest": first.digest})).status_code == 200
    assert house.registry.active("house-style") == first


async def test_a_request_may_name_its_conversation(house: House):
    await house.ask(tandem={"conversation": "ticket-4711"})
    await house.ask()
    assert [ask.conversation for ask in house.assistant.asked] == ["ticket-4711", ""]
    for wrong in (7, "x" * 201):
        assert (await house.ask(tandem={"conversation": wrong})).status_code == 400


async def test_a_canary_is_started_shown_and_stopped(house: House, tmp_path: Path):
    old, new, _ = three_versions(house, tmp_path)
    async with house.client() as client:
        early = await client.post(f"{STYLE}/canary", json={"digest": new.digest})
        assert (early.status_code, "no active version" in early.text) == (409, True)
        await client.post(f"{STYLE}/promote", json={"digest": old.digest})
        assert (await client.get(f"{STYLE}/canary")).json() == {"running": None, "last_end": None}
        for share in (0, 1, 1.5, "much"):
            refused = await client.post(f"{STYLE}/canary", json={"digest": new.digest, "share": share})
            assert (refused.status_code, error_of(refused)["param"]) == (400, "share")
        started = (await client.post(f"{STYLE}/canary", json={"digest": new.digest[:12], "share": 0.25})).json()
        assert (started["served"], started["canary"], started["active"]) == (new.served, 0.25, False)
        assert new.served in house.model.adapters
        running = (await client.get(f"{STYLE}/canary")).json()["running"]
        assert (running["share"], running["enough"], running["behind"]) == (0.25, False, [])
        assert (running["candidate"]["served"], running["active"]["served"]) == (new.served, old.served)
        assert (await client.delete(f"/v1/adapters/{new.served}")).status_code == 409
        assert (await client.delete(f"{STYLE}/canary")).json()["canary"] is None
        assert (await client.delete(f"{STYLE}/canary")).status_code == 404
        assert (await client.get(f"{STYLE}/canary")).json()["last_end"]["by"] == "local"
    assert [action for action, _ in audited(house)] == ["promote", "canary", "withdraw"]


async def test_a_version_is_deleted_from_the_model_server_too_unless_it_is_active(house: House, tmp_path: Path):
    first, second, _ = three_versions(house, tmp_path)
    async with house.client() as client:
        for ref in (first, second):
            await client.post(f"{STYLE}/promote", json={"digest": ref.digest})
        refused = await client.delete(f"/v1/adapters/{second.served}")
        assert (refused.status_code, "is active" in refused.text) == (409, True)
        assert (await client.delete(STYLE)).status_code == 404  # a name alone deletes nothing
        gone = await client.delete(f"/v1/adapters/{first.served}")
        assert gone.json() == {"served": first.served, "deleted": True}
        assert (await client.get(f"/v1/adapters/{first.served}")).status_code == 404
        assert (await client.delete(f"/v1/adapters/{first.served}")).status_code == 404
    assert house.model.adapters == [second.served]
    assert not first.path.exists()
    assert audited(house)[-1] == ("delete", first.served)


async def test_only_admins_change_what_answers(keyed: House, tmp_path: Path):
    first, *_ = three_versions(keyed, tmp_path)
    keyed.registry.promote(first, "root")
    async with keyed.client("key-ada") as client:
        for response in (
            await client.post(f"{STYLE}/promote", json={"digest": first.digest}),
            await client.post(f"{STYLE}/canary", json={"digest": first.digest}),
            await client.delete(f"{STYLE}/canary"),
            await client.get(f"{STYLE}/canary"),
            await client.get(f"{STYLE}/history"),
            await client.delete(f"/v1/adapters/{first.served}"),
        ):
            assert response.status_code == 403
        assert (await client.get("/v1/adapters")).status_code == 200


def audited(house: House) -> list[tuple[str, str]]:
    with house.database.session() as session:
        return [(row.action, row.subject) for row in session.scalars(select(AuditRow).order_by(AuditRow.id))]


async def test_a_broken_adapter_is_listed_with_its_problem(house: House, tmp_path: Path):
    ref = add_adapter(house.registry, tmp_path / "one")
    (ref.path / "manifest.json").write_text("{")
    (house.settings.registry / "house-style" / "active").write_text("0" * 64)
    async with house.client() as client:
        (row,) = (await client.get("/v1/adapters")).json()["data"]
        ready = (await client.get("/readyz")).json()
    assert "manifest.json" in row["problem"]
    assert (row["active"], ready["adapter"]) == (False, None)


# ------------------------------------------------------------------------------------------------------- status


async def test_readiness_names_what_is_missing(house: House):
    async with house.client() as client:
        assert (await client.get("/healthz")).json()["service"] == "tandem"
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        house.index.fault = IndexUnavailable("The folder '/secret/place' is held.")
        down = await client.get("/readyz")
    assert (down.status_code, down.json()["parts"]["index"]) == (503, "index_unavailable")
    assert "secret" not in down.text  # no key is needed here, so no details are given


async def test_without_the_model_it_is_ready_but_degraded(house: House):
    house.model.fault = TandemError("down")
    house.model.fault.code = "model_unavailable"
    async with house.client() as client:
        response = await client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")


async def test_probes_and_metrics_need_no_key_and_show_no_words(keyed: House):
    await keyed.ask("key-ada", messages=[{"role": "user", "content": "a private question"}])
    async with keyed.client() as client:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert 'tandem_requests_total{arm="tandem",status="200"} 1.0' in metrics
    assert 'tandem_first_token_seconds_count{arm="tandem"} 1.0' in metrics
    assert 'tandem_removed_markers_total{arm="tandem"} 2.0' in metrics
    assert "private" not in metrics


async def test_signals_have_thresholds_and_actions(house: House):
    async with house.client() as client:
        data = (await client.get("/v1/signals")).json()["data"]
    fields = {"name", "value", "threshold", "firing", "action"}
    assert all(fields <= set(signal) for signal in data)
    firing = {signal["name"] for signal in data if signal["firing"]}
    assert "adapter_mismatch" in firing  # nothing was promoted


async def test_signals_name_documents_so_they_are_for_admins(keyed: House):
    add_versions(keyed.database, "board/closing-graz.md", {"groups": None})
    async with keyed.client("key-root") as client:
        assert "closing-graz" in (await client.get("/v1/signals")).text
    for key in ("key-ada", "key-bob"):
        async with keyed.client(key) as client:
            response = await client.get("/v1/signals")
        assert error_of(response)["type"] == "permission_error"
        assert "graz" not in response.text


async def test_metrics_say_nothing_of_documents(keyed: House):
    """They need no key, so what they count must not tell what there is to read."""
    async with keyed.client() as client:
        before = (await client.get("/metrics")).text
        add_versions(keyed.database, "board/closing-graz.md", {"groups": None})
        after = (await client.get("/metrics")).text
    kept = [[line for line in text.splitlines() if "http_responses" not in line] for text in (before, after)]
    kept = [[line for line in lines if "_created" not in line] for lines in kept]
    assert kept[0] == kept[1]


async def test_the_page_is_served_locked_down_and_complete(house: House):
    async with house.client() as client:
        page = await client.get("/")
        for name in ("style.css", "app.js", "icon.svg"):
            assert f"/page/{name}" in page.text
            assert (await client.get(f"/page/{name}")).status_code == 200
        again = await client.get("/", headers={"If-None-Match": page.headers["etag"]})
        outside = await client.get("/page/..%2fapp.py")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert (again.status_code, outside.status_code) == (304, 404)


def test_the_page_loads_nothing_from_elsewhere_and_parses_no_html():
    folder = Path(__file__).resolve().parents[2] / "services" / "chat" / "page"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "innerHTML" not in text
        assert "insertAdjacentHTML" not in text
        assert "document.write" not in text
        # The SVG namespace is a name, not an address.
        assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}, path.name
        assert not re.search(r"""(src|href)=["']//|@import|url\(|import\(""", text), path.name
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert "<script>" not in html
    assert "style=" not in html
    assert " on" not in html.replace(" one", "").replace(" only", "")  # no inline handlers


async def test_openapi_names_every_route_with_an_example_of_a_question(house: House):
    async with house.client() as client:
        document = (await client.get("/openapi.json")).json()
    paths = set(document["paths"])
    assert {"/v1/chat/completions", "/v1/models", "/v1/feedback", "/v1/documents", "/v1/signals", "/readyz"} <= paths
    assert document["components"]["schemas"]["ChatRequest"]["examples"][0]["model"] == "tandem"
