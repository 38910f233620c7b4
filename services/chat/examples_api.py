"""`/v1/examples`: style examples that feedback suggests, for a person to approve."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from services.chat.auth import Admin
from services.chat.body import Body, Plain
from training.candidates import Candidate, Candidates, Edit, made_up
from training.examples import ExampleSource, StyleExample


class SourceEdit(Body):
    """A source as it should be trained on."""

    model_config = ConfigDict(extra="forbid")
    title: Plain = Field("", max_length=1000)
    heading: Plain = Field("", max_length=1000)
    text: Plain = Field(min_length=1, max_length=20_000)


class ApproveRequest(Body):
    """What is changed of the example first; what is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"answer": "You get 31 days a year. [1]\n\nAnything else?"}]}
    )
    question: Plain | None = Field(None, min_length=1, max_length=8000)
    sources: list[SourceEdit] | None = Field(None, max_length=50)
    answer: Plain | None = Field(None, min_length=1, max_length=8000)
    invented_people: bool | None = Field(
        None, description="Whether you vouch that the people in it are invented: their names pass the guards then."
    )
    seen: str | None = Field(
        None,
        pattern="^[0-9a-f]{6,64}$",
        description="`digest` of the example that you looked at, or its beginning: another one is refused.",
    )

    @property
    def edit(self) -> Edit:
        """The same as training has it."""
        sources = None if self.sources is None else tuple(ExampleSource(**each.model_dump()) for each in self.sources)
        return Edit(
            question=self.question,
            sources=sources,
            answer=self.answer,
            invented_people=self.invented_people,
            seen=self.seen,
        )


class CandidateDetail(Candidate):
    """An example with a draft of it: other names and figures, the same ones in question, sources and answer."""

    made_up: StyleExample


class CandidateList(BaseModel):
    """Examples, oldest first."""

    object: str = "list"
    data: list[Candidate]


_REFUSED: dict[int | str, dict[str, Any]] = {422: {"description": "A guard refuses the example, for the reason told"}}


def examples_router(candidates: Candidates) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1/examples", tags=["examples"])

    @router.get("")
    async def examples(
        _: Admin,
        state: Literal["open", "approved", "refused"] | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    ) -> CandidateList:
        """The examples in a state, or all."""
        return CandidateList(data=await asyncio.to_thread(candidates.list, state, limit=limit))

    @router.get("/{example_id}")
    async def example(example_id: str, _: Admin) -> CandidateDetail:
        """One example by its id, or the beginning of it."""
        return await asyncio.to_thread(_detail, candidates, example_id)

    @router.post("/{example_id}/approve", responses=_REFUSED)
    async def approve(example_id: str, principal: Admin, body: ApproveRequest | None = None) -> Candidate:
        """Lets an example into the next run, under the name of who approves it, if the guards do."""
        edit = body.edit if body is not None else None
        return await asyncio.to_thread(candidates.approve, example_id, principal.user, edit)

    @router.post("/{example_id}/refuse")
    async def refuse(example_id: str, principal: Admin) -> Candidate:
        """Keeps an example out, also one that was approved before."""
        return await asyncio.to_thread(candidates.refuse, example_id, principal.user)

    return router


def _detail(candidates: Candidates, id: str) -> CandidateDetail:
    found = candidates.get(id)
    return CandidateDetail(**dict(found), made_up=made_up(found.example))
