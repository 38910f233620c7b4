"""`/v1/documents`: what there is to read, what changed, and for admins adding and removing."""

import asyncio
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from services.chat.auth import Admin, CurrentUser
from services.chat.library import Difference, DocumentDetail, DocumentSummary, Library, VersionSummary
from services.chat.problems import describe
from services.ingest.runs import IngestRuns
from tandem.errors import InputError, Unavailable
from tandem.schemas import Metadata

FIELDS = ("title", "owner", "groups", "effective_from", "effective_until", "version", "source_url", "trust")
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string", "description": "Its id; by default the file's name."},
                        "groups": {"type": "string", "description": "Who may read it, separated by commas."},
                        "effective_from": {"type": "string", "format": "date"},
                        "effective_until": {"type": "string", "format": "date"},
                        **{name: {"type": "string"} for name in ("title", "owner", "version", "source_url", "trust")},
                    },
                }
            }
        },
    }
}


class DocumentList(BaseModel):
    """Documents that the caller may read."""

    object: str = "list"
    data: list[DocumentSummary]


class VersionList(BaseModel):
    """Versions of a document that the caller may read, newest first."""

    object: str = "list"
    data: list[VersionSummary]


def documents_router(library: Library, ingestion: IngestRuns | None, *, max_upload: int) -> APIRouter:
    """The routes.

    Args:
        library: What a person may see.
        ingestion: What adds and removes; None where another process does.
        max_upload: Largest file, in bytes.
    """
    router = APIRouter(prefix="/v1/documents", tags=["documents"])

    @router.get("")
    async def documents(principal: CurrentUser) -> DocumentList:
        """The documents that the caller may read, each by the version in force."""
        return DocumentList(data=await asyncio.to_thread(library.documents, principal))

    # Ids are paths and may hold slashes, so the longer routes come first.
    @router.get("/{document_id:path}/versions")
    async def versions(document_id: str, principal: CurrentUser) -> VersionList:
        """All versions of a document."""
        return VersionList(data=await asyncio.to_thread(library.versions, document_id, principal))

    @router.get("/{document_id:path}/diff")
    async def diff(
        document_id: str,
        principal: CurrentUser,
        older: Annotated[int | None, Query(alias="from", ge=0, lt=2**31)] = None,
        newer: Annotated[int | None, Query(alias="to", ge=0, lt=2**31)] = None,
    ) -> Difference:
        """What changed between two versions; by default the last two."""
        return await asyncio.to_thread(library.difference, document_id, older, newer, principal)

    @router.get("/{document_id:path}")
    async def document(document_id: str, principal: CurrentUser) -> DocumentDetail:
        """One document with its text."""
        return await asyncio.to_thread(library.document, document_id, principal)

    @router.delete("/{document_id:path}")
    async def delete(document_id: str, principal: Admin) -> dict[str, Any]:
        """Deletes a document, its text and its vectors, and reports what each store held of it."""
        await asyncio.to_thread(library.document, document_id, principal)  # a 404 before anything is touched
        report = await _ingesting(ingestion).delete(document_id, principal.user)
        return report.model_dump(mode="json")

    @router.post("", status_code=201, openapi_extra=_UPLOAD)
    async def upload(request: Request, principal: Admin) -> dict[str, Any]:
        """Adds a document, or a new version of one, from an uploaded file. Fields that are sent win over the file's."""
        runs = _ingesting(ingestion)
        # The form is read here and not by FastAPI, so that nobody but an admin can make the server store a file.
        async with request.form(max_files=1, max_fields=len(FIELDS) + 2) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InputError("The request holds no file: send a form with the field 'file'.", param="file")
            if file.size is not None and file.size > max_upload:
                raise InputError(f"The file is larger than the {max_upload:,} bytes taken here.", param="file")
            name, metadata = _text(form, "name") or file.filename or "", _metadata(form)
            data = await file.read()
        report = await runs.upload(name, data, metadata, principal.user)
        return report.model_dump(mode="json")

    return router


def _ingesting(ingestion: IngestRuns | None) -> IngestRuns:
    if ingestion is None:
        raise Unavailable("This process does not ingest: send this to the ingest service.")
    return ingestion


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""


def _metadata(form: FormData) -> Metadata | None:
    """The fields that were sent; None when there are none, so that the file's own metadata counts."""
    for name in form:
        if name not in (*FIELDS, "file", "name"):
            raise InputError(f"An upload has no field {name!r}; it has {', '.join(FIELDS)}.", param=name)
    given: dict[str, Any] = {name: text for name in FIELDS if (text := _text(form, name))}
    if not given:
        return None
    if "groups" in given:
        given["groups"] = tuple(group.strip() for group in given["groups"].split(",") if group.strip())
    for name in ("effective_from", "effective_until"):
        if name in given:
            try:
                given[name] = date.fromisoformat(given[name])
            except ValueError as exc:
                wrong = f"{name} is not a day: {given[name][:40]!r}; write it as YYYY-MM-DD."
                raise InputError(wrong, param=name) from exc
    try:
        return Metadata(**given)
    except ValidationError as exc:
        message, param, _ = describe(exc.errors())
        raise InputError(message, param=param) from exc
