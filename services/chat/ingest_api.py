"""`/v1/ingest/runs`: starting ingest runs and following them."""

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from services.chat.auth import Admin
from services.chat.body import Body
from services.ingest.runs import IngestRuns, Run, RunLog
from tandem.errors import Forbidden, InputError, Unavailable


class RunRequest(Body):
    """What to ingest, by its path on the server."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"paths": ["/srv/policies"], "dry_run": True}]}
    )
    paths: list[str] = Field(min_length=1, max_length=100)
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
        if not server_paths:
            raise Forbidden("This server takes no paths (TANDEM_INGEST__SERVER_PATHS=false): upload documents.")
        if ingestion is None:
            raise Unavailable("This process does not ingest: send this to the ingest service.")
        for path in body.paths:
            if not path.strip() or "\x00" in path or not Path(path).is_absolute():
                raise InputError(
                    f"{path[:80]!r} is no absolute path: the server has another working folder.", param="paths"
                )
        groups = None if body.groups is None else tuple(body.groups)
        run = ingestion.start([Path(path) for path in body.paths], principal.user, dry_run=body.dry_run, groups=groups)
        if body.wait:
            run = await ingestion.wait(run.id)
            response.status_code = 200
        return run

    @router.get("")
    async def runs(_: Admin, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> RunList:
        """The latest runs."""
        return RunList(data=await ingestion.latest(limit) if ingestion else await asyncio.to_thread(log.latest, limit))

    @router.get("/{run_id}")
    async def run(run_id: str, _: Admin) -> Run:
        """One run, with its progress while it runs and its report afterwards."""
        return await ingestion.get(run_id) if ingestion else await asyncio.to_thread(log.get, run_id)

    return router
