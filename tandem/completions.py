"""The client of the model server: any OpenAI-compatible endpoint; adapters where it is vLLM.

Third-party errors are mapped here and nowhere else.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tandem.errors import AdapterError, Forbidden, InputError, ModelUnavailable
from tandem.schemas import Sampling, Usage, Value

_MESSAGE_CHARS = 300
_LIKELIEST = 20  # first tokens whose odds are asked for: all that the API tells
_ADAPTER_TIMEOUT = 10.0  # seconds; loading takes under one, and answers wait for it


class Delta(Value):
    """What came next of a completion. The last one carries the reason for the end, and the usage if it is told."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


class Completion(Value):
    """A whole completion."""

    text: str
    finish_reason: str = "stop"
    usage: Usage = Usage()


class Completions:
    """One pooled connection to an endpoint.

    Args:
        base_url: Ends in /v1.
        api_key: Sent as bearer token.
        timeout: Seconds without a byte before a completion fails.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        self.base_url = base_url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=5.0),
            limits=httpx.Limits(max_connections=256, max_keepalive_connections=32),
            trust_env=False,  # a proxy between two processes of one machine is never wanted
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def stream(
        self, messages: Sequence[Mapping[str, str]], model: str, sampling: Sampling
    ) -> AsyncIterator[Delta]:
        """Completes a conversation, piece by piece. Closing the iterator ends the generation.

        Args:
            messages: In OpenAI's form.
            model: The base model's name, or an adapter's.
            sampling: How to decode.

        Raises:
            ModelUnavailable: The endpoint does not answer, fails, or falls silent.
            AdapterError: It knows no such adapter.
            InputError: It refuses the request; too long a conversation, for one.
        """
        body = self._body(messages, model, sampling) | {"stream": True, "stream_options": {"include_usage": True}}
        ended = False
        async with self._mapped(), self._client.stream("POST", self._url("chat/completions"), json=body) as response:
            if response.status_code != 200:
                raise _refusal(response.status_code, await response.aread(), model)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    return
                delta = _delta(data, model)
                ended = ended or delta.finish_reason is not None
                yield delta
        if not ended:
            raise ModelUnavailable("The model server ended the answer in the middle. Ask again in a moment.")

    async def complete(self, messages: Sequence[Mapping[str, str]], model: str, sampling: Sampling) -> Completion:
        """Completes a conversation at once. Raises what `stream` raises."""
        data = await self._call("POST", "chat/completions", self._body(messages, model, sampling), model)
        try:
            choice = data["choices"][0]
            return Completion(
                text=choice["message"].get("content") or "",
                finish_reason=choice.get("finish_reason") or "stop",
                usage=_usage(data.get("usage")) or Usage(),
            )
        except (KeyError, IndexError, TypeError, AttributeError) as exc:
            raise ModelUnavailable(
                f"{self.base_url} does not speak OpenAI's API: a completion came without text."
            ) from exc

    async def lead(self, messages: Sequence[Mapping[str, str]], model: str, opening: str) -> float | None:
        """How far one beginning of a completion is ahead of any other, before any logit is biased.

        Args:
            messages: In OpenAI's form.
            model: The base model's name, or an adapter's.
            opening: A text; a first token that it begins with is for it.

        Returns:
            Nats, below 0 where another first token is likelier, and no less than what the likeliest few tokens tell;
            None where the endpoint tells no odds.

        Raises:
            ModelUnavailable, AdapterError, InputError: As `stream`.
        """
        body = self._body(messages, model, Sampling(max_tokens=1)) | {"logprobs": True, "top_logprobs": _LIKELIEST}
        data = await self._call("POST", "chat/completions", body, model)
        try:
            told = data["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            odds = [(str(each["token"]), float(each["logprob"])) for each in told]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        return _lead(odds, opening)

    async def models(self) -> list[str]:
        """Names of the models and adapters that the endpoint serves. Raises what `stream` raises."""
        data = await self._call("GET", "models", None, "")
        return [str(row.get("id")) for row in data.get("data") or [] if isinstance(row, dict)]

    async def load_adapter(self, name: str, path: Path) -> None:
        """Has vLLM load an adapter; one that is loaded already is fine.

        Args:
            name: What it is served under; never used for other weights again.
            path: Its folder, as the model server sees it.

        Raises:
            AdapterError: The endpoint refuses it, or cannot load adapters.
            ModelUnavailable: The endpoint does not answer.
        """
        body = {"lora_name": name, "lora_path": str(path.resolve())}
        await self._adapter_call("load_lora_adapter", body, name, "already")

    async def unload_adapter(self, name: str) -> None:
        """Has vLLM forget an adapter; one that is not loaded is fine. Raises what `load_adapter` raises."""
        await self._adapter_call("unload_lora_adapter", {"lora_name": name}, name, "cannot be found")

    async def _adapter_call(self, call: str, body: dict[str, str], name: str, fine: str) -> None:
        try:
            async with self._mapped(), asyncio.timeout(_ADAPTER_TIMEOUT):
                response = await self._client.post(self._url(call), json=body)
        except TimeoutError as exc:
            raise ModelUnavailable(
                f"The model server at {self.base_url} did not load or unload an adapter within {_ADAPTER_TIMEOUT:g} s. "
                "If this goes on, start it again."
            ) from exc
        if response.status_code == 200:
            return
        message = _message(response.content)
        lowered = message.lower()
        if fine in lowered:
            return
        if _failed(response.status_code):
            raise _failure(response.status_code, message)
        if response.status_code in (404, 405) and name not in message:
            raise AdapterError(
                f"The model server at {self.base_url} cannot load adapters: only vLLM can, started by Tandem or with "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True. The base model answers."
            )
        raise AdapterError(f"The model server refuses the adapter {name!r}: {message}. Train it again, or roll back.")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None, model: str) -> dict[str, Any]:
        async with self._mapped():
            response = await self._client.request(method, self._url(path), json=body)
        if response.status_code != 200:
            raise _refusal(response.status_code, response.content, model)
        try:
            data = response.json()
        except ValueError as exc:
            raise ModelUnavailable(f"{self.base_url} does not speak OpenAI's API: its answer is no JSON.") from exc
        if not isinstance(data, dict):
            raise ModelUnavailable(f"{self.base_url} does not speak OpenAI's API: its answer is no object.")
        return data

    def _url(self, path: str) -> str:
        return f"{self.base_url}/{path}"

    def _body(self, messages: Sequence[Mapping[str, str]], model: str, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "messages": [dict(message) for message in messages],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        defaults = Sampling()
        for name in ("top_p", "frequency_penalty", "presence_penalty", "seed"):
            if getattr(sampling, name) != getattr(defaults, name):  # some endpoints refuse what they do not know
                body[name] = getattr(sampling, name)
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.bias:
            body["logit_bias"] = {str(token): bias for token, bias in sampling.bias}
        return body

    @asynccontextmanager
    async def _mapped(self) -> AsyncIterator[None]:
        try:
            yield
        except httpx.ConnectError as exc:
            raise ModelUnavailable(
                f"The model server at {self.base_url} does not answer. It may be starting; see logs/vllm.log in the "
                "data directory, or TANDEM_MODEL__URL."
            ) from exc
        except httpx.TimeoutException as exc:
            raise ModelUnavailable(
                f"The model server at {self.base_url} did not answer in time (TANDEM_MODEL__TIMEOUT). Ask again."
            ) from exc
        except (httpx.TransportError, httpx.InvalidURL, httpx.StreamError) as exc:
            raise ModelUnavailable(
                f"The connection to the model server at {self.base_url} broke: {exc or 'it closed'}. Ask again."
            ) from exc


def _lead(odds: Sequence[tuple[str, float]], opening: str) -> float | None:
    ours = [logprob for token, logprob in odds if token and opening.startswith(token)]
    others = [logprob for token, logprob in odds if not (token and opening.startswith(token))]
    if not others:
        return None
    return max(ours, default=min(others)) - max(others)


def _delta(data: str, model: str) -> Delta:
    try:
        event = json.loads(data)
    except ValueError as exc:
        raise ModelUnavailable("The model server sent an event that is no JSON. Ask again in a moment.") from exc
    if "error" in event:
        status = event["error"].get("code") if isinstance(event["error"], dict) else None
        raise _refusal(status if isinstance(status, int) else 500, data.encode(), model)
    choices = event.get("choices") or [{}]
    return Delta(
        text=(choices[0].get("delta") or {}).get("content") or "",
        finish_reason=choices[0].get("finish_reason"),
        usage=_usage(event.get("usage")),
    )


def _usage(usage: dict[str, Any] | None) -> Usage | None:
    if not usage:
        return None
    return Usage(prompt_tokens=usage.get("prompt_tokens") or 0, completion_tokens=usage.get("completion_tokens") or 0)


def _message(content: bytes) -> str:
    """The sentence in an error's body, shortened."""
    try:
        data = json.loads(content)
        error = data.get("error", data)
        text = error.get("message", "") if isinstance(error, dict) else str(error)
        text = text or str(data.get("detail", ""))
    except (ValueError, AttributeError):
        text = content.decode("utf-8", errors="replace")
    return " ".join(text.split())[:_MESSAGE_CHARS].rstrip(".")


def _refusal(status: int, content: bytes, model: str) -> Exception:
    message = _message(content)
    if status == 404 and "@" in model:  # only adapters have a version in their name
        return AdapterError(f"The model server has no adapter {model!r}: {message}.")
    if status == 404:
        return ModelUnavailable(f"The model server has no model {model!r} ({message}): set TANDEM_MODEL__NAME.")
    if status in (401, 403):
        return Forbidden(f"The model server refuses the key: set TANDEM_MODEL__API_KEY. It says: {message}.")
    if not _failed(status):
        return InputError(f"The model server refuses the request: {message}.")
    return _failure(status, message)


def _failed(status: int) -> bool:
    """Whether it says that the server could not, for now: nothing is wrong with what it was asked."""
    return not 400 <= status < 500 or status in (408, 425, 429)


def _failure(status: int, message: str) -> ModelUnavailable:
    return ModelUnavailable(f"The model server failed (status {status}): {message or 'it says no more'}. Ask again.")
