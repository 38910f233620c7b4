"""One side of the training bench, in a process of its own: `python -m tests.bench.training_peer tandem|trl FOLDER`.

FOLDER holds `draws` and `heldout`, pickled. It prints one line of JSON.
"""

import json
import pickle
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel

from tandem.prompt import build_messages
from tandem.settings import load_settings
from tandem.weights import base_dir, cpu_cores
from training.adapter_weights import save_adapter
from training.base_model import load_base
from training.draws import Draw
from training.row_draws import draw_rows
from training.rows import render_row
from training.trainer import train_adapter

SETTINGS = load_settings()
TRAINING = SETTINGS.training


class _Drawn:
    """In place of an augmenter: what it drew for both sides."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        self._draws = draws

    def one_pass(self, rng: random.Random) -> Iterator[Draw]:
        yield from self._draws


def tandem(draws: Sequence[Draw], folder: Path) -> float:
    """Tandem's training; returns its seconds."""
    model, tokenizer = load_base(base_dir(SETTINGS))
    rows = draw_rows(_Drawn(draws), tokenizer, TRAINING.model_copy(update={"passes": 1.0}))  # type: ignore[arg-type]
    trained = train_adapter(model, tokenizer, rows, TRAINING, folder / "run", _told)
    save_adapter(trained.model, folder / "adapter")
    return trained.outcome.seconds


def _told(at: Any) -> None:
    print(f"step {at.step} of {at.steps}, loss {at.loss:.3f}, {at.tokens_per_second:.0f} tokens/s", file=sys.stderr)


def default_trl(draws: Sequence[Draw], folder: Path) -> float:
    """What someone writes who reads TRL's first page: SFTTrainer, prompt and completion, a LoRA configuration."""
    torch.set_num_threads(len(cpu_cores()))
    rows = [
        {
            "prompt": build_messages(question.question, draw.sources, marker=draw.marker),
            "completion": [{"role": "assistant", "content": question.answer}],
        }
        for draw in draws
        for question in draw.questions
    ]
    trainer = trl.SFTTrainer(
        model=str(base_dir(SETTINGS)),
        args=trl.SFTConfig(
            output_dir=str(folder / "run"),
            learning_rate=TRAINING.learning_rate,
            num_train_epochs=1,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(
            r=TRAINING.rank, lora_alpha=TRAINING.alpha, target_modules=list(TRAINING.targets), task_type="CAUSAL_LM"
        ),
    )
    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    trainer.save_model(str(folder / "adapter"))
    return seconds


def heldout_loss(draws: Sequence[Draw], adapter: Path) -> float:
    """Nats an answer token on questions asked one by one, by transformers' own forward: the same for both sides."""
    base, tokenizer = load_base(base_dir(SETTINGS))
    model = PeftModel.from_pretrained(base, adapter)
    total, count = 0.0, 0
    with torch.no_grad():
        for draw in draws:
            for question in draw.questions:
                row = render_row([Draw(draw.sources, draw.marker, (question,))], tokenizer, TRAINING.max_tokens)
                logits = model(input_ids=torch.tensor([row.ids])).logits[0, list(row.predict_at)]
                targets = torch.tensor(row.targets)
                total += torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum").item()
                count += len(row.targets)
    return total / count


def main() -> None:
    """Entry point."""
    side, folder = sys.argv[1], Path(sys.argv[2])
    draws = pickle.loads((folder / "draws").read_bytes())
    processor = time.process_time()
    seconds = {"tandem": tandem, "trl": default_trl}[side](draws, folder / side)
    said = {
        "seconds": seconds,
        "processor_seconds": time.process_time() - processor,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "heldout_loss": heldout_loss(pickle.loads((folder / "heldout").read_bytes()), folder / side / "adapter"),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
