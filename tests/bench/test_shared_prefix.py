"""Questions trained a second: one row for several questions on the same sources, against a row each, in one run."""

import random
import time
from collections.abc import Sequence

import torch

from tandem.settings import load_settings
from tandem.style import load_style
from tandem.weights import base_dir, cpu_cores
from training.augment import Augmenter
from training.base_model import load_base
from training.corpus import open_corpus
from training.draws import Draw
from training.examples import group_by_sources, load_examples
from training.rows import collate, render_row

PROMPTS = 6


def test_shared_prefix_against_separate_rows() -> None:
    settings = load_settings()
    torch.set_num_threads(len(cpu_cores()))
    model, tokenizer = load_base(base_dir(settings))
    groups = group_by_sources(load_examples(settings.training.examples))[:40]
    drawn = Augmenter(groups, load_style(settings.style), open_corpus(groups, settings)).one_pass(random.Random(1))
    draws = [draw for _, draw in zip(range(PROMPTS), drawn, strict=False)]
    separate = [Draw(draw.sources, draw.marker, (question,)) for draw in draws for question in draw.questions]
    questions = len(separate)

    def seconds(rows: Sequence[Draw]) -> float:
        started = time.perf_counter()
        for draw in rows:
            batch = collate([render_row([draw], tokenizer, settings.training.max_tokens)], tokenizer.pad_token_id)
            with torch.no_grad():
                model.model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    position_ids=batch["position_ids"],
                )
        return time.perf_counter() - started

    seconds(draws[:1])
    shared, single = seconds(draws), seconds(separate)
    speeds = f"{questions / shared:.2f} questions/s, a row each {questions / single:.2f}"
    print(f"\nshared prefix {speeds}: {single / shared:.2f} x")
