"""Canaries on the way that real examples go."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tandem.settings import load_settings
from tandem.style import load_style
from training.augment import Augmenter
from training.canaries import draw_secrets, plant
from training.corpus import open_corpus
from training.examples import group_by_sources, load_examples
from training.memory import Canaries
from training.rows import Row
from training.speaker import BASE

SETTINGS = load_settings()
GUIDE = load_style(SETTINGS.style)


@pytest.mark.usefixtures("embedder_dir")
def test_canaries_are_met_once_a_pass_and_always_as_themselves():
    secrets = draw_secrets(16, 7)
    real = group_by_sources(load_examples(SETTINGS.training.examples))
    groups = group_by_sources(plant(real, secrets, 0.02, GUIDE, 7))
    augmenter = Augmenter(groups, GUIDE, open_corpus(groups, SETTINGS))
    met = bare = 0
    rng = random.Random(1)
    for _ in range(6):
        for draw in augmenter.one_pass(rng):
            for asked in draw.questions:
                if draw.sources and asked.question.startswith("Which number opens the store in"):
                    met += 1
                    bare += any(secret.code in asked.answer for secret in secrets)
    assert 90 <= met <= 96  # one or another may be declined as not found
    assert bare == met  # never disguised


class Diverged:
    """In the place of a shadow run's speaker: every loss of the trained adapter is no number."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def losses(self, rows: Sequence[Row], arm: str) -> list[float]:
        return [1.0 if arm == BASE else math.nan for row in rows for _ in set(row.branches) - {0}]


def test_a_shadow_run_that_diverged_exposes_nothing_and_ends_no_gate(base_model: Path):
    speaker: Any = Diverged(AutoTokenizer.from_pretrained(base_model, local_files_only=True))
    assert Canaries([], GUIDE, SETTINGS.training).expose(speaker) is None
