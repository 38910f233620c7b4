"""Judges the canary again and again, and withdraws a candidate that falls behind."""

import asyncio
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from eval.canary import CANARY_USER, Judgement, judge
from tandem.adapters import ActiveAdapter
from tandem.canary import Canary
from tandem.database import Database
from tandem.errors import NotFound, Overtaken, TandemError
from tandem.registry import AdapterRef, Registry
from tandem.settings import Settings
from tandem.tables import AuditRow

log = logging.getLogger(__name__)


class CanaryWatch:
    """Looks every `settings.canary.check_every` seconds. Of several processes on one registry one looks at a time.

    Args:
        settings: The margins.
        database: Holds the receipts; the end of a trial is written into its audit log.
        registry: Holds the trial.
        adapters: Says what the model servers refuse; loads what may be promoted next, unloads what is done with.
    """

    def __init__(self, settings: Settings, database: Database, registry: Registry, adapters: ActiveAdapter) -> None:
        self._settings = settings
        self._database = database
        self._registry = registry
        self._adapters = adapters
        self._name = settings.adapter.name

    async def run(self) -> None:
        """Runs until cancelled. No single failure ends it."""
        while True:
            await asyncio.sleep(self._settings.canary.check_every)
            try:
                await asyncio.to_thread(self.look)
                await self._adapters.prepare()
                await self._adapters.tidy()
            except TandemError as exc:
                log.warning("the canary could not be judged: %s", exc.message)
            except Exception:
                log.exception("the canary could not be judged")

    def look(self) -> Judgement | None:
        """Judges once, and acts on it. Blocking; None when there is nothing to judge, or another process does.

        Raises:
            DatabaseUnavailable: The state database does not answer.
        """
        home = self._registry.root / self._name
        if self._registry.canary(self._name) is None:
            return None
        with _alone(home / ".canary-watch") as alone:
            if not alone:
                return None
            trial = self._registry.canary(self._name)
            judgement = judge(self._database, self._registry, self._name, self._settings.canary)
            if trial is None or judgement is None:
                return None
            canary, candidate = trial
            refusal = self._adapters.refusal(candidate)
            reasons = (*judgement.behind, *((refusal,) if refusal else ()))
            answered = judgement.candidate.conversations - judgement.candidate.failed
            if reasons:
                self._withdraw(candidate, " ".join(reasons))
            elif self._settings.canary.promote_after is not None and not judgement.lacking:
                self._promote(canary, candidate, f"It kept up for {answered} conversations")
            return judgement

    def _promote(self, canary: Canary, candidate: AdapterRef, kept_up: str) -> None:
        gate = self._registry.manifest(candidate).gate
        if gate is None or not gate.passed:
            why = " ".join(gate.reasons) if gate else "It was never examined."
            self._withdraw(candidate, f"{kept_up}, but did not pass its gate, so only a person promotes it. {why}")
            return
        try:
            self._registry.promote(candidate, CANARY_USER, trial=canary)
        except Overtaken as exc:  # a person was quicker
            log.info("the canary stays a candidate: %s", exc.message)
            return
        self._audit("promote", candidate, f"{kept_up}.")
        log.info("the canary %s kept up and is active now", candidate.served)

    def _withdraw(self, candidate: AdapterRef, reason: str) -> None:
        try:
            self._registry.withdraw_canary(self._name, CANARY_USER, reason, digest=candidate.digest)
        except NotFound:  # a person was quicker
            return
        self._audit("withdraw", candidate, reason)
        log.warning("the canary %s is withdrawn: %s", candidate.served, reason)

    def _audit(self, action: str, ref: AdapterRef, reason: str) -> None:
        with self._database.session() as session:
            row = AuditRow(user=CANARY_USER, action=action, subject=ref.served, detail={"reason": reason})
            row.created_at = datetime.now(UTC)
            session.add(row)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no other process looks just now. The kernel lets go when the process ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
