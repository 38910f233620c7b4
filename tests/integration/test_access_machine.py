"""Nobody sees anything of what they may not read: a state machine against stores that physically lack it.

Each response of the main store is compared, status, headers and body, with that of a store in which only the
documents that the asker may read now ever were. `TANDEM_TEST_SEED` tries other stories, `TANDEM_TEST_STEPS` more.
"""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import time_machine
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from qdrant_client import models

from tandem import vectors
from tandem.embedder import Embedder
from tandem.points import Scope
from tandem.schemas import MODEL_NAMES
from tests.access.stores import GROUPS, USERS, RememberingEmbedder, RememberingSandbox, Workshop
from tests.access.story import ADMIN, Story, everyone
from tests.access.texts import (
    BODIES,
    FOLDERS,
    FOLLOW_UPS,
    IN_FOLDER,
    NEVER,
    QUESTION_ON,
    QUESTIONS,
    START,
    TITLES,
    UPLOADED,
    Paper,
)

STEPS = int(os.environ.get("TANDEM_TEST_STEPS", "3000"))
SEED = int(os.environ.get("TANDEM_TEST_SEED", "20260301"))

some_users = st.sampled_from(everyone())
some_groups = st.sets(st.sampled_from(GROUPS)).map(lambda chosen: tuple(sorted(chosen)))
some_names = st.sampled_from((*IN_FOLDER, *UPLOADED, NEVER))
some_papers = st.builds(
    Paper,
    body=st.sampled_from(range(len(BODIES))),
    title=st.sampled_from(TITLES),
    groups=st.sampled_from(
        (None, ("everyone",), ("everyone",), ("hr",), ("everyone", "hr"), ("board",), ("board", "hr"))
    ),
    since=st.sampled_from((None, None, None, -30, 5, 20)),
    beside=st.booleans(),
    broken=st.sampled_from((False,) * 7 + (True,)),
)


class Access(RuleBasedStateMachine):
    """People ask while documents, readers and groups change. One rule writes, many read: as in life."""

    workshop: Workshop
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.story = Story(self.workshop)

    def teardown(self) -> None:
        self.story.close()

    @initialize(papers=st.lists(some_papers, min_size=3, max_size=3))
    def begin(self, papers: list[Paper]) -> None:
        self.story.papers.update(zip(IN_FOLDER, papers, strict=False))
        self.story.sync()

    @rule(what=st.sampled_from(("edit", "edit", "upload", "inherit", "delete", "remove")), data=st.data())
    def change(self, what: str, data: st.DataObject) -> None:
        type(self).steps += 1
        story = self.story
        if what == "edit":
            story.papers[data.draw(st.sampled_from(IN_FOLDER))] = data.draw(some_papers)
            story.sync()
        elif what == "inherit":
            story.inherited[data.draw(st.sampled_from(FOLDERS))] = data.draw(st.one_of(st.none(), some_groups))
            story.sync()
        elif what == "upload":
            name = data.draw(st.sampled_from((*UPLOADED, *IN_FOLDER)))
            story.upload(name, data.draw(some_papers), data.draw(st.sampled_from((None, None, "settle", "write"))))
        elif what == "delete":
            names = sorted(story.born.keys() - {NEVER})
            story.delete(data.draw(st.sampled_from(names)), data.draw(st.sampled_from((None, "delete_document"))))
        elif story.papers:
            del story.papers[data.draw(st.sampled_from(sorted(story.papers)))]
            story.sync()

    @rule(user=st.sampled_from(USERS), group=st.sampled_from(GROUPS))
    def join_or_leave(self, user: str, group: str) -> None:
        type(self).steps += 1
        self.story.groups[user] ^= {group}

    @precondition(lambda self: any(asked.quoted for asked in self.story.asked))
    @rule(back=st.integers(0, 3), group=st.sampled_from(GROUPS))
    def leave_and_replay(self, back: int, group: str) -> None:
        """What was theirs to read yesterday is not today; the old answer still quotes it."""
        type(self).steps += 1
        quoting = [asked for asked in self.story.asked if asked.quoted]
        asked = quoting[-1 - back % len(quoting)]
        if asked.user != ADMIN:
            self.story.groups[asked.user] -= {group}
        self.story.same(asked.user, "GET", f"/v1/answers/{asked.id}")

    @rule(
        name=st.sampled_from(UPLOADED), paper=some_papers, user=some_users, fault=st.sampled_from(("settle", "write"))
    )
    def ask_while_the_index_lags(self, name: str, paper: Paper, user: str, fault: str) -> None:
        """Between the commit and the index following it, and after a write that came to nothing."""
        type(self).steps += 1
        self.story.upload(name, paper, fault)
        self.story.ask(user, [{"role": "user", "content": QUESTION_ON[paper.body]}], model="tandem")

    @rule(days=st.integers(1, 12))
    def time_passes(self, days: int) -> None:
        type(self).steps += 1
        self.story.sleep(days)

    @rule(user=some_users, question=st.sampled_from(QUESTIONS), model=st.sampled_from(sorted(MODEL_NAMES)))
    def ask(self, user: str, question: str, model: str) -> None:
        type(self).steps += 1
        self.story.ask(user, [{"role": "user", "content": question}], model=model)

    @rule(
        user=some_users,
        question=st.sampled_from(QUESTIONS),
        stream=st.booleans(),
        down=st.booleans(),
        day=st.sampled_from((None, -40, -20, -1, 0, 6, 25)),
        top_k=st.sampled_from((None, 1, 9)),
    )
    def ask_with_options(
        self, user: str, question: str, stream: bool, down: bool, day: int | None, top_k: int | None
    ) -> None:
        type(self).steps += 1
        options: dict[str, Any] = {"top_k": top_k}
        if day is not None:
            options["as_of"] = str(START.fromordinal(START.toordinal() + day))
        self.story.ask(
            user, [{"role": "user", "content": question}], down=down, model="tandem", stream=stream, tandem=options
        )

    @rule(user=some_users, question=st.sampled_from(QUESTIONS), groups=some_groups)
    def ask_as_a_reader_with_fewer_groups(self, user: str, question: str, groups: tuple[str, ...]) -> None:
        type(self).steps += 1
        own = user == ADMIN or set(groups) <= self.story.groups[user]
        self.story.ask(
            user,
            [{"role": "user", "content": question}],
            narrowed=frozenset(groups) if own else None,
            model="tandem-rag",
            tandem={"groups": list(groups)},
        )

    @precondition(lambda self: self.story.asked)
    @rule(user=some_users, question=st.sampled_from(FOLLOW_UPS), back=st.integers(0, 5), down=st.booleans())
    def follow_up(self, user: str, question: str, back: int, down: bool) -> None:
        """The history quotes what was answered before, to whomever: a document in it may be closed by now."""
        type(self).steps += 1
        asked = self.story.asked[-1 - back % len(self.story.asked)]
        history = [{"role": "user", "content": asked.question}, {"role": "assistant", "content": asked.text}]
        self.story.ask(user, [*history, {"role": "user", "content": question}], model="tandem", down=down)

    @rule(user=some_users)
    def list_documents(self, user: str) -> None:
        type(self).steps += 1
        self.story.same(user, "GET", "/v1/documents")

    @rule(user=some_users, name=some_names, what=st.sampled_from(("", "/versions", "/diff")))
    def look_at_a_document(self, user: str, name: str, what: str) -> None:
        type(self).steps += 1
        self.story.same(user, "GET", f"/v1/documents/{name}{what}")

    @rule(user=some_users, name=some_names, older=st.integers(0, 5), newer=st.integers(0, 5))
    def compare_versions(self, user: str, name: str, older: int, newer: int) -> None:
        type(self).steps += 1
        self.story.same(user, "GET", f"/v1/documents/{name}/diff?from={older}&to={newer}")

    @precondition(lambda self: self.story.asked)
    @rule(user=some_users, back=st.integers(0, 11))
    def replay_an_answer(self, user: str, back: int) -> None:
        """One's own or another's, old or new."""
        type(self).steps += 1
        asked = self.story.asked[-1 - back % len(self.story.asked)]
        self.story.same(user, "GET", f"/v1/answers/{asked.id}")

    @precondition(lambda self: self.story.asked)
    @rule(back=st.integers(0, 11))
    def replay_an_own_answer(self, back: int) -> None:
        type(self).steps += 1
        asked = self.story.asked[-1 - back % len(self.story.asked)]
        self.story.same(asked.user, "GET", f"/v1/answers/{asked.id}")

    @precondition(lambda self: self.story.asked)
    @rule(user=some_users, back=st.integers(0, 5), rating=st.sampled_from(("up", "down")))
    def rate(self, user: str, back: int, rating: str) -> None:
        type(self).steps += 1
        asked = self.story.asked[-1 - back % len(self.story.asked)]
        self.story.same(user, "POST", "/v1/feedback", json={"answer_id": asked.id, "rating": rating})

    @rule(
        user=st.sampled_from(USERS),
        name=some_names,
        what=st.sampled_from(
            (
                ("GET", "/v1/signals"), ("GET", "/v1/ingest/runs"), ("POST", "/v1/documents"), ("DELETE", ""),
                ("POST", ""), ("GET", "/v1/me"), ("GET", "/v1/models"), ("GET", "/v1/adapters"), ("GET", "/v1/nothing"),
            )
        ),
    )  # fmt: skip
    def try_what_is_not_theirs(self, user: str, name: str, what: tuple[str, str]) -> None:
        type(self).steps += 1
        method, path = what
        self.story.same(user, method, path or f"/v1/documents/{name}")


def play(workshop: Workshop, *, stories: int, start: int) -> type[Access]:
    """Plays stories of at most 100 steps; the class that comes back has counted them.

    Raises:
        AssertionError: A response was not that of the store which lacks what the asker may not read.
    """
    profile = settings(
        max_examples=stories,
        stateful_step_count=100,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    machine = type("Access", (Access,), {"workshop": workshop, "steps": 0})
    run_state_machine_as_test(seed(start)(machine), settings=profile)
    return machine


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Iterator[Workshop]:
    folder = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path_factory.getbasetemp()
    folder = Path(folder) / f"tandem-access-{os.getpid()}"
    folder.mkdir()
    logging.disable(logging.CRITICAL)  # a model that is down on purpose is told with a trace, thousands of times
    with (
        time_machine.travel(0, tick=False) as clock,
        asyncio.Runner() as runner,
        RememberingSandbox() as sandbox,
    ):
        yield Workshop(folder, RememberingEmbedder(embedder), sandbox, runner, clock)
    logging.disable(logging.NOTSET)
    shutil.rmtree(folder)


def test_nobody_sees_anything_of_what_they_may_not_read(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    steps, stories, began = 0, 0, time.process_time()
    while steps < STEPS:
        steps += play(workshop, stories=10, start=SEED + stories).steps
        stories += 10
    with capsys.disabled():
        spent = time.process_time() - began
        print(f"\naccess: {steps} steps in {stories} stories from seed {SEED}, {spent:.0f} s of one core")  # noqa: T201
    assert steps >= STEPS


def _everything(scope: Scope) -> models.Filter:
    """The dates of a scope without its readers."""
    day = scope.as_of.toordinal()
    return models.Filter(
        must=[
            models.FieldCondition(key="readers", match=models.MatchValue(value=vectors.ADMINS)),
            models.FieldCondition(key="until", range=models.Range(gt=day)),
            models.FieldCondition(key="since", range=models.Range(lte=day)),
        ]
    )


def _nobody_is_asked(*_: object) -> bool:
    return True


INDEX = ("tandem.vectors._admitted", _everything)
DATABASE = ("tandem.retriever._may_read", _nobody_is_asked)
LIBRARY = ("services.chat.library.may_read", _nobody_is_asked)
RECEIPTS = ("services.chat.answers_api._readable", _nobody_is_asked)


@pytest.mark.parametrize(
    "removed",
    [
        # Both of the filters that stand one behind the other, then each alone: the other one does not hide its loss.
        pytest.param([INDEX, DATABASE], id="search"),
        pytest.param([INDEX], id="index"),
        pytest.param([DATABASE], id="database"),
        pytest.param([LIBRARY], id="library"),
        pytest.param([RECEIPTS], id="receipts"),
    ],
)
def test_without_a_filter_the_machine_fails(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, removed: list[tuple[str, Any]]
) -> None:
    for name, open_door in removed:
        monkeypatch.setattr(name, open_door)
    with pytest.raises(AssertionError, match=r"(?s)/v1/.*got .*want "):
        play(workshop, stories=30, start=SEED)
