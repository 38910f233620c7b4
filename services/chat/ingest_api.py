"""`/v1/ingest/runs`: starting ingest runs and following them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from services.chat.auth import Admin
from services.chat.body import Body
from services.chat.problems import problem
from services.ingest.runs import IngestRuns, Run, RunLog, follow
from tandem.errors import Forbidden, InputError, TandemError, Unavailable


class RunRequest(Body):
    """What to ingest, by its path on the server."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"paths": ["/srv/policies"], "dry_run": True}]}
    )
    paths: list[str] = Field(
        max_length=100, description="Folders and files; none at all only builds the index anew where it must be."
    )
    dry_run: bool = Field(False, strict=True, description="Only say what would change.")
    groups: list[str] | None = Field(None, max_length=100, description="Groups of documents that name none.")
    wait: bool = Field(False, strict=True, description="Answer when the run has ended, with its report.")


class RunList(BaseModel):
    """Runs, newest first."""

    object: str = "list"
    data: list[Run]


def ingest_router(log: RunLog, ingestion: IngestRuns | None, *, server_paths: bool) -> APIRouter:
    """The routes.

    Args:
        log: Runs of all processes, as the database has them.
        ingestion: What runs them here; None where another process does.
        server_paths: Whether admins may name folders of the server.
    """
    router = APIRouter(prefix="/v1/ingest/runs", tags=["ingest"])

    @router.post("", status_code=202, responses={200: {"model": Run, "description": "The run has ended (wait=true)"}})
    async def start(body: RunRequest, principal: Admin, response: Response) -> Run:
        """Starts a run in the background. One runs at a time: the next is refused with 429 until it has ended."""
        if body.paths and not server_paths:
            raise Forbidden("This server takes no paths (TANDEM_INGEST__SERVER_PATHS=false): upload documents.")
        if ingestion is None:
            raise Unavailable("This process does not ingest: send this to the ingest service.")
        paths = await asyncio.to_thread(_plain_paths, body.paths)
        groups = None if body.groups is None else tuple(body.groups)
        run = ingestion.start(paths, principal.user, dry_run=body.dry_run, groups=groups)
        if body.wait:
            run = await ingestion.wait(run.id)
            response.status_code = 200
        return run

    @router.get("")
    async def runs(_: Admin, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> RunList:
        """The latest runs."""
        return RunList(data=await ingestion.latest(limit) if ingestion else await asyncio.to_thread(log.latest, limit))

    async def look(run_id: str) -> Run:
        return await ingestion.get(run_id) if ingestion else await asyncio.to_thread(log.get, run_id)

    async def known(run_id: str, _: Admin) -> Run:
        return await look(run_id)  # a run that does not exist is a 404, and no stream that breaks off

    @router.get("/{run_id}/events", response_class=EventSourceResponse)
    async def events(run: Annotated[Run, Depends(known)]) -> AsyncIterator[Run | ServerSentEvent]:
        """The run as server-sent events: whenever it has got on, and last of all with its report."""
        try:
            async for seen in follow(lambda: look(run.id)):
                yield seen
        except TandemError as exc:
            yield ServerSentEvent(data=problem(exc))

    @router.get("/{run_id}")
    async def run(run_id: str, _: Admin) -> Run:
        """One run, with its progress while it runs and its report afterwards."""
        return await look(run_id)

    return router


def _plain_paths(given: Sequence[str]) -> list[Path]:
    """The paths, if each names a place of the server's disk without detours.

    Raises:
        InputError: One is relative, leads through `..` or a link, or holds NUL or a backslash.
    """
    for path in given:
        if not path.strip() or not Path(path).is_absolute():
            raise InputError(
                f"{path[:80]!r} is no absolute path: the server has another working folder.", param="paths"
            )
        if "\x00" in path or "\\" in path or ".." in Path(path).parts:
            raise InputError(
                f"{path[:80]!r} is no plain path: name the folder without '..', backslashes or NUL.", param="paths"
            )
        if any(part.is_symlink() for part in (Path(path), *Path(path).parents)):
            raise InputError(
                f"{path[:80]!r} is a link, or leads through one: name the folder where it really is.", param="paths"
            )
    return [Path(path) for path in given]
