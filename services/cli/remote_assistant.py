"""A running server as an assistant: evaluation and diagnosis ask it exactly as any client does."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import openai
from openai import AsyncOpenAI

from tandem.declines import is_decline
from tandem.draft import TextDelta
from tandem.errors import TandemError, Unavailable
from tandem.schemas import MODEL_NAMES, Answer, Ask, Passage, Usage

_MODELS = {arm: model for model, arm in MODEL_NAMES.items()}


class RemoteAssistant:
    """Answers through `POST /v1/chat/completions` with the official client.

    Args:
        url: The server's address, without a path.
        key: Its API key; any text where it wants none.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self._client = AsyncOpenAI(base_url=f"{url}/v1", api_key=key or "none", max_retries=2, timeout=300.0)

    async def __aenter__(self) -> "RemoteAssistant":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def answer(self, ask: Ask) -> AsyncIterator[TextDelta | Answer]:
        """Streams the answer, the `Answer` last.

        Raises:
            TandemError: The server refused; its own sentence.
            Unavailable: The server does not answer.
        """
        extension: dict[str, Any] = {"top_k": ask.top_k, "as_of": ask.as_of.isoformat() if ask.as_of else None}
        if not ask.principal.admin:  # an admin may ask with fewer rights than their own
            extension["groups"] = sorted(ask.principal.groups)
        messages: Any = [turn.model_dump() for turn in ask.messages]
        pieces: list[str] = []
        receipt: dict[str, Any] = {}
        usage = Usage()
        try:
            stream = await self._client.chat.completions.create(
                model=_MODELS[ask.arm],
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                temperature=ask.sampling.temperature,
                max_tokens=ask.sampling.max_tokens,
                extra_body={"tandem": {name: value for name, value in extension.items() if value is not None}},
            )
            async for chunk in stream:
                receipt = (chunk.model_extra or {}).get("tandem") or receipt
                if chunk.usage:
                    usage = Usage(
                        prompt_tokens=chunk.usage.prompt_tokens, completion_tokens=chunk.usage.completion_tokens
                    )
                piece = chunk.choices[0].delta.content if chunk.choices else None
                if piece:
                    pieces.append(piece)
                    yield TextDelta(text=piece)
        except openai.APIStatusError as exc:
            raise TandemError(exc.message) from exc
        except openai.APIConnectionError as exc:
            raise Unavailable(f"The Tandem server does not answer: {exc}.") from exc
        text = "".join(pieces)
        yield Answer(
            answer_id=receipt["answer_id"],
            text=text,
            arm=ask.arm,
            adapter=receipt["adapter"],
            as_of=receipt["as_of"],
            degraded=receipt["degraded"],
            declined=is_decline(text),
            citations=tuple(_passage(row) for row in receipt["citations"]),
            passages=tuple(_passage(row) for row in receipt["passages"]),
            usage=usage,
        )


def _passage(row: dict[str, Any]) -> Passage:
    # The contract's passage names neither version nor chunk by id.
    return Passage(version_id="", chunk_id="", **row)
