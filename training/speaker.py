"""The base model and its adapters as the gate asks them: greedy answers, and how likely they hold given ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

from tandem.declines import opens_declining
from tandem.manifest import Threshold
from training.rows import Row, answer_logits, collate, pad_id

Messages = list[dict[str, str]]
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
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: Any,
        *,
        candidate: str = "default",
        active: str | None = None,
        thresholds: Mapping[str, Threshold] | None = None,
    ) -> None:
        self._thresholds = dict(thresholds or {})
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
        self, asked: Sequence[Sequence[Messages]], arm: str, on_done: OnDone | None = None, *, sources: bool = True
    ) -> list[str]:
        """Greedy answers, in order.

        Args:
            asked: Each question's prompts: the next one is asked where the one before is declined, as in service.
            arm: Whose voice.
            on_done: Told how many are done.
            sources: Whether the prompts give any: only then is declining held back, as in service.
        """
        threshold = self._thresholds.get(arm) if sources else None
        answers = [""] * len(asked)
        waiting, look = list(range(len(asked))), 0
        with self._voice(arm), torch.inference_mode():
            while waiting:
                done = len(asked) - len(waiting)
                said = self._greedy([asked[n][look] for n in waiting], threshold, on_done, done if look else 0)
                for n, answer in zip(waiting, said, strict=True):
                    answers[n] = answer
                look += 1
                waiting = [n for n in waiting if look < len(asked[n]) and opens_declining(answers[n])]
        return answers

    def _greedy(
        self, prompts: Sequence[Messages], threshold: Threshold | None, on_done: OnDone | None, done: int
    ) -> list[str]:
        encoded = [self._encode(messages) for messages in prompts]
        order = sorted(range(len(encoded)), key=lambda n: len(encoded[n]))
        answers = [""] * len(encoded)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            for n, answer in zip(batch, self._generate([encoded[n] for n in batch], threshold), strict=True):
                answers[n] = answer
            if on_done:
                on_done(done + start + len(batch))
        return answers

    def decline_by(self, threshold: Threshold) -> None:
        """Has the candidate decline by a threshold from now on."""
        self._thresholds[CANDIDATE] = threshold

    def leads(self, prompts: Sequence[Messages], arm: str, token: int) -> list[float]:
        """How far the logit of a first token is ahead of the best other one, prompt by prompt."""
        found = []
        with self._voice(arm), torch.inference_mode():
            for messages in prompts:
                ids = torch.tensor([self._encode(messages)], device=self._model.device)
                logits = self._model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
                lead = logits[token].item()
                logits[token] = -torch.inf
                found.append(lead - logits.max().item())
        return found

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

    def _generate(self, prompts: Sequence[Sequence[int]], threshold: Threshold | None) -> list[str]:
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
            sequence_bias=[[[threshold.token], threshold.bias]] if threshold else None,
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
