"""LoRA training of the base model on rows: TRL's SFTTrainer, gone on with after a kill."""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from tandem.errors import ExampleError
from tandem.schemas import Value
from tandem.settings import TrainingSettings
from tandem.weights import cpu_cores
from training.adapter_weights import average, check_start, load_weights, save_weights
from training.checkpoints import newest_checkpoint
from training.launch import is_main_process, processes_here
from training.progress import OnProgress, Reporter, seconds_spent
from training.row_trainer import RowTrainer, lora_model, rows_per_step, training_arguments
from training.rows import Row

OUTCOME = "outcome.json"  # beside the weights of a run that is through


class Outcome(Value):
    """What training took, runs that were broken off included.

    Attributes:
        steps: Optimiser steps that were made.
        best_step: The one whose weights were kept.
        tokens: Of the rows that were trained on.
        seconds: Of training.
        loss: Mean over all steps that were made, nats an answer token.
        heldout_loss: Of the weights of that step, before they are averaged with a start's; None without held-out rows.
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
        start: Folder of an adapter whose weights are gone on from, and averaged with the trained ones in the end: what
            was learnt is kept, and what the start could do is lost less (WiSE-FT, Wortsman et al. 2022).

    Raises:
        ExampleError: There are no rows.
        AdapterError: `start` has another rank, another alpha or other targets.
        InputError: A step's rows cannot be divided among the processes.
    """
    if not rows:
        raise ExampleError("There is nothing to train on: no example was left after the guards.")
    torch.set_num_threads(max(1, len(cpu_cores()) // processes_here()))
    torch.manual_seed(settings.seed)
    model = lora_model(base, settings)
    if start is not None:
        check_start(start, settings)
    done = folder / "trained"
    if (done / OUTCOME).is_file():
        load_weights(model, done)
        outcome = Outcome.model_validate_json((done / OUTCOME).read_text(encoding="utf-8"))
    else:
        if start is not None:
            load_weights(model, start)
        outcome = _run(model, tokenizer, rows, heldout, settings, folder, on_progress)
        if is_main_process():
            save_weights(model, done, torch.float32)
            (done / "unfinished").write_text(outcome.model_dump_json(), encoding="utf-8")
            (done / "unfinished").replace(done / OUTCOME)
    if start is not None:
        average(model, start, settings.start_share)
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
    step = rows_per_step(settings)
    tokens = [sum(len(row.ids) for row in rows[at : at + step]) for at in range(0, len(rows), step)]
    last = newest_checkpoint(folder)
    if last is not None and last.ended_early(settings.patience):  # killed before its outcome was written
        load_weights(model, last.best)
        return _outcome(last.state, tokens, seconds_spent(last.state))
    reporter = Reporter(tokens, on_progress)
    trainer = RowTrainer(model, tokenizer, rows, heldout, arguments, reporter, settings.patience)
    trainer.train(resume_from_checkpoint=None if last is None else str(last.folder))
    return _outcome(trainer.state, tokens, reporter.seconds)


def _outcome(state: Any, tokens: Sequence[int], seconds: float) -> Outcome:
    """What the trainer's state says of a run that is through."""
    return Outcome(
        steps=state.global_step,
        best_step=state.best_global_step or state.global_step,
        tokens=sum(tokens[: state.global_step]),
        seconds=round(seconds, 1),
        loss=round(_mean_loss(state.log_history), 4),
        heldout_loss=None if state.best_metric is None else round(state.best_metric, 4),
        peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )


def _mean_loss(log: Sequence[dict[str, Any]]) -> float:
    """Mean over the steps, of a log whose lines each give the mean since the line before."""
    total, before = 0.0, 0
    for entry in log:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - before)
            before = entry["step"]
    return total / before
