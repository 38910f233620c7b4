"""How the service is: `/healthz`, `/readyz`, `/metrics`, `/v1/signals`, and who the caller is."""

import asyncio

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from eval.signals import Signal, compute_signals
from services.chat.admission import Admission
from services.chat.auth import Admin, CurrentUser
from services.chat.metrics import Metrics
from services.chat.readiness import Readiness, ReadinessProbe
from tandem.bootstrap import Container


class SignalList(BaseModel):
    """All signals, firing ones first."""

    object: str = "list"
    data: list[Signal]


class Caller(BaseModel):
    """Who the key stands for, and what the page may offer them."""

    user: str
    groups: list[str]
    admin: bool
    ingestion: bool
    server_paths: bool


def status_router(container: Container, metrics: Metrics, admission: Admission, *, ingestion: bool) -> APIRouter:
    """The routes.

    Args:
        container: The parts that are asked how they are.
        metrics: What Prometheus scrapes.
        admission: Whose queue is shown in the metrics.
        ingestion: Whether this process ingests.
    """
    router = APIRouter(tags=["status"])
    probe = ReadinessProbe(container)

    @router.get("/healthz")
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"service": "tandem", "status": "alive"}

    @router.get("/readyz", responses={503: {"model": Readiness, "description": "The database or the index is missing"}})
    async def ready() -> JSONResponse:
        """Whether questions can be answered; `degraded` means with passages only, because the model is missing."""
        state = await probe.check()
        return JSONResponse(state.model_dump(), 503 if state.status == "unavailable" else 200)

    @router.get("/metrics", response_class=Response)
    async def scrape() -> Response:
        """Prometheus' text format."""
        metrics.in_flight.set(admission.running)
        metrics.queued.set(admission.waiting)
        metrics.adapter(await asyncio.to_thread(probe.adapter))
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/signals")
    async def early_signs(_: Admin) -> SignalList:
        """Early signs of failure, each with its threshold and what to do. They name documents, so for admins only."""
        found = await asyncio.to_thread(compute_signals, container.database, container.registry, container.settings)
        return SignalList(data=found)

    @router.get("/v1/me")
    async def me(principal: CurrentUser) -> Caller:
        """Who the caller is."""
        return Caller(
            user=principal.user,
            groups=sorted(principal.groups),
            admin=principal.admin,
            ingestion=ingestion,
            server_paths=ingestion and container.settings.ingest.server_paths,
        )

    return router
