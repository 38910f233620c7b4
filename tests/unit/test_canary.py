"""Canaries: who gets the candidate, and when it is withdrawn."""

import asyncio
import multiprocessing
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import select

from eval.canary import CANARY_USER, Judgement, _behind, _Given, judge
from eval.signals import compute_signals
from eval.suite import EVAL_USER
from services.chat.canary_watch import CanaryWatch
from tandem.adapters import ActiveAdapter
from tandem.canary import Canary, conversation_key
from tandem.database import Database
from tandem.errors import AdapterError, InputError, NotFound
from tandem.registry import AdapterRef, Gate, Registry
from tandem.settings import Settings, load_settings
from tandem.tables import AnswerRow, AuditRow
from tests.adapter_files import add_adapter

NAME = "house-style"


class NothingRefused:
    """Model servers that took every adapter."""

    def refusal(self, ref: AdapterRef) -> str | None:
        return None

    async def prepare(self) -> None:
        pass

    async def tidy(self) -> None:
        pass


class Trial:
    """A candidate on trial against an active version, and the answers that both give."""

    def __init__(self, folder: Path, *, passed: bool = True, **canary: Any) -> None:
        self.settings: Settings = load_settings(data_dir=folder / "data", canary=canary)
        self.database = Database(self.settings.database)
        self.database.migrate()
        self.registry = Registry(self.settings.registry)
        self.active, self.candidate = (
            add_adapter(self.registry, folder / str(seed), seed, gate=Gate(passed=passed, reasons=("Style fell.",)))
            for seed in (1, 2)
        )
        self.registry.promote(self.active, "ada")
        self.registry.start_canary(self.candidate, 0.2, "ada")
        self.watch = CanaryWatch(self.settings, self.database, self.registry, cast(ActiveAdapter, NothingRefused()))
        self._count = 0

    def answers(
        self,
        ref: AdapterRef,
        count: int,
        *,
        cited: float = 1.0,
        declined: float = 0.0,
        seconds: float = 1.0,
        failed: float = 0.0,
        user: str = "ada",
        question: str | None = None,
    ) -> None:
        """Stores receipts: the shares are met exactly, the times vary by a tenth. The first of them failed."""
        rows = []
        rng = random.Random(self._count)
        for n in range(count):
            self._count += 1
            declines = n < round(declined * count)
            stated = n - round(declined * count)
            cites = not declines and stated < round(cited * (count - round(declined * count)))
            asked = question or f"Question {self._count}?"
            receipt = {
                "declined": declines,
                "citations": [{"n": 1}] if cites else [],
                "timings": {"total": seconds * rng.uniform(0.9, 1.1)},
                "ask": {"messages": [{"role": "user", "content": asked}]},
            }
            row = {"user": user, "question": asked, "arm": "tandem", "adapter": ref.served, "text": "x"}
            if n < round(failed * count):
                row["adapter"] = None
                receipt |= {"failed_adapter": ref.served, "degraded": "no_adapter"}
            when = datetime.now(UTC) + timedelta(milliseconds=self._count)
            rows.append(AnswerRow(id=f"a{self._count}", receipt=receipt, created_at=when, **row))
        with self.database.session() as session:
            session.add_all(rows)

    @property
    def on(self) -> bool:
        return self.registry.canary(NAME) is not None


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    trial = Trial(tmp_path)
    yield trial
    trial.database.close()


def test_a_conversation_stays_with_one_adapter_and_the_share_is_met() -> None:
    def canary(share: float, digest: str = "a" * 64) -> Canary:
        return Canary(digest=digest, against="b" * 64, share=share, started_at=datetime.now(UTC))

    keys = [conversation_key("ada", f"Question {n}?") for n in range(4000)]
    taken = {key for key in keys if canary(0.1).takes(key)}
    assert 320 < len(taken) < 480
    assert taken == {key for key in keys if canary(0.1).takes(key)}
    assert taken < {key for key in keys if canary(0.3).takes(key)}  # a larger share keeps them
    assert all(canary(1.0).takes(key) for key in keys)
    assert taken != {key for key in keys if canary(0.1, "c" * 64).takes(key)}  # not always the same people


def test_a_conversation_is_known_by_its_first_question_or_its_name() -> None:
    assert conversation_key("ada", "How?") != conversation_key("bob", "How?")
    assert conversation_key("ada", "How?", "ticket-1") == conversation_key("ada", "Why?", "ticket-1")
    assert conversation_key("ada", "How?", "ticket-1") != conversation_key("bob", "How?", "ticket-1")


def test_a_trial_needs_two_versions_and_ends_with_a_change_of_the_active_one(trial: Trial, tmp_path: Path) -> None:
    registry = trial.registry
    with pytest.raises(AdapterError, match="is active: a trial needs"):
        registry.start_canary(trial.active, 0.1, "ada")
    with pytest.raises(AdapterError, match="is on trial: stop its canary"):
        registry.delete(trial.candidate, "ada")
    with pytest.raises(AdapterError, match="is active: promote another"):
        registry.delete(trial.active, "ada")
    third = add_adapter(registry, tmp_path / "third", 3)
    registry.promote(third, "ada")
    assert not trial.on
    with pytest.raises(NotFound, match="No canary"):
        registry.withdraw_canary(NAME, "ada")
    registry.delete(trial.candidate, "ada")
    assert [entry.kind for entry in registry.history(NAME)] == ["promote", "canary", "promote", "delete"]
    with pytest.raises(AdapterError, match="no active version"):
        Registry(tmp_path / "empty").start_canary(add_adapter(Registry(tmp_path / "empty"), tmp_path / "x"), 0.1, "ada")


def test_rollback_passes_over_a_deleted_version(trial: Trial, tmp_path: Path) -> None:
    registry = trial.registry
    registry.promote(trial.candidate, "ada")
    registry.promote(add_adapter(registry, tmp_path / "third", 3), "ada")
    registry.delete(trial.candidate, "ada")
    assert registry.rollback(NAME) == trial.active


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"cited": 0.6}, "60% cite a source, of the active one's 95%"),
        ({"declined": 0.5}, "It declines 50% of the questions, the active one 0%"),
        ({"failed": 0.3}, "Of its answers 30% failed, of the active one's 0%"),
        ({"failed": 1.0}, "Of its answers 100% failed, of the active one's 0%"),
        ({"seconds": 1.8}, r"median answer takes 1\.\d\d s, the active one's [01]\.\d\d s"),
    ],
)
def test_a_candidate_that_falls_behind_is_withdrawn_with_the_reason(
    trial: Trial, worse: dict[str, float], reason: str
) -> None:
    trial.answers(trial.active, 200, cited=0.95)
    trial.answers(trial.candidate, 60, **({"cited": 0.95} | worse))
    trial.watch.look()
    assert not trial.on
    assert trial.registry.active(NAME) == trial.active
    last = trial.registry.history(NAME)[-1]
    assert (last.kind, last.by, last.digest) == ("withdraw", CANARY_USER, trial.candidate.digest)
    assert re.search(reason, last.reason), last.reason
    with trial.database.session() as session:
        audit = session.scalars(select(AuditRow)).one()
    assert (audit.user, audit.action, audit.subject) == (CANARY_USER, "withdraw", trial.candidate.served)
    found = {s.name: s for s in compute_signals(trial.database, trial.registry, trial.settings)}
    assert found["canary_withdrawn"].firing
    assert trial.candidate.served in found["canary_withdrawn"].detail
    trial.registry.start_canary(trial.candidate, 0.2, "ada")
    again = {s.name: s for s in compute_signals(trial.database, trial.registry, trial.settings)}
    assert not again["canary_withdrawn"].firing


@pytest.mark.parametrize(
    "better",
    [
        {"cited": 1.0},
        {"cited": 0.9},
        {"declined": 0.05},
        {"failed": 0.05},
        {"seconds": 1.3},
        {"cited": 0.97, "seconds": 0.5},
    ],
)
def test_one_that_keeps_up_or_is_a_little_worse_stays(trial: Trial, better: dict[str, float]) -> None:
    trial.answers(trial.active, 200, cited=0.95)
    trial.answers(trial.candidate, 60, **({"cited": 0.95} | better))
    judgement = trial.watch.look()
    assert judgement is not None
    assert judgement.enough
    assert judgement.behind == ()
    assert trial.on


def test_few_conversations_are_not_judged_and_the_same_question_counts_once(trial: Trial) -> None:
    trial.answers(trial.active, 200)
    trial.answers(trial.candidate, 49, declined=1.0)
    trial.answers(trial.candidate, 500, declined=1.0, question="Is it up?")  # a probe, always the same conversation
    judgement = judge(trial.database, trial.registry, NAME, trial.settings.canary)
    assert judgement is not None
    assert (judgement.candidate.conversations, judgement.enough) == (50, True)
    trial.answers(trial.candidate, 30, declined=1.0, user=EVAL_USER)
    assert judge(trial.database, trial.registry, NAME, trial.settings.canary) == judgement


def test_what_fails_on_both_sides_is_not_the_candidates_fault_and_is_shown(trial: Trial) -> None:
    trial.answers(trial.active, 200, failed=0.25, cited=0.9)
    trial.answers(trial.candidate, 80, failed=0.3, cited=0.9)
    judgement = trial.watch.look()
    assert judgement is not None
    assert judgement.behind == ()
    side = judgement.candidate
    assert (side.conversations, side.failed, side.stated, side.declined) == (80, 24, 56, 0)
    assert trial.on


@pytest.mark.parametrize("busy", ["active", "candidate"])
def test_both_sides_are_judged_over_the_same_time(trial: Trial, monkeypatch: pytest.MonkeyPatch, busy: str) -> None:
    monkeypatch.setattr("eval.canary.MAX_ANSWERS", 660)
    refs = {"active": trial.active, "candidate": trial.candidate}
    much, little = refs.pop(busy), *refs.values()
    trial.answers(much, 300, failed=1.0)  # an outage at the beginning, which both had
    trial.answers(little, 100, failed=1.0)
    trial.answers(much, 600)
    trial.answers(little, 60)
    judgement = judge(trial.database, trial.registry, NAME, trial.settings.canary)
    assert judgement is not None
    sides = {side.served: side for side in (judgement.candidate, judgement.active)}
    assert (sides[much.served].conversations, sides[much.served].failed) == (600, 0)
    assert (sides[little.served].conversations, sides[little.served].failed) == (60, 0)
    assert judgement.behind == ()


def test_the_small_side_of_a_long_trial_is_not_cut_below_what_is_judged(trial: Trial) -> None:
    trial.answers(trial.active, 2500)
    trial.answers(trial.candidate, 60, cited=0.9)
    judgement = judge(trial.database, trial.registry, NAME, trial.settings.canary)
    assert judgement is not None
    assert (judgement.active.conversations, judgement.candidate.conversations) == (2500, 60)


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
def test_a_share_leaves_conversations_to_both(trial: Trial, share: float) -> None:
    with pytest.raises(InputError, match=f"share of {share:g} of the conversations: .* below 1"):
        trial.registry.start_canary(trial.candidate, share, "ada")


def test_below_the_minimum_nothing_is_said(trial: Trial) -> None:
    trial.answers(trial.active, 400)
    trial.answers(trial.candidate, 49, declined=1.0, seconds=9.0)
    judgement = trial.watch.look()
    assert judgement is not None
    assert (judgement.enough, judgement.behind) == (False, ())
    assert trial.on


def test_equal_adapters_are_rarely_parted_however_often_one_looks() -> None:
    """The same behaviour on both sides, looked at after every ten conversations up to 250 of the candidate's."""
    settings = load_settings().canary
    rng = random.Random(7)

    def one() -> _Given:
        declined = rng.random() < 0.15
        return _Given(
            declined=declined, cited=not declined and rng.random() < 0.9, seconds=rng.lognormvariate(0.5, 0.5)
        )

    parted = 0
    for _ in range(100):
        candidate, active = [one() for _ in range(40)], [one() for _ in range(160)]
        for _ in range(21):
            candidate += [one() for _ in range(10)]
            active += [one() for _ in range(40)]
            if len(candidate) >= settings.min_conversations and _behind(candidate, active, settings):
                parted += 1
                break
    assert parted <= 2


def test_a_person_promotes_unless_a_setting_does(tmp_path: Path) -> None:
    trial = Trial(tmp_path, promote_after=60)
    try:
        trial.answers(trial.active, 200)
        trial.answers(trial.candidate, 59)
        trial.answers(trial.candidate, 1, failed=1.0)  # what failed is no conversation that it kept up in
        trial.watch.look()
        assert trial.on
        trial.answers(trial.candidate, 1)
        trial.watch.look()
        assert trial.registry.active(NAME) == trial.candidate
        assert trial.registry.history(NAME)[-1].by == CANARY_USER
    finally:
        trial.database.close()


@pytest.mark.parametrize(
    ("active", "candidate", "what", "counts"),
    [
        ({"count": 20}, {}, "Nothing is judged yet", "had 80 conversations, the active version 20"),
        ({"failed": 0.5}, {}, "Only failures are judged yet", "answered 80 conversations, the active version 40"),
        (
            {"declined": 0.5},
            {"declined": 0.5},
            "Citations are not judged yet",
            "stated something in 40 conversations, the active version 40",
        ),
        ({}, {"failed": 0.3}, "", ""),
    ],
)
def test_nothing_is_promoted_by_itself_before_every_test_had_its_sample(
    tmp_path: Path, active: dict[str, Any], candidate: dict[str, Any], what: str, counts: str
) -> None:
    lacking = f"{what}: the candidate {counts}; each needs 50." if what else ""
    trial = Trial(tmp_path, promote_after=50, max_failed_gain=1.0)
    try:
        for ref, had in ((trial.active, active), (trial.candidate, candidate)):
            trial.answers(ref, **({"count": 80} | had))
        judgement = trial.watch.look()
        assert judgement is not None
        assert (judgement.behind, judgement.lacking) == ((), lacking)
        assert (trial.registry.active(NAME) == trial.candidate) == (not lacking)
        assert trial.on == bool(lacking)
    finally:
        trial.database.close()


def test_how_many_conversations_a_promotion_still_lacks_is_said(tmp_path: Path) -> None:
    trial = Trial(tmp_path, promote_after=90)
    try:
        for ref in (trial.active, trial.candidate):
            trial.answers(ref, 80)
        judgement = trial.watch.look()
        assert judgement is not None
        assert "once it answered 90 conversations among the latest 20,000 answers" in judgement.lacking
        assert judgement.lacking.endswith("so far 80.")
        assert trial.on
    finally:
        trial.database.close()


@pytest.mark.parametrize("fault", [ValueError("a bug"), OSError("the disk")])
async def test_no_single_failure_ends_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    trial = Trial(tmp_path, check_every=0.01)
    faults = [fault]

    def judge_or_fail(*args: Any) -> Judgement | None:
        if faults:
            raise faults.pop()
        return judge(*args)

    monkeypatch.setattr("services.chat.canary_watch.judge", judge_or_fail)
    trial.answers(trial.active, 200)
    trial.answers(trial.candidate, 60, declined=0.9)
    running = asyncio.create_task(trial.watch.run())
    try:
        async with asyncio.timeout(20):
            while trial.on and not running.done():
                await asyncio.sleep(0.02)
        assert not trial.on
        assert "the canary could not be judged" in caplog.text
        assert str(fault) in caplog.text
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError, type(fault)):
            await running
        trial.database.close()


@pytest.mark.parametrize("meanwhile", ["withdrawn", "begun anew", "promoted another", "rolled back"])
def test_what_a_person_did_during_the_judgement_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, meanwhile: str
) -> None:
    trial = Trial(tmp_path, promote_after=60)
    registry, third = trial.registry, add_adapter(trial.registry, tmp_path / "third", 3)
    if meanwhile == "rolled back":
        registry.promote(third, "ada")
        registry.promote(trial.active, "ada")
        registry.start_canary(trial.candidate, 0.2, "ada")
    trial.answers(trial.active, 200)
    trial.answers(trial.candidate, 60)

    def judge_and_be_overtaken(*args: Any) -> Judgement | None:
        found = judge(*args)
        if meanwhile == "withdrawn":
            registry.withdraw_canary(NAME, "ada")
        elif meanwhile == "begun anew":
            registry.start_canary(trial.candidate, 0.1, "ada")
        elif meanwhile == "promoted another":
            registry.promote(third, "ada")
        else:
            registry.rollback(NAME, "ada")
        return found

    monkeypatch.setattr("services.chat.canary_watch.judge", judge_and_be_overtaken)
    caplog.set_level("INFO")
    try:
        trial.watch.look()
        expected = {"promoted another": third, "rolled back": third}.get(meanwhile, trial.active)
        assert registry.active(NAME) == expected
        assert trial.on == (meanwhile == "begun anew")
        assert registry.history(NAME)[-1].by == "ada"
        assert f"{trial.candidate.served} is not promoted" in caplog.text
        with trial.database.session() as session:
            assert session.scalars(select(AuditRow)).all() == []
    finally:
        trial.database.close()


def test_a_candidate_that_its_gate_refused_is_promoted_by_people_only(tmp_path: Path) -> None:
    trial = Trial(tmp_path, passed=False, promote_after=60)
    try:
        trial.answers(trial.active, 200)
        trial.answers(trial.candidate, 60)
        trial.watch.look()
        assert trial.registry.active(NAME) == trial.active
        assert not trial.on
        last = trial.registry.history(NAME)[-1]
        assert (last.kind, last.by) == ("withdraw", CANARY_USER)
        assert "kept up for 60 conversations" in last.reason
        assert "Style fell." in last.reason
        trial.registry.promote(trial.candidate, "ada")
        assert trial.registry.active(NAME) == trial.candidate
    finally:
        trial.database.close()


def test_a_spoilt_byte_of_the_history_costs_its_line_at_most(trial: Trial) -> None:
    path = trial.registry.root / NAME / "history.jsonl"
    first, second = path.read_bytes().splitlines()
    torn = second[:40] + b"\xff" + second[41:60]
    in_a_reason = second.replace(b"It answers", b"It\xffanswers")
    assert in_a_reason != second
    path.write_bytes(b"\n".join((first, b"\xff" + second, torn, in_a_reason)) + b"\n")
    assert [entry.kind for entry in trial.registry.history(NAME)] == ["promote", "canary"]
    assert "It\ufffdanswers" in trial.registry.history(NAME)[-1].reason
    trial.registry.promote(trial.candidate, "ada\u2028lovelace")  # a line's end for str.splitlines, not for JSON
    assert trial.registry.history(NAME)[-1].by == "ada\u2028lovelace"
    assert trial.registry.rollback(NAME) == trial.active


def _look(folder: Path) -> None:
    settings = load_settings(data_dir=folder / "data")
    database, registry = Database(settings.database), Registry(settings.registry)
    CanaryWatch(settings, database, registry, cast(ActiveAdapter, NothingRefused())).look()
    database.close()


def test_of_several_processes_one_withdraws(trial: Trial, tmp_path: Path) -> None:
    trial.answers(trial.active, 100)
    trial.answers(trial.candidate, 60, declined=0.9)
    context = multiprocessing.get_context("spawn")
    watchers = [context.Process(target=_look, args=(tmp_path,)) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    assert [watcher.exitcode for watcher in watchers] == [0, 0, 0]
    assert [entry.kind for entry in trial.registry.history(NAME)] == ["promote", "canary", "withdraw"]
