"""The base model and its adapters as the gate asks them: greedy answers, and how likely they hold given ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from transformers import LogitsProcessor, LogitsProcessorList

from tandem.choice import choose
from tandem.cross_encoder import CrossEncoder
from tandem.declines import opens_declining
from tandem.manifest import Threshold
from tandem.prompt import DECLINE, Messages
from training.asked import Alone, Prompts
from training.rows import Row, answer_logits, collate, pad_id

OnDone = Callable[[int], None]

CANDIDATE, ACTIVE, BASE = "candidate", "active", "base"
NEW_TOKENS = 80  # of an answer; the house style's take some 45
_BATCH = 16  # prompts generated together: with more, copying the cache costs more than the batch saves
_ROW_BATCH = 2


class Speaker:
    """One model in several voices: with the candidate, with the active adapter, and with none.

    Args:
        model: The base model with its adapters. Their weights are rounded to bfloat16, which is what is stored and
            served.
        tokenizer: Of the base model.
        candidate: PEFT's name of the candidate.
        active: PEFT's name of the adapter that answers now, if there is one.
        thresholds: When the arms decline, for those that have one.
        cross_encoder: The service's, where it has one.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: Any,
        *,
        candidate: str = "default",
        active: str | None = None,
        thresholds: Mapping[str, Threshold] | None = None,
        cross_encoder: CrossEncoder | None = None,
    ) -> None:
        self._thresholds = dict(thresholds or {})
        self._cross_encoder = cross_encoder
        self._model = model
        self._tokenizer = tokenizer
        self._adapters = {CANDIDATE: candidate} | ({ACTIVE: active} if active else {})
        for name, weights in model.named_parameters():
            if "lora_" in name:
                weights.requires_grad_(False)
                weights.data = weights.data.to(torch.bfloat16).to(model.dtype)
        model.eval()

    @property
    def tokenizer(self) -> Any:
        """Of the base model."""
        return self._tokenizer

    @property
    def arms(self) -> tuple[str, ...]:
        """The voices, the candidate first."""
        return (*self._adapters, BASE)

    def answers(
        self, asked: Sequence[Prompts], arm: str, on_done: OnDone | None = None, *, sources: bool = True
    ) -> list[str]:
        """Greedy answers, in order; of what is asked as in service, one sentence first.

        Args:
            asked: Each question's prompts.
            arm: Whose voice.
            on_done: Told how many are done.
            sources: Whether the prompts give any: only then is declining held back, as in service.
        """
        with self._voice(arm), torch.inference_mode():
            told = [self._odds(prompts) if arm != BASE else [] for prompts in asked]
            first = [self._choose(prompts, arm, odds) for prompts, odds in zip(asked, told, strict=True)]
            opened = [one.messages if one else prompts.whole for one, prompts in zip(first, asked, strict=True)]
            threshold = self._thresholds.get(arm) if sources else None
            held_back = [_held_back(threshold, odds) for odds in told]
            answers = self._greedy(opened, held_back, on_done, 0)
            again = [n for n, one in enumerate(first) if one and opens_declining(answers[n])]
            done = len(asked) - len(again)
            for n, one in enumerate(first):
                answers[n] = _cited_as(answers[n], one.number) if one else answers[n]
            said = self._greedy([asked[n].whole for n in again], [held_back[n] for n in again], on_done, done)
            for n, answer in zip(again, said, strict=True):
                answers[n] = answer
        return answers

    def _choose(self, prompts: Prompts, arm: str, odds: Sequence[float]) -> Alone | None:
        """What is asked about alone; an arm without an adapter leaves it to the search, as in service."""
        if len(prompts.alone) < 2 or arm == BASE:
            return prompts.alone[0] if prompts.alone else None
        leads = [self._lead(alone.messages) for alone in prompts.alone]
        return prompts.alone[choose([alone.score for alone in prompts.alone], leads, odds)]

    def _odds(self, prompts: Prompts) -> list[float]:
        if self._cross_encoder is None:
            return []
        return self._cross_encoder.odds(prompts.question, [alone.context for alone in prompts.alone])

    def odds(self, asked: Sequence[Prompts]) -> list[float | None]:
        """How likely one of the sentences that may be asked about alone answers, by the cross-encoder, in log-odds."""
        return [max(self._odds(prompts), default=None) for prompts in asked]

    def _greedy(
        self, prompts: Sequence[Messages], held_back: Sequence[tuple[int, float]], on_done: OnDone | None, done: int
    ) -> list[str]:
        encoded = [self._encode(messages) for messages in prompts]
        order = sorted(range(len(encoded)), key=lambda n: len(encoded[n]))
        answers = [""] * len(encoded)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            generated = self._generate([encoded[n] for n in batch], [held_back[n] for n in batch])
            for n, answer in zip(batch, generated, strict=True):
                answers[n] = answer
            if on_done:
                on_done(done + start + len(batch))
        return answers

    def decline_by(self, threshold: Threshold) -> None:
        """Has the candidate decline by a threshold from now on."""
        self._thresholds[CANDIDATE] = threshold

    @cached_property
    def declining_token(self) -> int:
        """The first one of the declining sentence."""
        return int(self._tokenizer(DECLINE, add_special_tokens=False).input_ids[0])

    def declining(self, asked: Sequence[Prompts]) -> list[float]:
        """How far the candidate's declining is ahead of any other beginning, nats: the least over what it is asked."""
        with self._voice(CANDIDATE), torch.inference_mode():
            found = []
            for prompts in asked:
                lead = self._lead(prompts.whole)
                if leads := [self._lead(alone.messages) for alone in prompts.alone]:
                    scores = [alone.score for alone in prompts.alone]
                    lead = min(lead, leads[choose(scores, leads, self._odds(prompts))])
                found.append(lead)
        return found

    def _lead(self, messages: Messages) -> float:
        ids = torch.tensor([self._encode(messages)], device=self._model.device)
        logits = self._model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
        lead = float(logits[self.declining_token])
        logits[self.declining_token] = -torch.inf
        return lead - float(logits.max())

    def losses(self, rows: Sequence[Row], arm: str) -> list[float]:
        """The loss of every answer in the rows, nats summed over its tokens, in order.

        Only forward, and logits for the answers' tokens alone.
        """
        causal = self._model.get_base_model()
        device = self._model.device
        found: list[float] = []
        with self._voice(arm), torch.inference_mode():
            for start in range(0, len(rows), _ROW_BATCH):
                part = rows[start : start + _ROW_BATCH]
                batch = {name: tensor.to(device) for name, tensor in collate(part, self._pad).items()}
                logits = answer_logits(self._model, causal, batch)
                each = torch.nn.functional.cross_entropy(logits.float(), batch["targets"], reduction="none")
                found.extend(_by_answer(part, each.tolist()))
        return found

    @property
    def _pad(self) -> int:
        return pad_id(self._tokenizer)

    def _encode(self, messages: Messages) -> list[int]:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _generate(self, prompts: Sequence[Sequence[int]], held_back: Sequence[tuple[int, float]]) -> list[str]:
        length = max(map(len, prompts))
        ids = torch.full((len(prompts), length), self._pad)
        seen = torch.zeros((len(prompts), length), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
            seen[row, length - len(prompt) :] = 1
        out = self._model.generate(
            input_ids=ids.to(self._model.device),
            attention_mask=seen.to(self._model.device),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            logits_processor=LogitsProcessorList([_HeldBack(held_back)]),
            use_cache=True,
            pad_token_id=self._pad,
            eos_token_id=self._tokenizer.eos_token_id,
        )
        return [self._tokenizer.decode(row[length:], skip_special_tokens=True).strip() for row in out]

    @contextmanager
    def _voice(self, arm: str) -> Iterator[None]:
        if arm == BASE:
            with self._model.disable_adapter():
                yield
            return
        self._model.set_adapter(self._adapters[arm])
        try:
            yield
        finally:
            self._model.set_adapter(self._adapters[CANDIDATE])


class _HeldBack(LogitsProcessor):  # type: ignore[misc]
    """Adds to the logit of one token, for each row its own."""

    def __init__(self, held_back: Sequence[tuple[int, float]]) -> None:
        self._tokens = torch.tensor([token for token, _ in held_back])
        self._by = torch.tensor([by for _, by in held_back])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(self._tokens))
        return scores.index_put((rows, self._tokens), self._by.to(scores), accumulate=True)


def _held_back(threshold: Threshold | None, odds: Sequence[float]) -> tuple[int, float]:
    """The token of declining and what is added to its logit for one question."""
    return (threshold.token, threshold.held_back(max(odds, default=None))) if threshold else (0, 0.0)


def _cited_as(answer: str, number: int) -> str:
    """An answer to a prompt of one source, with the number that it has among all."""
    return answer.replace("[1]", f"[{number}]")


def _by_answer(rows: Sequence[Row], losses: Sequence[float]) -> list[float]:
    """Sums the losses of a batch's answer tokens over each question's branch."""
    found: list[float] = []
    left = iter(losses)
    for row in rows:
        sums = [0.0] * max(row.branches)
        for at in row.predict_at:
            sums[row.branches[at] - 1] += next(left)
        found.extend(sums)
    return found
