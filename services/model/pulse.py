"""Whether a vLLM that runs still gives tokens: a process may live on, and its /health say yes, when nothing comes."""

import asyncio
import re

import httpx

from tandem.completions import Completions
from tandem.errors import TandemError
from tandem.schemas import Sampling

_PROBE = [{"role": "user", "content": "Hi"}]
_AGAIN = 0.3  # seconds until a probe that failed is made again
_REST = 4  # a vLLM that has answered is asked again after this part of the limit
_METRICS_TIMEOUT = 10.0
_GIVEN = re.compile(r"^vllm:generation_tokens_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


async def first_token(completions: Completions, model: str) -> None:
    """Asks for one token until it comes."""
    while True:
        try:
            await completions.complete(_PROBE, model, Sampling(max_tokens=1))
        except TandemError:
            await asyncio.sleep(_AGAIN)
        else:
            return


async def until_it_hangs(completions: Completions, model: str, limit: float) -> None:
    """Returns when neither the token that is asked for nor any other has come for a while.

    Args:
        completions: The client of a vLLM that has answered before.
        model: Its base model's name.
        limit: Seconds without a token.
    """
    async with httpx.AsyncClient(timeout=_METRICS_TIMEOUT, trust_env=False) as client:
        while True:
            before = await tokens_given(client, completions.base_url)
            try:
                async with asyncio.timeout(limit):
                    await first_token(completions, model)
            except TimeoutError:
                # Where a full batch of long answers keeps others waiting, tokens do come.
                if await tokens_given(client, completions.base_url) == before:
                    return
            else:
                await asyncio.sleep(limit / _REST)


async def tokens_given(client: httpx.AsyncClient, url: str) -> float | None:
    """How many tokens a vLLM says that it has generated since its start; None where it does not say.

    Args:
        client: Whose connection is used.
        url: Ends in /v1.
    """
    try:
        response = await client.get(f"{url.removesuffix('/v1')}/metrics")
        counts = [float(count) for count in _GIVEN.findall(response.text)]
        return sum(counts) if counts else None
    except (httpx.HTTPError, ValueError):
        return None
