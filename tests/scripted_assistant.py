"""An assistant that says what a test tells it to, arm by arm; for forcing every kind of failure."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date

from tandem.declines import is_decline
from tandem.schemas import Answer, Arm, Ask, Passage

DAY = date(2026, 3, 1)


def passage(n: int, quote: str, document: str = "travel.md", version: str = "travel-2", text: str = "") -> Passage:
    return Passage(
        n=n, document_id=document, version_id=version, chunk_id=f"c{n}", title="", quote=quote, text=text or quote
    )


class ScriptedAssistant:
    """Says `script[arm]` with `passages` in the prompt; an exception in the script is raised, a number is slept."""

    def __init__(
        self,
        script: Mapping[Arm, str | Exception | float],
        passages: Sequence[Passage] = (),
        degraded: str | None = None,
        read_alone: str = "",
    ) -> None:
        self.script = script
        self.read_alone = read_alone
        self.passages = tuple(passages)
        self.degraded = degraded
        self.asked: list[Ask] = []
        self.busy = self.busiest = 0

    async def answer(self, ask: Ask) -> AsyncIterator[str | Answer]:
        self.asked.append(ask)
        said = self.script[ask.arm]
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await asyncio.sleep(said if isinstance(said, float) else 0)
        finally:
            self.busy -= 1
        if isinstance(said, Exception):
            raise said
        text = str(said)
        yield text
        grounded = ask.arm in ("tandem", "rag")
        passages = self.passages if grounded else ()
        yield Answer(
            answer_id=f"ans-{len(self.asked)}",
            text=text,
            arm=ask.arm,
            adapter="house-style@0123456789ab" if ask.arm in ("tandem", "style") else None,
            as_of=ask.as_of or DAY,
            degraded=self.degraded,
            declined=is_decline(text),
            passages=passages,
            read_alone=self.read_alone if grounded else "",
            citations=tuple(passage for passage in passages if f"[{passage.n}]" in text),
        )
