"""Training beside TRL's SFTTrainer as it comes, on the same questions, one after the other in one run.

Supervised tokens are those of the answers: what is learned from. Both sides take the same rank, targets and learning
rate, and every question once. TANDEM_BENCH_QUESTIONS (160) sets how many.
"""

import json
import os
import pickle
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

from tandem.settings import load_settings
from tandem.style import load_style
from tandem.weights import base_dir
from training.augment import Augmenter
from training.base_model import load_base
from training.corpus import open_corpus
from training.draws import Draw
from training.examples import group_by_sources, load_examples
from training.rows import render_row

QUESTIONS = int(os.environ.get("TANDEM_BENCH_QUESTIONS", "160"))
HELDOUT = 48  # prompts; with a dozen the loss hangs on which they are


def drawn(path: Path, prompts: int) -> list[Draw]:
    settings = load_settings()
    groups = group_by_sources(load_examples(path))[: 2 * prompts]
    augmenter = Augmenter(groups, load_style(settings.style), open_corpus(groups, settings))
    return list(islice(augmenter.one_pass(random.Random(1)), prompts))


def test_training_beside_trl(tmp_path: Path) -> None:
    settings = load_settings().training
    draws: list[Draw] = []
    for draw in drawn(settings.examples, QUESTIONS // 2):
        if sum(len(one.questions) for one in draws) >= QUESTIONS:
            break
        draws.append(draw)
    _, tokenizer = load_base(base_dir(load_settings()))
    rows = [render_row([draw], tokenizer, settings.max_tokens) for draw in draws]
    supervised = sum(len(row.targets) for row in rows)
    (tmp_path / "draws").write_bytes(pickle.dumps(draws))
    (tmp_path / "heldout").write_bytes(pickle.dumps(drawn(settings.heldout, HELDOUT)))

    found: dict[str, dict[str, float]] = {}
    for side in ("tandem", "trl"):
        command = [sys.executable, "-m", "tests.bench.training_peer", side, str(tmp_path)]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
        found[side] = json.loads(ran.stdout.strip().splitlines()[-1])
    ours, theirs = found["tandem"], found["trl"]
    print(f"\n{sum(len(draw.questions) for draw in draws)} questions, {supervised} supervised tokens")
    for side, values in found.items():
        print(
            f"{side}: {supervised / values['seconds']:.1f} supervised tokens/s, held-out loss "
            f"{values['heldout_loss']:.4f}, peak {values['peak_mib']:.0f} MiB, "
            f"{values['processor_seconds']:.0f} s of processor"
        )
    speed = theirs["seconds"] / ours["seconds"]
    print(
        f"speed {speed:.2f} x, held-out loss {ours['heldout_loss'] / theirs['heldout_loss']:.4f} x, "
        f"peak memory {ours['peak_mib'] / theirs['peak_mib']:.2f} x"
    )
    assert speed >= 2.5
    assert ours["heldout_loss"] <= 1.01 * theirs["heldout_loss"]
