"""`/v1/training`: the schedule, the runs and their logs, and asking for a run."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from services.chat.auth import Admin
from services.chat.body import Body
from services.trainer.overview import Overview, TrainingStatus
from tandem.errors import Unavailable
from training.runs import LoggedEvent, Run


class TrainingRequest(Body):
    """A run that is wanted now; it has the examples of the settings, and those that were approved."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})


class TrainingRunList(BaseModel):
    """Runs, newest first."""

    object: str = "list"
    data: list[Run]


class TrainingLog(BaseModel):
    """Lines of a run's log, oldest first."""

    object: str = "list"
    data: list[LoggedEvent]


def training_router(overview: Overview, adapter: str) -> APIRouter:
    """The routes. The runs are made by the trainer service, which finds in the database what is wanted here.

    Args:
        overview: Reads and writes the state.
        adapter: The name of the adapter that a run trains.
    """
    router = APIRouter(prefix="/v1/training", tags=["training"])

    @router.get("")
    async def status(_: Admin) -> TrainingStatus:
        """When the next run is due, what there is for it, and how the last one ended."""
        return await asyncio.to_thread(overview.status, datetime.now(UTC))

    @router.get("/runs")
    async def runs(_: Admin, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> TrainingRunList:
        """The latest runs, whoever made them."""
        return TrainingRunList(data=await asyncio.to_thread(overview.runs.latest, limit))

    @router.post("/runs", status_code=202)
    async def start(principal: Admin, _: TrainingRequest | None = None) -> Run:
        """Has the trainer make a run now. One is made at a time: while one waits or runs, this is refused with 429."""
        return await asyncio.to_thread(_request, overview, adapter, principal.user)

    @router.get("/runs/{run_id}")
    async def run(run_id: str, _: Admin) -> Run:
        """One run by its id, or the beginning of it; with its newest step while it runs, its verdict afterwards."""
        return await asyncio.to_thread(overview.runs.get, run_id)

    @router.post("/runs/{run_id}/cancel", status_code=202)
    async def cancel(run_id: str, principal: Admin) -> Run:
        """Has the trainer end a run within seconds; one that has its verdict by then keeps it."""
        return await asyncio.to_thread(overview.runs.cancel, run_id, principal.user, at=datetime.now(UTC))

    @router.get("/runs/{run_id}/log")
    async def log(
        run_id: str,
        _: Admin,
        after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Only lines that come after this one.")] = 0,
        limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
    ) -> TrainingLog:
        """The log of a run. It grows while the run goes on, and stays afterwards."""
        return TrainingLog(data=await asyncio.to_thread(overview.runs.events, run_id, after=after, limit=limit))

    return router


def _request(overview: Overview, adapter: str, user: str) -> Run:
    now = datetime.now(UTC)
    status = overview.status(now)
    if not status.trainer:
        seen = status.schedule.looked_at
        when = f"it last looked at {seen:%Y-%m-%d %H:%M} UTC" if seen else "none ever looked at this database"
        raise Unavailable(f"No trainer service is running ({when}): start it, or train with `tandem train`.")
    return overview.runs.request(adapter, user, at=now)
