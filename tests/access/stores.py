"""Whole stores for the access tests, and the record of what happened to the documents in them.

Everything is the real thing (SQLite, embedded Qdrant, ingest, HTTP application) but for two doubles: the language
model, whose answers show any difference in its prompt, and two caches that compute each vector and each reading once.
"""

import asyncio
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient

from ingest.engine import LocalEngine
from ingest.readers import Reading
from ingest.run import Ingestor
from ingest.sandbox import Sandbox
from services.chat.app import create_app
from services.ingest.runs import IngestRuns
from tandem import bootstrap as bootstrapping
from tandem.embedder import Embedder
from tandem.errors import DocumentError, IndexUnavailable
from tandem.schemas import Metadata
from tandem.settings import IngestSettings, Settings, load_settings
from tandem.tables import AnswerRow
from tests.access.texts import START

USERS = ("ada", "bo", "cy")
GROUPS = ("board", "everyone", "hr")
KEEP_VERSIONS = 4
BASE = "http://127.0.0.1:8080"
_FENCE = re.compile(r"=== [0-9a-f]{6} ===")


class EchoingModel:
    """A model server that answers with a digest of the prompt it was sent, and cites sources 1 to 4."""

    def __init__(self) -> None:
        self.down = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("down", request=request)
        messages = json.loads(request.content)["messages"]
        prompt = _FENCE.sub("===", json.dumps(messages, ensure_ascii=False))
        text = f"Prompt {hashlib.sha256(prompt.encode()).hexdigest()}. [1] [2] [3] [4]"
        pieces: list[dict[str, Any]] = [
            {"choices": [{"delta": {"content": text[:40]}}]},
            {"choices": [{"delta": {"content": text[40:]}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 9}},
        ]
        body = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"
        return httpx.Response(200, content=body.encode())


class RememberingEmbedder:
    """The real embedder, asked once for each text and for one text at a time."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: dict[str, Any] = {}
        self.dimension = embedder.dimension
        self.model_id = embedder.model_id
        self.count_tokens = embedder.count_tokens

    def embed(self, texts: Sequence[str]) -> Any:
        for text in texts:
            if text not in self._vectors:
                self._vectors[text] = self._embedder.embed([text])[0]
        found = [self._vectors[text] for text in texts]
        return np.stack(found) if found else np.zeros((0, self.dimension), dtype=np.float32)


class RememberingSandbox(Sandbox):
    """The real parsing process, asked once for each file."""

    def __init__(self) -> None:
        super().__init__(IngestSettings())
        self._readings: dict[tuple[str, bytes], Reading | DocumentError] = {}

    def parse(self, name: str, data: bytes) -> Reading:
        key = (Path(name).name, data)
        if key not in self._readings:
            try:
                self._readings[key] = super().parse(name, data)
            except DocumentError as exc:
                self._readings[key] = exc
        found = self._readings[key]
        if isinstance(found, DocumentError):
            raise found
        return found


class Fault:
    """Makes the next call of one kind fail, as a Qdrant that goes away does."""

    def __init__(self, client: QdrantClient) -> None:
        self._armed: str | None = None
        for name, call in (("write", "upsert"), ("settle", "set_payload"), ("delete_document", "delete")):
            setattr(client, call, self._failing(name, getattr(client, call)))

    def _failing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*args: Any, **options: Any) -> Any:
            if self._armed == name:
                raise IndexUnavailable("The vector index does not answer: forced by a test.")
            return call(*args, **options)

        return calling

    def arm(self, name: str | None) -> None:
        self._armed = name


@dataclass(frozen=True)
class Op:
    """Something that happened to the documents.

    Attributes:
        kind: `upload` (files holds one), `sync` (files is the whole folder, metadata files among them), `delete`.
        files: Path and bytes.
        fields: Metadata sent with an upload.
        number: Its place among all, from 0.
    """

    kind: str
    day: date
    number: int
    files: tuple[tuple[str, bytes], ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    name: str = ""


def key_of(user: str, groups: frozenset[str]) -> str:
    return f"{user}:{'+'.join(sorted(groups))}"


def make_settings() -> Settings:
    """Settings with a key for each user in each combination of groups: joining and leaving is taking another key."""
    subsets = [frozenset(chosen) for n in range(len(GROUPS) + 1) for chosen in combinations(GROUPS, n)]
    keys: dict[str, Any] = {
        key_of(user, groups): {"user": user, "groups": sorted(groups)} for user in USERS for groups in subsets
    }
    return load_settings(
        auth={"api_keys": {**keys, "root": {"user": "root", "admin": True}}},
        ingest={"keep_versions": KEEP_VERSIONS},
        splitter={"target_words": 24, "max_words": 48},
        retrieval={"candidates": 8, "top_k": 4},
        adapter={"shipped": None},
    )


@dataclass
class Workshop:
    """What all stores of a test session share."""

    folder: Path
    embedder: RememberingEmbedder
    sandbox: RememberingSandbox
    runner: asyncio.Runner
    clock: Any
    settings: Settings = field(default_factory=make_settings)
    made: int = 0
    template: Path | None = None

    def store(self) -> "Store":
        """An empty store, in a folder that never held another. Migrations run once; others copy what they made."""
        self.made += 1
        self.at(START)  # the time that a server started is told to its callers
        if self.template is None:
            first = Store(self, self.folder / "template")
            first.close(keep=True)
            self.template = first.settings.data_dir / "tandem.db"
        return Store(self, self.folder / f"store-{self.made}")

    def at(self, day: date) -> None:
        self.clock.move_to(datetime.combine(day, time(12), UTC), tick=False)


class Store:
    """One data directory with all that runs on it."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        self._workshop = workshop
        self.folder = folder
        self.documents = folder / "documents"
        self.documents.mkdir(parents=True)
        self.settings = workshop.settings.model_copy(update={"data_dir": folder / "data"})
        if workshop.template is not None:
            self.settings.data_dir.mkdir(mode=0o700)
            shutil.copy(workshop.template, self.settings.data_dir / "tandem.db")
        self.model = EchoingModel()
        speak = partial(httpx.AsyncClient, transport=httpx.MockTransport(self.model))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bootstrapping, "Embedder", lambda *_: workshop.embedder)
            patch.setattr("tandem.completions.httpx.AsyncClient", speak)
            if workshop.template is not None:
                patch.setattr(bootstrapping.Database, "migrate", lambda _: None)
            self.container = bootstrapping.bootstrap(self.settings, model_url="http://127.0.0.1:1/v1")
        parts = self.container
        self.fault = Fault(parts.generations._qdrant.client)
        self.ingestor = Ingestor(
            parts.database,
            parts.generations,
            parts.sparse,
            self.settings,
            engine=LocalEngine(self.settings.ingest, workshop.sandbox),
        )
        self.runs = IngestRuns(parts.database, self.ingestor)
        self.app = create_app(parts, self.runs)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=BASE)

    def run(self, work: Any) -> Any:
        return self._workshop.runner.run(work)

    def request(self, key: str, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return self.run(self.client.request(method, path, headers=headers, **options))

    def apply(self, op: Op) -> httpx.Response | None:
        """Does `op` over HTTP, as an admin."""
        self._workshop.at(op.day)
        if op.kind == "upload":
            ((name, data),) = op.files
            form = {"name": name, **dict(op.fields)}
            return self.request("root", "POST", "/v1/documents", data=form, files={"file": (name, data)})
        if op.kind == "delete":
            return self.request("root", "DELETE", f"/v1/documents/{op.name}")
        self._lay_out(op.files)
        body = {"paths": [str(self.documents)], "wait": True}
        return self.request("root", "POST", "/v1/ingest/runs", json=body)

    def replay(self, op: Op) -> None:
        """Does `op` without the way over HTTP."""
        self._workshop.at(op.day)
        if op.kind == "upload":
            ((name, data),) = op.files
            fields: dict[str, Any] = dict(op.fields)
            if "groups" in fields:
                fields["groups"] = tuple(fields["groups"].split(","))
            self.ingestor.ingest_upload(name, data, Metadata(**fields) if fields else None)
        else:
            self._lay_out(op.files)
            self.ingestor.ingest([self.documents])

    def receipt(self, answer_id: str) -> dict[str, Any]:
        """The row of an answer."""
        with self.container.database.session() as session:
            row = session.get_one(AnswerRow, answer_id)
            return {column.name: getattr(row, column.name) for column in AnswerRow.__table__.columns}

    def hold(self, row: Mapping[str, Any]) -> None:
        """Puts in the row of an answer, if it is not there."""
        with self.container.database.session() as session:
            if session.get(AnswerRow, row["id"]) is None:
                session.add(AnswerRow(**row))

    def close(self, *, keep: bool = False) -> None:
        self.run(self._aclose())
        if not keep:
            shutil.rmtree(self.folder)

    async def _aclose(self) -> None:
        await self.runs.close()
        await self.client.aclose()
        await self.container.aclose()

    def _lay_out(self, files: Sequence[tuple[str, bytes]]) -> None:
        shutil.rmtree(self.documents)
        for name, data in files:
            path = self.documents / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
