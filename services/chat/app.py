"""The chat service's HTTP application: OpenAI's API, Tandem's own, and the page."""

from fastapi import FastAPI

from services.chat import problems
from services.chat.adapters_api import adapters_router
from services.chat.admission import Admission
from services.chat.answers_api import answers_router
from services.chat.auth import Authenticator, LocalOnly
from services.chat.completions_api import completions_router
from services.chat.documents_api import documents_router
from services.chat.examples_api import examples_router
from services.chat.gate import Gate
from services.chat.ingest_api import ingest_router
from services.chat.library import Library
from services.chat.metrics import Metrics
from services.chat.page_files import page_router
from services.chat.status_api import status_router
from services.chat.training_api import training_router
from services.ingest.runs import IngestRuns, RunLog
from services.trainer.overview import Overview
from tandem.bootstrap import Container

DESCRIPTION = """An assistant for documents that change, in a voice that does not. The API is OpenAI's, with one object
more: `tandem` says in which arm and with which adapter an answer was made, and from which passages."""


def create_app(container: Container, ingestion: IngestRuns | None = None) -> FastAPI:
    """Builds the application.

    Args:
        container: Every long-lived part; its owner closes it.
        ingestion: What ingests, where this process does.

    Raises:
        SettingsError: There are no API keys, and the address is not this machine's own.
    """
    settings = container.settings
    authenticator = Authenticator(settings.auth.api_keys)
    local = LocalOnly(settings) if authenticator.single_user else None
    metrics = Metrics()
    admission = Admission(settings.server.max_concurrency, settings.server.max_queue)

    # The interactive documentation would load its scripts from elsewhere; /openapi.json serves any viewer.
    app = FastAPI(title="Tandem", version="0.1.0", description=DESCRIPTION, docs_url=None, redoc_url=None)
    problems.install(app)
    app.add_middleware(
        Gate,
        authenticator=authenticator,
        local=local,
        metrics=metrics,
        max_body=settings.server.max_body_bytes,
        max_upload=settings.server.max_upload_bytes,
    )
    app.include_router(
        completions_router(container.assistant, admission, metrics, max_tokens=settings.model.max_model_len // 2)
    )
    app.include_router(answers_router(container.database, metrics))
    app.include_router(
        documents_router(Library(container.database), ingestion, max_upload=settings.server.max_upload_bytes)
    )
    app.include_router(ingest_router(RunLog(container.database), ingestion, server_paths=settings.ingest.server_paths))
    app.include_router(adapters_router(container))
    overview = Overview(container.database, settings)
    app.include_router(training_router(overview, settings.adapter.name))
    app.include_router(examples_router(overview.candidates))
    app.include_router(status_router(container, metrics, admission, ingestion=ingestion is not None))
    app.include_router(page_router())
    return app
