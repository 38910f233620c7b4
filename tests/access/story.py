"""What happened to the documents so far, who may read them now, and for each reader the store that holds no others."""

import re
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

import httpx

from tests.access.stores import KEEP_VERSIONS, USERS, Op, Store, Workshop, key_of
from tests.access.texts import ANCHOR, START, Paper, folder_file

ADMIN = "root"
_HELD_STORES = 8
_ANSWER = re.compile(r"ans_[0-9a-f]{32}")
_CHANCE = re.compile(r"ans_[0-9a-f]{32}|chatcmpl-[0-9a-f]+")
_TIMINGS = re.compile(r'"timings":\{[^}]*\}')

Readers = frozenset[str] | None


@dataclass(frozen=True)
class Asked:
    """An answer that was given.

    Attributes:
        row: Its receipt as the store has it that lacks what the asker could not read.
        quoted: The documents it was made from, each with the number of the op that brought it.
    """

    id: str
    user: str
    question: str
    text: str
    row: dict[str, Any] = field(hash=False)
    quoted: tuple[tuple[str, int], ...]


class Story:
    """Tells the main store what happens, and keeps the books from which the references are built.

    The books say who may read what by the rule in one sentence: a document's readers are the groups that it declared
    last. Nothing in here looks into Tandem for it.
    """

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.day = START
        workshop.at(self.day)
        self.main = workshop.store()
        self.ops: list[Op] = []
        self.born: dict[str, int] = {}
        self.readers: dict[str, Readers] = {}
        self.papers: dict[str, Paper] = {}
        self.inherited: dict[str, tuple[str, ...] | None] = {}
        self.from_folder: set[str] = set()
        self.unsettled = False
        self.groups = {"ada": frozenset({"everyone", "hr"}), "bo": frozenset({"everyone"}), "cy": frozenset[str]()}
        self.asked: list[Asked] = []
        self._references: OrderedDict[tuple[Op, ...], Store] = OrderedDict()
        self.sync()

    def close(self) -> None:
        for store in (self.main, *self._references.values()):
            store.close()

    # ------------------------------------------------------------------------------------------- what happens

    def sync(self) -> None:
        """Ingests the folder as it is now."""
        files = [file for name, paper in sorted(self.papers.items()) for file in paper.files(name)]
        files += [(f"{folder}/_folder.yaml".lstrip("/"), folder_file(groups))
                  for folder, groups in sorted(self.inherited.items()) if groups is not None]  # fmt: skip
        response = self._do(Op("sync", self.day, len(self.ops), (*files, ANCHOR)))
        assert response.status_code == 200, response.text
        assert response.json()["state"] == "done", response.text
        for name in self.from_folder - self.papers.keys() - {ANCHOR[0]}:
            self._forget(name)
        for name, paper in self.papers.items():
            if not paper.broken:
                self._declared(name, self._readers_of(name, paper))
        self._declared(ANCHOR[0], self._readers_of(ANCHOR[0], Paper(0)))
        # A file that is refused does not take over a document of its name that was uploaded.
        self.from_folder |= {name for name, paper in self.papers.items() if not paper.broken}

    def upload(self, name: str, paper: Paper, fault: str | None = None) -> None:
        """Uploads a document; with a fault, Qdrant goes away in the middle."""
        body = replace(paper, title="", groups=None, since=None, broken=False).files(name)
        crowded = sum(any(file == name for file, _ in op.files) for op in self.ops) >= KEEP_VERSIONS - 1
        if self.unsettled or crowded:  # a repair or a pruning would meet the fault first
            fault = None
        self.main.fault.arm(fault)
        op = Op("upload", self.day, len(self.ops), tuple(body), paper.fields())
        self.workshop.at(self.day)
        response = self.main.apply(op)
        self.main.fault.arm(None)
        assert response.status_code in ((201, 503) if fault else (201,)), response.text
        self.unsettled = response.status_code == 503
        if self.unsettled and fault == "write":
            return  # nothing was committed
        self.ops.append(op)
        self._declared(name, frozenset(paper.groups) if paper.groups else None)

    def delete(self, name: str, fault: str | None = None) -> None:
        """Deletes a document over HTTP; with a fault, Qdrant goes away before its points are gone."""
        self.main.fault.arm(None if self.unsettled else fault)
        response = self._do(Op("delete", self.day, len(self.ops), name=name))
        self.main.fault.arm(None)
        assert response.status_code in ((200, 503) if fault else (200,)), response.text
        self.unsettled = self.unsettled or response.status_code == 503
        self._forget(name)

    def sleep(self, days: int) -> None:
        self.day += timedelta(days)

    def _do(self, op: Op) -> httpx.Response:
        response = self.main.apply(op)
        self.ops.append(op)
        if op.kind != "delete":
            self.unsettled = False  # each run repairs first
        return response

    def _readers_of(self, name: str, paper: Paper) -> Readers:
        if paper.groups is not None:
            return frozenset(paper.groups)
        folder = str(PurePosixPath(name).parent)
        near = self.inherited.get("" if folder == "." else folder)
        groups = near if near is not None else self.inherited.get("")
        return None if groups is None else frozenset(groups)

    def _declared(self, name: str, readers: Readers) -> None:
        self.born.setdefault(name, len(self.ops) - 1)
        self.readers[name] = readers

    def _forget(self, name: str) -> None:
        self.born.pop(name, None)
        self.readers.pop(name, None)
        self.from_folder.discard(name)

    # ------------------------------------------------------------------------------------------- who asks

    def key(self, user: str) -> str:
        return ADMIN if user == ADMIN else key_of(user, self.groups[user])

    def readable(self, groups: Readers) -> frozenset[str]:
        """Documents open to a member of these groups; None: to an admin."""
        return frozenset(
            name for name, readers in self.readers.items() if groups is None or (readers or frozenset()) & groups
        )

    def reference(self, groups: Readers) -> Store:
        """A store in which only these documents ever were, with all that happened to them."""
        ops = tuple(self._without_others(self.readable(groups)))
        store = self._references.pop(ops, None)
        if store is None:
            begun = max((held for held in self._references if held == ops[: len(held)]), key=len, default=None)
            store = self.workshop.store() if begun is None else self._references.pop(begun)
            for op in ops[len(begun or ()) :]:
                store.replay(op)
            while len(self._references) >= _HELD_STORES:
                self._references.popitem(last=False)[1].close()
        self._references[ops] = store
        self.workshop.at(self.day)
        return store

    def _without_others(self, names: frozenset[str]) -> list[Op]:
        kept: list[Op] = []
        for op in self.ops:
            alive = {name for name in names if self.born[name] <= op.number}
            documents = [name for name, _ in op.files if name in alive]
            if not documents or op.kind == "delete":
                continue
            metadata = {f"{name}.meta.yaml" for name in documents}
            files = tuple(file for file in op.files if file[0] in alive | metadata or file[0].endswith("_folder.yaml"))
            if op.kind == "sync" and kept and kept[-1].kind == "sync" and kept[-1].files == files:
                continue  # what changed in between was none of theirs
            kept.append(replace(op, files=files))
        return kept

    # ------------------------------------------------------------------------------------------- what is compared

    def same(
        self, user: str, method: str, path: str, *, narrowed: Readers = None, down: bool = False, **options: Any
    ) -> tuple[httpx.Response, httpx.Response, Store]:
        """Sends a request to the main store and to the reference, and compares all that comes back.

        Args:
            user: Who sends it.
            narrowed: The groups that the request itself restricts the user to.
            down: Whether the model server is.
            options: As httpx has them.
        """
        groups = None if user == ADMIN else self.groups[user]
        reference = self.reference(groups if narrowed is None else narrowed)
        for asked in self.asked:  # only those that this request may be about
            if asked.id in path or asked.id in str(options.get("json", "")):
                self._give(asked, user, groups, reference)
        answers = []
        for store in (self.main, reference):
            store.model.down = down
            answers.append(store.request(self.key(user), method, path, **options))
        main, lacking = answers
        seen, wanted = _shown(main), _shown(lacking)
        assert seen == wanted, f"{user} {method} {path} {options}\ngot  {seen}\nwant {wanted}"
        return main, lacking, reference

    def ask(self, user: str, messages: list[dict[str, str]], *, narrowed: Readers = None, down: bool = False,
            **body: Any) -> None:  # fmt: skip
        """Asks, compares, and keeps the answer for later."""
        main, lacking, reference = self.same(
            user, "POST", "/v1/chat/completions", narrowed=narrowed, down=down, json={"messages": messages, **body}
        )
        if main.status_code != 200:
            return
        (id,), (other,) = set(_ANSWER.findall(main.text)), set(_ANSWER.findall(lacking.text))
        row = reference.receipt(other)
        row["id"] = row["receipt"]["answer_id"] = id
        names = {passage["document_id"] for passage in row["receipt"]["passages"]}
        quoted = tuple((name, self.born[name]) for name in sorted(names))
        self.asked.append(Asked(id, user, messages[-1]["content"], row["text"], row, quoted))

    def _give(self, asked: Asked, user: str, groups: Readers, reference: Store) -> None:
        """Puts an answer into the reference, if it was made from documents that are there."""
        here = self.readable(groups)
        if all(name in here and self.born[name] == born for name, born in asked.quoted):
            reference.hold(asked.row)


def _shown(response: httpx.Response) -> tuple[int, dict[str, str], str]:
    """All that a caller sees, but for ids that are drawn by chance and times that were measured."""
    headers = dict(response.headers)
    if "content-length" in headers:
        assert int(headers.pop("content-length")) == len(response.content)
    body = response.content.decode()
    return response.status_code, headers, _TIMINGS.sub('"timings":{}', _CHANCE.sub("ID", body))


def everyone() -> tuple[str, ...]:
    return (*USERS, ADMIN)
