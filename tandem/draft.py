"""An answer in the making."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from tandem.citations import AnswerFilter
from tandem.completions import Delta
from tandem.declines import opens_declining
from tandem.evidence import Evidence
from tandem.registry import AdapterRef
from tandem.schemas import Ask, Passage, Usage, Value


class TextDelta(Value):
    """The next piece of an answer, already cleaned."""

    text: str


@dataclass
class Draft:
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

    async def take(self, deltas: AsyncIterator[Delta], cleaner: AnswerFilter) -> AsyncIterator[TextDelta]:
        """Takes a completion in, and yields what may be shown of it."""
        async for delta in deltas:
            text = cleaner.feed(delta.text) if delta.text else ""
            if text:
                if not self.pieces:
                    self.clock("first_token")
                self.pieces.append(text)
                yield TextDelta(text=text)
            self.usage = delta.usage or self.usage
            self.finish_reason = delta.finish_reason or self.finish_reason
        rest = cleaner.close()
        if rest:
            self.pieces.append(rest)
            yield TextDelta(text=rest)
        self.cited, self.removed = cleaner.cited, cleaner.removed


async def unless_declined(deltas: AsyncGenerator[Delta]) -> AsyncGenerator[Delta]:
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
