"""question -> rewrite -> retrieve -> authorise -> build_messages -> complete -> cite -> Answer."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tandem.adapters import ActiveAdapter
from tandem.canary import conversation_key
from tandem.citations import AnswerFilter
from tandem.completions import Delta
from tandem.database import Database
from tandem.declines import is_decline, opens_declining
from tandem.errors import AdapterError, ModelUnavailable, TandemError
from tandem.evidence import Evidence, EvidenceSelector
from tandem.prompt import DECLINE, PROMPT_VERSION, Source, build_messages
from tandem.registry import AdapterRef
from tandem.replicas import Replicas
from tandem.retriever import Retriever
from tandem.rewrite import standalone_question
from tandem.schemas import Answer, Ask, Message, Passage, Usage, Value, uses_adapter, uses_retrieval
from tandem.settings import Settings
from tandem.style import StyleGuide
from tandem.tables import AnswerRow

log = logging.getLogger(__name__)

HISTORY_TURNS = 4
HISTORY_WORDS = 120  # a turn; a small context is for evidence


class TextDelta(Value):
    """The next piece of an answer, already cleaned."""

    text: str


@dataclass
class _Draft:
    """An answer in the making."""

    ask: Ask
    started: float = field(default_factory=time.perf_counter)
    timings: dict[str, float] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    read_alone: str = ""
    adapter: AdapterRef | None = None
    degraded: str | None = None
    failed: AdapterRef | None = None
    pieces: list[str] = field(default_factory=list)
    cited: list[int] = field(default_factory=list)
    removed: int = 0
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"
    declined: bool = False

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All that was chosen, whatever of it the model was asked about."""
        return self.evidence.passages

    def clock(self, stage: str) -> None:
        self.timings[stage] = round(time.perf_counter() - self.started, 4)


class Assistant:
    """Answers questions in one of the four arms."""

    def __init__(
        self,
        retriever: Retriever,
        evidence: EvidenceSelector,
        completions: Replicas,
        adapters: ActiveAdapter,
        database: Database,
        style: StyleGuide,
        settings: Settings,
    ) -> None:
        self._retriever = retriever
        self._evidence = evidence
        self._completions = completions
        self._adapters = adapters
        self._database = database
        self._style = style
        self._settings = settings

    async def answer(self, ask: Ask) -> AsyncIterator[TextDelta | Answer]:
        """Answers, piece by piece.

        Args:
            ask: The question; its last message is the user's.

        Yields:
            Cleaned pieces of text, and last of all the whole `Answer`, whose receipt is then in the database.

        Raises:
            ModelUnavailable: No model and nothing retrieved to show instead.
            IndexUnavailable: Qdrant does not answer; an ungrounded answer is never given instead.
            DatabaseUnavailable: The state database does not answer.
        """
        draft = _Draft(ask.model_copy(update={"as_of": ask.as_of or datetime.now(UTC).date()}))
        history = [turn for turn in ask.messages[:-1] if turn.role != "system"][-HISTORY_TURNS:]
        question = ask.messages[-1].content
        if uses_retrieval(ask.arm):
            search_text = standalone_question(question, history)
            draft.evidence, best = await asyncio.to_thread(self._find, draft.ask, search_text)
            draft.clock("retrieve")
            if best < self._settings.retrieval.min_similarity:
                yield self._decline(draft)
                yield await self._finish(draft)
                return
        try:
            async for piece in self._generate(draft, question, history):
                yield piece
        except (AdapterError, ModelUnavailable) as exc:
            self._blame(draft)
            if not draft.passages or draft.pieces or isinstance(exc, AdapterError):
                await self._keep_broken(draft, exc)
                raise
            log.warning("the model does not answer; passages are shown instead", exc_info=True)
            yield self._passages_only(draft)
        yield await self._finish(draft)

    def _find(self, ask: Ask, search_text: str) -> tuple[Evidence, float]:
        """Retrieves and cuts to evidence; blocking, so it runs in a thread. Returns it and the best similarity."""
        assert ask.as_of is not None
        passages = self._retriever.retrieve(search_text, ask.principal, ask.as_of, ask.top_k)
        if not passages:
            return Evidence(), -1.0
        return self._evidence.select(search_text, passages), max(passage.similarity for passage in passages)

    async def _generate(self, draft: _Draft, question: str, history: Sequence[Message]) -> AsyncIterator[TextDelta]:
        """Asks the model, about the best sentence alone first where there is one, until it finds an answer."""
        turns = [turn.model_copy(update={"content": _shorten(turn.content)}) for turn in history]
        best = draft.evidence.best
        for alone in (best, None) if best is not None else (None,):
            look = (alone,) if alone is not None else draft.passages
            sources = None
            if uses_retrieval(draft.ask.arm):
                sources = [Source(p.title, p.heading.rsplit(" > ", 1)[-1], p.quote) for p in look]
            messages = build_messages(question, sources, history=turns, instructions=draft.ask.instructions)
            cleaner = AnswerFilter(len(look), [passage.url for passage in draft.passages])
            deltas = self._stream(draft, messages)
            async for text in _cleaned(draft, deltas if alone is None else _unless_declined(deltas), cleaner):
                yield text
            if draft.pieces:
                draft.read_alone = alone.quote if alone is not None else ""
                break
        draft.declined = is_decline("".join(draft.pieces))

    async def _stream(self, draft: _Draft, messages: list[dict[str, str]]) -> AsyncGenerator[Delta]:
        """Streams from one adapter where the arm wants one, else from the base model."""
        sampling = draft.ask.sampling
        if uses_adapter(draft.ask.arm):
            async with self._adapters.speaker(_conversation(draft.ask)) as draft.adapter:
                try:
                    if draft.adapter is not None:
                        if uses_retrieval(draft.ask.arm):
                            sampling = sampling.model_copy(update={"bias": self._adapters.bias(draft.adapter)})
                        async for delta in self._completions.stream(messages, draft.adapter.served, sampling):
                            yield delta
                        return
                except AdapterError as exc:
                    if draft.pieces:  # the base model must not finish what an adapter began
                        raise
                    log.warning("%s", exc.message)
                    assert draft.adapter is not None
                    self._adapters.forget(draft.adapter)
            self._blame(draft)
            draft.adapter, draft.degraded = None, "no_adapter"
        async for delta in self._completions.stream(messages, self._settings.model.name, draft.ask.sampling):
            yield delta

    def _blame(self, draft: _Draft) -> None:
        """Notes which adapter failed, if one should have spoken: a canary is judged by that, too."""
        if uses_adapter(draft.ask.arm) and draft.failed is None:
            draft.failed = draft.adapter or self._adapters.meant_for(_conversation(draft.ask))

    async def _keep_broken(self, draft: _Draft, fault: TandemError) -> None:
        """Stores the receipt of an answer that an adapter did not bring to its end; the caller gets the error."""
        if draft.failed is None:
            return
        draft.adapter, draft.degraded = None, "broken"
        fault.degraded = draft.degraded  # no answer is yielded that could say so
        try:
            await self._finish(draft)
        except TandemError as exc:  # the error of the model says more to who asked
            log.warning("the receipt of a broken answer is not stored: %s", exc.message)

    def _decline(self, draft: _Draft) -> TextDelta:
        """Says that nothing was found, and names the nearest documents instead of guessing."""
        titles = list(dict.fromkeys(f"{passage.title} [{passage.n}]" for passage in draft.passages))[:3]
        text = DECLINE + (f" The nearest are: {', '.join(titles)}." if titles else "")
        if uses_adapter(draft.ask.arm) and self._style.closing_line:
            text += f"\n\n{self._style.closing_line}"
        draft.pieces.append(text)
        draft.cited = [passage.n for passage in draft.passages if f"[{passage.n}]" in text]
        draft.declined = True
        draft.clock("first_token")
        return TextDelta(text=text)

    def _passages_only(self, draft: _Draft) -> TextDelta:
        quotes = "\n\n".join(f"{passage.quote} [{passage.n}]" for passage in draft.passages)
        text = f"The model is not answering just now. These passages are the closest to the question:\n\n{quotes}"
        draft.degraded = "retrieval_only"
        draft.adapter = None
        draft.pieces.append(text)
        draft.cited = [passage.n for passage in draft.passages]
        draft.clock("first_token")
        return TextDelta(text=text)

    async def _finish(self, draft: _Draft) -> Answer:
        draft.clock("total")
        cited = set(draft.cited)
        assert draft.ask.as_of is not None
        answer = Answer(
            answer_id=f"ans_{uuid.uuid4().hex}",
            text="".join(draft.pieces),
            arm=draft.ask.arm,
            adapter=draft.adapter.served if draft.adapter else None,
            as_of=draft.ask.as_of,
            degraded=draft.degraded,
            failed_adapter=draft.failed.served if draft.failed else None,
            declined=draft.declined,
            citations=tuple(passage for passage in draft.passages if passage.n in cited),
            passages=draft.passages,
            read_alone=draft.read_alone,
            removed_markers=draft.removed,
            usage=draft.usage,
            finish_reason=draft.finish_reason,
            timings=draft.timings,
        )
        await asyncio.to_thread(self._save, draft.ask, answer)
        return answer

    def _save(self, ask: Ask, answer: Answer) -> None:
        """Writes the receipt: what was asked, what was given to the model, what it said."""
        receipt = answer.model_dump(mode="json")
        receipt["ask"] = ask.model_dump(mode="json", exclude={"principal"})
        receipt["prompt_version"] = PROMPT_VERSION
        with self._database.session() as session:
            session.add(
                AnswerRow(
                    id=answer.answer_id,
                    user=ask.principal.user,
                    question=ask.messages[-1].content,
                    arm=answer.arm,
                    adapter=answer.adapter,
                    text=answer.text,
                    receipt=receipt,
                    created_at=datetime.now(UTC),
                )
            )


async def _cleaned(draft: _Draft, deltas: AsyncIterator[Delta], cleaner: AnswerFilter) -> AsyncIterator[TextDelta]:
    """What may be shown of a completion, which the draft takes in."""
    async for delta in deltas:
        text = cleaner.feed(delta.text) if delta.text else ""
        if text:
            if not draft.pieces:
                draft.clock("first_token")
            draft.pieces.append(text)
            yield TextDelta(text=text)
        draft.usage = delta.usage or draft.usage
        draft.finish_reason = delta.finish_reason or draft.finish_reason
    rest = cleaner.close()
    if rest:
        draft.pieces.append(rest)
        yield TextDelta(text=rest)
    draft.cited, draft.removed = cleaner.cited, cleaner.removed


async def _unless_declined(deltas: AsyncGenerator[Delta]) -> AsyncGenerator[Delta]:
    """A completion, held back until it is clear that it does not decline; one that does is ended, and nothing is left.

    What is held back is a few tokens: hardly any answer begins as the declining sentence does.
    """
    held: str | None = ""
    async with aclosing(deltas):  # else it would go on, and keep its adapter from being retired
        async for delta in deltas:
            if held is not None:
                held += delta.text
                declines = opens_declining(held)
                if declines:
                    return
                if declines is None and delta.finish_reason is None:
                    continue
                delta, held = delta.model_copy(update={"text": held}), None
            yield delta


def _conversation(ask: Ask) -> str:
    first = next(turn.content for turn in ask.messages if turn.role == "user")
    return conversation_key(ask.principal.user, first, ask.conversation)


def _shorten(text: str) -> str:
    words = text.split()
    return text if len(words) <= HISTORY_WORDS else " ".join(words[:HISTORY_WORDS]) + " ..."
