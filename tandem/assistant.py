"""question -> rewrite -> retrieve -> authorise -> build_messages -> complete -> cite -> Answer."""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from tandem.adapters import ActiveAdapter
from tandem.canary import conversation_key
from tandem.choice import choose
from tandem.citations import AnswerFilter
from tandem.completions import Delta
from tandem.database import Database
from tandem.declines import is_decline
from tandem.draft import Draft, TextDelta, unless_declined
from tandem.errors import AdapterError, ModelUnavailable, TandemError
from tandem.evidence import Evidence, EvidenceSelector, Look
from tandem.prompt import DECLINE, PROMPT_VERSION, Messages, Source, build_messages, fence
from tandem.replicas import Replicas
from tandem.retriever import Retriever
from tandem.rewrite import standalone_question
from tandem.schemas import Answer, Ask, Message, Passage, uses_adapter, uses_retrieval
from tandem.settings import Settings
from tandem.style import StyleGuide
from tandem.tables import AnswerRow

log = logging.getLogger(__name__)

HISTORY_TURNS = 4
HISTORY_WORDS = 120  # a turn; a small context is for evidence


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
        draft = Draft(ask.model_copy(update={"as_of": ask.as_of or datetime.now(UTC).date()}))
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

    async def _generate(self, draft: Draft, question: str, history: Sequence[Message]) -> AsyncIterator[TextDelta]:
        """Asks the model, about the best sentence alone first where there is one, until it finds an answer."""
        turns = [turn.model_copy(update={"content": _shorten(turn.content)}) for turn in history]
        # One fence an answer: what the model was asked for odds about, it has read already when it answers.
        prompt = partial(_prompt, draft.ask, question, turns, fence())
        best = await self._choose(draft, prompt)
        for alone in (best, None) if best is not None else (None,):
            shown = (alone.passage,) if alone is not None else draft.passages
            cleaner = AnswerFilter(len(shown), [passage.url for passage in draft.passages])
            deltas = self._stream(draft, prompt(shown))
            async for text in draft.take(deltas if alone is None else unless_declined(deltas), cleaner):
                yield text
            if draft.pieces:
                if alone is not None:
                    draft.read_alone, draft.evidence = alone.passage.quote, draft.evidence.led_by(alone)
                break
        draft.declined = is_decline("".join(draft.pieces))

    async def _choose(self, draft: Draft, prompt: Callable[[Sequence[Passage]], Messages]) -> Look | None:
        """What the model is asked about alone: the best by the search, or by search and adapter."""
        looks = draft.evidence.alone
        if len(looks) < 2 or not uses_adapter(draft.ask.arm):
            return looks[0] if looks else None
        async with self._adapters.speaker(_conversation(draft.ask)) as adapter:
            if adapter is None:
                return looks[0]
            asked = (self._completions.lead(prompt([look.passage]), adapter.served, DECLINE) for look in looks)
            told = await asyncio.gather(*asked, return_exceptions=True)
        draft.clock("choose")
        for fault in told:
            if isinstance(fault, BaseException) and not isinstance(fault, TandemError):
                raise fault
        leads = [lead for lead in told if isinstance(lead, float)]
        # An endpoint that fails says so when it is asked for the answer; one that tells no odds need not.
        if len(leads) < len(looks):
            return looks[0]
        return looks[choose([look.score for look in looks], leads, [look.odds for look in looks])]

    async def _stream(self, draft: Draft, messages: Messages) -> AsyncGenerator[Delta]:
        """Streams from one adapter where the arm wants one, else from the base model."""
        sampling = draft.ask.sampling
        if uses_adapter(draft.ask.arm):
            async with self._adapters.speaker(_conversation(draft.ask)) as draft.adapter:
                try:
                    if draft.adapter is not None:
                        if uses_retrieval(draft.ask.arm):
                            bias = self._adapters.bias(draft.adapter, draft.evidence.odds)
                            sampling = sampling.model_copy(update={"bias": bias})
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

    def _blame(self, draft: Draft) -> None:
        """Notes which adapter failed, if one should have spoken: a canary is judged by that, too."""
        if uses_adapter(draft.ask.arm) and draft.failed is None:
            draft.failed = draft.adapter or self._adapters.meant_for(_conversation(draft.ask))

    async def _keep_broken(self, draft: Draft, fault: TandemError) -> None:
        """Stores the receipt of an answer that an adapter did not bring to its end; the caller gets the error."""
        if draft.failed is None:
            return
        draft.adapter, draft.degraded = None, "broken"
        fault.degraded = draft.degraded  # no answer is yielded that could say so
        try:
            await self._finish(draft)
        except TandemError as exc:  # the error of the model says more to who asked
            log.warning("the receipt of a broken answer is not stored: %s", exc.message)

    def _decline(self, draft: Draft) -> TextDelta:
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

    def _passages_only(self, draft: Draft) -> TextDelta:
        quotes = "\n\n".join(f"{passage.quote} [{passage.n}]" for passage in draft.passages)
        text = f"The model is not answering just now. These passages are the closest to the question:\n\n{quotes}"
        draft.degraded = "retrieval_only"
        draft.adapter = None
        draft.pieces.append(text)
        draft.cited = [passage.n for passage in draft.passages]
        draft.clock("first_token")
        return TextDelta(text=text)

    async def _finish(self, draft: Draft) -> Answer:
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


def _prompt(ask: Ask, question: str, turns: Sequence[Message], marker: str, shown: Sequence[Passage]) -> Messages:
    sources = None
    if uses_retrieval(ask.arm):
        sources = [Source(passage.title, passage.heading.rsplit(" > ", 1)[-1], passage.quote) for passage in shown]
    return build_messages(question, sources, history=turns, instructions=ask.instructions, marker=marker)


def _conversation(ask: Ask) -> str:
    first = next(turn.content for turn in ask.messages if turn.role == "user")
    return conversation_key(ask.principal.user, first, ask.conversation)


def _shorten(text: str) -> str:
    words = text.split()
    return text if len(words) <= HISTORY_WORDS else " ".join(words[:HISTORY_WORDS]) + " ..."
