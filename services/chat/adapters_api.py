"""`/v1/adapters`: the versions in the registry, and which of them speaks."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.chat.auth import Admin, CurrentUser
from services.chat.body import Body
from tandem.database import Database
from tandem.errors import AdapterError
from tandem.prompt import PROMPT_VERSION
from tandem.registry import AdapterRef, Gate, Registry
from tandem.tables import AuditRow


class PromoteRequest(Body):
    """Which version to make active."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"digest": "0f3a9c1b2d4e"}]})
    digest: str = Field(pattern="^[0-9a-f]{6,64}$", description="The version's digest, or its beginning.")


class AdapterVersion(BaseModel):
    """A version of an adapter. `served` is the name the model server knows it by; `manifest` is its whole recipe."""

    served: str
    name: str
    digest: str
    active: bool
    base: str | None = None
    created_at: datetime | None = None
    prompt_matches: bool = False
    gate: Gate | None = None
    problem: str | None = None
    manifest: dict[str, Any] = Field(default_factory=dict)


class AdapterList(BaseModel):
    """All versions, newest first."""

    object: str = "list"
    data: list[AdapterVersion]


def adapters_router(registry: Registry, database: Database) -> APIRouter:
    """The routes.

    Args:
        registry: Where the versions lie; its pointer decides, and is read again for every answer.
        database: Where promotions are written down.
    """
    router = APIRouter(prefix="/v1/adapters", tags=["adapters"])

    @router.get("")
    async def adapters(_: CurrentUser) -> AdapterList:
        """All versions of all adapters."""
        return AdapterList(data=await asyncio.to_thread(_versions, registry))

    @router.get("/{served}")
    async def adapter(served: str, _: CurrentUser) -> AdapterVersion:
        """One version by `NAME@DIGEST` (six digits are enough); a bare name means the active one."""
        return await asyncio.to_thread(_one, registry, served)

    @router.post("/{name}/promote")
    async def promote(name: str, body: PromoteRequest, principal: Admin) -> AdapterVersion:
        """Makes a version active: the next answer is given with it."""
        return await asyncio.to_thread(_promote, registry, database, name, body.digest, principal.user)

    @router.post("/{name}/rollback")
    async def rollback(name: str, principal: Admin) -> AdapterVersion:
        """Makes the version active that was active before."""
        return await asyncio.to_thread(_rollback, registry, database, name, principal.user)

    return router


def _versions(registry: Registry) -> list[AdapterVersion]:
    active = {name: _active(registry, name) for name in registry.names()}
    return [_version(registry, ref, active=ref.digest == active[ref.name]) for ref in registry.list()]


def _one(registry: Registry, served: str) -> AdapterVersion:
    ref = registry.get(served)
    return _version(registry, ref, active=ref.digest == _active(registry, ref.name))


def _active(registry: Registry, name: str) -> str | None:
    try:
        ref = registry.active(name)
    except AdapterError:  # the pointer leads nowhere: the list must still be shown, to promote another from it
        return None
    return ref.digest if ref else None


def _version(registry: Registry, ref: AdapterRef, *, active: bool) -> AdapterVersion:
    version = AdapterVersion(served=ref.served, name=ref.name, digest=ref.digest, active=active)
    try:
        manifest = registry.manifest(ref)
    except AdapterError as exc:
        return version.model_copy(update={"problem": exc.message})
    return version.model_copy(
        update={
            "base": manifest.base_model,
            "created_at": manifest.created_at,
            "prompt_matches": manifest.prompt_version == PROMPT_VERSION,
            "gate": manifest.gate,
            "manifest": manifest.model_dump(mode="json"),
        }
    )


def _promote(registry: Registry, database: Database, name: str, digest: str, user: str) -> AdapterVersion:
    ref = registry.get(f"{name}@{digest}")
    registry.promote(ref, user)
    _audit(database, user, "promote", ref)
    return _version(registry, ref, active=True)


def _rollback(registry: Registry, database: Database, name: str, user: str) -> AdapterVersion:
    ref = registry.rollback(name, user)
    _audit(database, user, "rollback", ref)
    return _version(registry, ref, active=True)


def _audit(database: Database, user: str, action: str, ref: AdapterRef) -> None:
    with database.session() as session:
        session.add(AuditRow(user=user, action=action, subject=ref.served, created_at=datetime.now(UTC)))
