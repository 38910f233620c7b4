"""`/v1/adapters`: the versions in the registry, which of them speaks, and which is on trial."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from eval.canary import Judgement, judge
from services.chat.auth import Admin, CurrentUser
from services.chat.body import Body
from services.chat.problems import ErrorBody
from tandem.adapter_version import AdapterVersion, describe, describe_all
from tandem.adapters import ActiveAdapter
from tandem.bootstrap import Container
from tandem.database import Database
from tandem.errors import DatabaseUnavailable, ModelUnavailable, NotFound
from tandem.registry import AdapterRef, Promotion, Registry
from tandem.tables import AuditRow

log = logging.getLogger(__name__)

_DIGEST = "0f3a9c1b2d4e"
_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "There is no such version, or no canary"},
    409: {"model": ErrorBody, "description": "The version may not answer, or may not go; the message says why"},
}


class PromoteRequest(Body):
    """Which version to make active."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"digest": _DIGEST}]})
    digest: str = Field(pattern="^[0-9a-f]{6,64}$", description="The version's digest, or its beginning.")


class RollbackRequest(Body):
    """From which version to go back."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"expected": _DIGEST}]})
    expected: str | None = Field(
        None,
        pattern="^[0-9a-f]{6,64}$",
        description="Digest of the active version, or its beginning. With it, asking again goes no second step back.",
    )


class CanaryRequest(Body):
    """Which version to try, on what share of the conversations."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"digest": _DIGEST, "share": 0.1}]})
    digest: str = Field(pattern="^[0-9a-f]{6,64}$", description="The version's digest, or its beginning.")
    share: float | None = Field(
        None,
        gt=0,
        lt=1,
        strict=True,
        allow_inf_nan=False,
        description="Of conversations, below 1: the active version needs some too. Unset: TANDEM_CANARY__SHARE.",
    )


class AdapterList(BaseModel):
    """All versions, newest first."""

    object: str = "list"
    data: list[AdapterVersion]


class History(BaseModel):
    """All changes of what answers, oldest first."""

    object: str = "list"
    data: list[Promotion]


class CanaryState(BaseModel):
    """The canary that is under way and how it stands, and how the last one ended."""

    running: Judgement | None
    last_end: Promotion | None


class Deleted(BaseModel):
    """What was deleted."""

    served: str
    deleted: bool = True


class Switch:
    """Changes what answers: the model servers first, then the pointer, then the audit log.

    Args:
        registry: Where the versions lie; its pointer decides, and is read again for every answer.
        adapters: Keeps the model servers in step with it.
        database: Where changes are written down.
    """

    def __init__(self, registry: Registry, adapters: ActiveAdapter, database: Database) -> None:
        self._registry = registry
        self._adapters = adapters
        self._database = database

    async def promote(self, name: str, digest: str, user: str) -> AdapterRef:
        """Makes a version active. Raises AdapterError or NotFound; then the old one stays."""
        ref = await asyncio.to_thread(self._registry.get, f"{name}@{digest}")
        async with self._loaded(ref):
            await asyncio.to_thread(self._registry.promote, ref, user)
        await self._audit(user, "promote", ref)
        return ref

    async def rollback(self, name: str, user: str, *, expected: str | None = None) -> AdapterRef:
        """Makes the version active that was active before `expected`. Raises what `promote` raises, and Overtaken."""
        ref = await asyncio.to_thread(self._registry.predecessor, name, expected=expected)
        async with self._loaded(ref):
            ref = await asyncio.to_thread(self._registry.rollback, name, user, expected=expected)
        await self._audit(user, "rollback", ref)
        return ref

    async def start_canary(self, name: str, digest: str, share: float, user: str) -> AdapterRef:
        """Has a version answer a share of the conversations. Raises what `promote` raises."""
        ref = await asyncio.to_thread(self._registry.get, f"{name}@{digest}")
        async with self._loaded(ref):
            await asyncio.to_thread(self._registry.start_canary, ref, share, user)
        await self._audit(user, "canary", ref, {"share": share})
        return ref

    async def withdraw_canary(self, name: str, user: str) -> AdapterRef:
        """Has the active version answer every conversation again. Raises NotFound when no canary is under way."""
        ref = await asyncio.to_thread(self._registry.withdraw_canary, name, user)
        await self._audit(user, "withdraw", ref)
        return ref

    async def delete(self, served: str, user: str) -> AdapterRef:
        """Removes a version, from the model servers too. Raises AdapterError when it answers."""
        if not served.partition("@")[2]:
            raise NotFound(f"{served!r} names no version: write NAME@DIGEST.")
        ref = await asyncio.to_thread(self._registry.get, served)
        await asyncio.to_thread(self._registry.check_deletable, ref)
        if ref.name == self._adapters.name:
            try:
                await self._adapters.unload(ref)
            except ModelUnavailable as exc:  # it will not be loaded again
                log.info("%s is not unloaded: %s", ref.served, exc.message)
        await asyncio.to_thread(self._registry.delete, ref, user)
        await self._audit(user, "delete", ref)
        return ref

    @asynccontextmanager
    async def _loaded(self, ref: AdapterRef) -> AsyncIterator[None]:
        """In here the model servers have a version, if they answer; otherwise it is loaded when they do."""
        async with AsyncExitStack() as stack:
            if ref.name == self._adapters.name:
                try:
                    await stack.enter_async_context(self._adapters.ready(ref))
                except ModelUnavailable as exc:
                    log.info("%s is loaded later: %s", ref.served, exc.message)
            yield

    async def _audit(self, user: str, action: str, ref: AdapterRef, detail: dict[str, Any] | None = None) -> None:
        def write() -> None:
            with self._database.session() as session:
                when = datetime.now(UTC)
                session.add(AuditRow(user=user, action=action, subject=ref.served, detail=detail, created_at=when))

        try:
            await asyncio.to_thread(write)
        except DatabaseUnavailable as exc:
            # The change is made, and the registry's history names who made it. An error would have it asked for again.
            log.warning("not in the audit log: %s, %s of %s (%s)", user, action, ref.served, exc.message)


def adapters_router(container: Container) -> APIRouter:
    """The routes.

    Args:
        container: Its registry, its adapters and its database are used.
    """
    router = APIRouter(prefix="/v1/adapters", tags=["adapters"], responses=_ERRORS)
    registry, settings = container.registry, container.settings
    switch = Switch(registry, container.adapters, container.database)

    @router.get("")
    async def adapters(_: CurrentUser) -> AdapterList:
        """All versions of all adapters."""
        return AdapterList(data=await asyncio.to_thread(describe_all, registry))

    @router.get("/{served}")
    async def adapter(served: str, _: CurrentUser) -> AdapterVersion:
        """One version by `NAME@DIGEST` (six digits do), beside the active one; a bare name means the active one."""
        return await asyncio.to_thread(_one, registry, served)

    @router.delete("/{served}")
    async def delete(served: str, principal: Admin) -> Deleted:
        """Removes the version `NAME@DIGEST` for good. Refused while it is active or on trial."""
        return Deleted(served=(await switch.delete(served, principal.user)).served)

    @router.post("/{name}/promote")
    async def promote(name: str, body: PromoteRequest, principal: Admin) -> AdapterVersion:
        """Makes a version active: the next answer is given with it. One that cannot serve is refused."""
        return await _shown(await switch.promote(name, body.digest, principal.user))

    @router.post("/{name}/rollback")
    async def rollback(name: str, principal: Admin, body: RollbackRequest | None = None) -> AdapterVersion:
        """Makes the version active that was active before."""
        expected = body.expected if body else None
        return await _shown(await switch.rollback(name, principal.user, expected=expected))

    @router.get("/{name}/history")
    async def history(name: str, _: Admin) -> History:
        """Who changed what answers, when and why."""
        return History(data=list(await asyncio.to_thread(registry.history, name)))

    @router.get("/{name}/canary")
    async def canary(name: str, _: Admin) -> CanaryState:
        """The candidate on trial beside the active version, by the answers that both gave since it began."""
        running = await asyncio.to_thread(judge, container.database, registry, name, settings.canary)
        history = await asyncio.to_thread(registry.history, name)
        ends = [entry for entry in history if entry.kind == "withdraw"]
        return CanaryState(running=running, last_end=ends[-1] if ends else None)

    @router.post("/{name}/canary")
    async def start_canary(name: str, body: CanaryRequest, principal: Admin) -> AdapterVersion:
        """Has a version answer a share of the conversations. It is withdrawn by itself when it falls behind."""
        share = body.share or settings.canary.share
        return await _shown(await switch.start_canary(name, body.digest, share, principal.user))

    @router.delete("/{name}/canary")
    async def stop_canary(name: str, principal: Admin) -> AdapterVersion:
        """Withdraws the candidate: the active version answers every conversation."""
        return await _shown(await switch.withdraw_canary(name, principal.user))

    async def _shown(ref: AdapterRef) -> AdapterVersion:
        return await asyncio.to_thread(describe, registry, ref)

    return router


def _one(registry: Registry, served: str) -> AdapterVersion:
    return describe(registry, registry.get(served))
