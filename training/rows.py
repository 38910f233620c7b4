"""Draws as rows of tokens: the questions of a row share the prefix of their prompts.

    [system, sources][question 1, answer 1][question 2, answer 2]...

Each branch attends to the prefix and to itself, and its positions go on where the prefix ends, so that the loss is
exactly that of the questions asked one by one, at less than half of the arithmetic. Lengths are padded to a few
buckets: on the CPU each new length costs memory that never comes back.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tandem.errors import ExampleError
from tandem.prompt import build_messages
from training.draws import Draw

BUCKET = 32  # lengths are padded to a multiple of it


@dataclass(frozen=True)
class Row:
    """One draw or some in tokens. All tuples but the last two have one entry for each token.

    Attributes:
        ids: Token ids.
        positions: Position of each token in its own prompt.
        branches: 0 in the prefix, else the number of the question, from 1.
        predict_at: Where in the row an answer's next token is predicted.
        targets: That next token.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    branches: tuple[int, ...]
    predict_at: tuple[int, ...]
    targets: tuple[int, ...]


def render_row(draws: Sequence[Draw], tokenizer: Any, max_tokens: int) -> Row:
    """Renders draws with the one prompt template and the model's chat template.

    Args:
        draws: Prompts and questions. Those of one draw share its sources in the prefix, those of several what comes
            before.
        tokenizer: Of the base model.
        max_tokens: Limit for the prompt and answer of each single question.

    Raises:
        ExampleError: A question with its sources and answer is longer.
    """
    prompts, answers = [], []
    asked = [(draw, question) for draw in draws for question in draw.questions]
    for draw, question in asked:
        messages = build_messages(question.question, draw.sources, marker=draw.marker)
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts.append(tokenizer(text, add_special_tokens=False).input_ids)
        answers.append([*tokenizer(question.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id])
        if len(prompts[-1]) + len(answers[-1]) > max_tokens:
            raise ExampleError(
                f"The example {question.question[:60]!r} takes {len(prompts[-1]) + len(answers[-1])} tokens, "
                f"{max_tokens} are allowed: shorten its sources or raise TANDEM_TRAINING__MAX_TOKENS."
            )
    shared = _common_prefix(prompts)
    ids = list(prompts[0][:shared])
    positions = list(range(shared))
    branches = [0] * shared
    predict_at: list[int] = []
    targets: list[int] = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1):
        tail = [*prompt[shared:], *answer[:-1]]  # nothing is predicted after the last token
        first = len(ids) + len(prompt) - shared - 1
        predict_at.extend(range(first, first + len(answer)))
        targets.extend(answer)
        ids.extend(tail)
        positions.extend(range(shared, shared + len(tail)))
        branches.extend([number] * len(tail))
    return Row(tuple(ids), tuple(positions), tuple(branches), tuple(predict_at), tuple(targets))


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    # The last token of each prompt predicts the answer's first, so it belongs to the branch.
    limit = min(map(len, prompts)) - 1
    for n in range(limit):
        if any(prompt[n] != prompts[0][n] for prompt in prompts):
            return n
    return limit


def pad_id(tokenizer: Any) -> int:
    """What rows and prompts are padded with; a tokenizer need not have a token of its own for it."""
    pad = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if pad is None else pad)


def rows_digest(rows: Sequence[Row]) -> str:
    """SHA-256 over rows in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch of rows, padded to the next bucket.

    Returns:
        input_ids, position_ids (rows, length) int64; attention_mask (rows, 1, length, length) bool, True where a
        token is seen; predict_row, predict_at, targets (answer tokens) int64.
    """
    length = -(-max(len(row.ids) for row in rows) // BUCKET) * BUCKET
    ids = torch.full((len(rows), length), pad_id)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    branches = torch.full((len(rows), length), -1)  # padding is a branch of its own, which no token predicts from
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)] = torch.tensor(row.ids)
        positions[n, : len(row.ids)] = torch.tensor(row.positions)
        branches[n, : len(row.ids)] = torch.tensor(row.branches)
    seen = branches[:, None, :] == branches[:, :, None]
    seen |= branches[:, None, :] == 0
    seen &= torch.ones(length, length, dtype=torch.bool).tril()
    return {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": seen[:, None],
        "predict_row": torch.tensor([n for n, row in enumerate(rows) for _ in row.targets]),
        "predict_at": torch.tensor([at for row in rows for at in row.predict_at]),
        "targets": torch.tensor([target for row in rows for target in row.targets]),
    }


def answer_logits(model: Any, causal: Any, batch: Mapping[str, torch.Tensor], **more: Any) -> torch.Tensor:
    """Logits where a token of an answer is predicted, and nowhere else.

    The vocabulary is a fifth of a small model's arithmetic, and nine tenths of the tokens are prompt.

    Args:
        model: What is called: PEFT's model, or what wraps it.
        causal: The causal model within.
        batch: From `collate`.
        more: Further arguments of the model's forward.

    Returns:
        (answer tokens, vocabulary).
    """

    def only_answers(_: Any, hidden: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (hidden[0][batch["predict_row"], batch["predict_at"]],)

    hook = causal.get_output_embeddings().register_forward_pre_hook(only_answers)
    try:
        seen = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        return model(**seen, **more, use_cache=False).logits
    finally:
        hook.remove()
