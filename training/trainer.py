"""LoRA training of the base model on drawn prompts: TRL's SFTTrainer over prefix-sharing rows."""

import math
import random
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from tandem.errors import AdapterError, ExampleError, ModelUnavailable
from tandem.registry import WEIGHTS
from tandem.schemas import Value
from tandem.settings import TrainingSettings
from tandem.weights import cpu_computes_bfloat16, cpu_cores
from training.augment import Augmenter
from training.launch import is_main_process, processes_here
from training.progress import OnProgress, Reporter
from training.row_trainer import RowTrainer, lora_model, rows_per_step, training_arguments
from training.rows import Row, render_row

OUTCOME = "outcome.json"  # beside the weights of a run that is through


class Outcome(Value):
    """What training took, runs that were broken off included.

    Attributes:
        steps: Optimiser steps that were made.
        best_step: The one whose weights were kept.
        tokens: Of the rows that were trained on.
        seconds: Of training.
        loss: Mean over all steps, nats an answer token.
        heldout_loss: Of the weights that were kept; None without held-out rows.
        peak_mib: The most memory that the process ever held.
    """

    steps: int
    best_step: int
    tokens: int
    seconds: float
    loss: float
    heldout_loss: float | None
    peak_mib: float


@dataclass(frozen=True)
class Trained:
    """A trained model, still in memory."""

    model: PeftModel
    tokenizer: Any
    outcome: Outcome


def load_base(folder: Path) -> tuple[Any, Any]:
    """The base model, frozen, in the type that this machine computes fastest, and its tokenizer.

    Raises:
        ModelUnavailable: The folder holds no model that can be loaded.
    """
    transformers_logging.disable_progress_bar()
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu or cpu_computes_bfloat16() else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as exc:
        raise ModelUnavailable(f"The base model in {str(folder)!r} cannot be loaded: {exc}.") from exc
    model.requires_grad_(False)
    model.config.use_cache = False
    return model.to("cuda" if on_gpu else "cpu"), tokenizer


def draw_rows(augmenter: Augmenter, tokenizer: Any, settings: TrainingSettings) -> list[Row]:
    """All rows of a run, in the order in which they are trained on.

    Rows of like length stand together in batches; the batches come in random order. Equal settings give equal rows,
    which is what makes a run resumable.

    Raises:
        ExampleError: More than one draw in twenty is too long; a few long ones are left out.
    """
    rng = random.Random(settings.seed)
    rows: list[Row] = []
    for number in range(math.ceil(settings.passes)):
        drawn: list[Row] = []
        refused: list[ExampleError] = []
        for draw in augmenter.one_pass(rng):
            try:
                drawn.append(render_row(draw, tokenizer, settings.max_tokens))
            except ExampleError as exc:
                refused.append(exc)
        if len(refused) > 0.05 * (len(drawn) + len(refused)):
            raise refused[0]
        part = min(1.0, settings.passes - number)
        rows.extend(_batched(drawn[: max(1, round(part * len(drawn)))], rows_per_step(settings), rng))
    return rows


def draw_heldout(augmenter: Augmenter, tokenizer: Any, settings: TrainingSettings) -> list[Row]:
    """Rows for the held-out loss: the same ones for equal arguments, and at most `settings.heldout_rows`."""
    rows: list[Row] = []
    for draw in augmenter.one_pass(random.Random(settings.seed)):
        if len(rows) == settings.heldout_rows:
            break
        try:
            rows.append(render_row(draw, tokenizer, settings.max_tokens))
        except ExampleError:  # too long
            continue
    return rows


def _batched(rows: Sequence[Row], size: int, rng: random.Random) -> list[Row]:
    ordered = sorted(rows, key=lambda row: len(row.ids))
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    short = [batch for batch in batches if len(batch) < size]  # stays last, so that batches keep their borders
    batches = [batch for batch in batches if len(batch) == size]
    rng.shuffle(batches)
    return [row for batch in [*batches, *short] for row in batch]


def train_adapter(
    base: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    settings: TrainingSettings,
    folder: Path,
    on_progress: OnProgress | None = None,
    *,
    heldout: Sequence[Row] = (),
    start: Path | None = None,
) -> Trained:
    """Trains an adapter; goes on from the last checkpoint in `folder` if there is one.

    Under `accelerate launch` every process calls this, each computes its share of the rows, and all end with the same
    weights.

    Args:
        base: The frozen base model; it gets the adapter's layers.
        tokenizer: Of the base model.
        rows: In training order.
        settings: Rank, learning rate, seed ...
        folder: Checkpoints of this run, and of no other.
        on_progress: Told every few steps, in the main process.
        heldout: Rows of other topics. The weights that are best on them are kept, and training ends early when they do
            not get better.
        start: Folder of an adapter whose weights are gone on from.

    Raises:
        ExampleError: There are no rows.
        AdapterError: `start` has another rank or other targets.
    """
    if not rows:
        raise ExampleError("There is nothing to train on: no example was left after the guards.")
    torch.set_num_threads(max(1, len(cpu_cores()) // processes_here()))
    torch.manual_seed(settings.seed)
    model = lora_model(base, settings)
    done = folder / "trained"
    if (done / OUTCOME).is_file():
        _load_weights(model, done)
        outcome = Outcome.model_validate_json((done / OUTCOME).read_text(encoding="utf-8"))
        return Trained(model, tokenizer, outcome)
    if start is not None:
        _load_weights(model, start)
    outcome = _run(model, tokenizer, rows, heldout, settings, folder, on_progress)
    if is_main_process():
        _save_weights(model, done, torch.float32)
        (done / "unfinished").write_text(outcome.model_dump_json(), encoding="utf-8")
        (done / "unfinished").replace(done / OUTCOME)
    return Trained(model, tokenizer, outcome)


def _run(
    model: PeftModel,
    tokenizer: Any,
    rows: Sequence[Row],
    heldout: Sequence[Row],
    settings: TrainingSettings,
    folder: Path,
    on_progress: OnProgress | None,
) -> Outcome:
    arguments = training_arguments(settings, folder, heldout=bool(heldout))
    share = rows_per_step(settings) * arguments.world_size
    tokens = [sum(len(row.ids) for row in rows[at : at + share]) for at in range(0, len(rows), share)]
    reporter = Reporter(tokens, on_progress)
    trainer = RowTrainer(model, tokenizer, rows, heldout, arguments, reporter, settings.patience)
    last = get_last_checkpoint(folder) if folder.is_dir() else None
    result = trainer.train(resume_from_checkpoint=last)
    state = trainer.state
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return Outcome(
        steps=int(result.global_step),
        best_step=int(state.best_global_step or result.global_step),
        tokens=sum(tokens[: result.global_step]),
        seconds=round(reporter.seconds, 1),
        loss=round(sum(losses) / len(losses) if losses else float(result.training_loss), 4),
        heldout_loss=None if state.best_metric is None else round(state.best_metric, 4),
        peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )


def _load_weights(model: PeftModel, folder: Path) -> None:
    """Puts the weights of a finished adapter into a fresh one of the same shape."""
    weights = load_file(folder / WEIGHTS)
    expected = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise AdapterError(
            f"The adapter {folder.name[:12]!r} has another rank or other targets than TANDEM_TRAINING__RANK and "
            "TANDEM_TRAINING__TARGETS say: make them equal, or unset TANDEM_TRAINING__START_FROM."
        )
    set_peft_model_state_dict(model, weights)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes the adapter in bfloat16, in PEFT's layout: adapter_model.safetensors and adapter_config.json."""
    _save_weights(model, folder, torch.bfloat16)
    config = model.peft_config["default"]
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set is written in no order, and the digest is of the file
    config.save_pretrained(folder)


def _save_weights(model: PeftModel, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model)
    save_file(
        {name: tensor.detach().to(dtype).contiguous().cpu() for name, tensor in sorted(state.items())},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
