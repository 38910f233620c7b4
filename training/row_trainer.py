"""TRL's SFTTrainer for rows: a loss over answer tokens, rows in their order, a held-out loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers.trainer_callback import EarlyStoppingCallback, PrinterCallback

from tandem.errors import InputError
from tandem.settings import TrainingSettings
from training.fused_layer import fused_layers
from training.launch import processes
from training.progress import Reporter
from training.row_attention import RowLayout
from training.rows import Row, answer_logits, collate, pad_id

QUESTIONS = 2  # that a row is taken to hold; 1.33 over the sample examples, five at most


def rows_per_step(settings: TrainingSettings) -> int:
    """Rows of one optimiser step, all processes together."""
    return max(1, round(settings.batch_size / QUESTIONS))


def rows_per_batch(settings: TrainingSettings) -> int:
    """Rows that one process computes at once.

    Raises:
        InputError: The rows of a step do not divide among the processes and their parts: the step would be another.
    """
    rows, parts = rows_per_step(settings), processes() * settings.accumulation
    if rows % parts:
        raise InputError(
            f"A step of {settings.batch_size} examples (TANDEM_TRAINING__BATCH_SIZE) is {rows} rows, which do not "
            f"divide into {parts} equal parts: {processes()} processes compute {settings.accumulation} each "
            f"(TANDEM_TRAINING__ACCUMULATION). Take a multiple of {QUESTIONS * parts} examples, or fewer parts."
        )
    return rows // parts


def lora_model(base: Any, settings: TrainingSettings) -> PeftModel:
    """A base model with a fresh adapter, which is float32 whatever the base is."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config, autocast_adapter_dtype=True)


class RowTrainer(trl.SFTTrainer):  # type: ignore[misc]
    """Trains on rows as they come, and measures the loss on held-out ones.

    Logits are computed for answer tokens only. On a CPU the layers are fused while it trains.

    Args:
        model: PEFT's.
        tokenizer: Of the model.
        rows: In training order.
        heldout: Rows for the held-out loss; with none there is no early stop.
        args: From `training_arguments`.
        reporter: Told what is logged.
        patience: Measurements without a better held-out loss until the run stops.
    """

    loss_is_scaled_for_ga = True  # by the answer tokens of the whole step
    control: Any

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: Sequence[Row],
        heldout: Sequence[Row],
        args: trl.SFTConfig,
        reporter: Reporter,
        patience: int,
    ) -> None:
        pad = pad_id(tokenizer)
        size = args.per_device_train_batch_size
        by_length = sorted(heldout, key=lambda row: len(row.ids))
        self._heldout = [collate(by_length[at : at + size], pad) for at in range(0, len(by_length), size)]
        self._fused = False
        numbers = Dataset.from_dict({"row": list(range(len(rows)))})
        super().__init__(
            model=model,
            args=args,
            train_dataset=numbers,
            eval_dataset=numbers if heldout else None,  # wanted for an `eval_strategy`; `evaluate` has the rows
            data_collator=lambda batch: collate([rows[item["row"]] for item in batch], pad),
            processing_class=tokenizer,
            callbacks=[reporter, *([EarlyStoppingCallback(patience)] if heldout else [])],
        )
        self.remove_callback(PrinterCallback)  # standard output belongs to the command's result

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As SFTTrainer's, with fused layers where the model has such."""
        causal = self.accelerator.unwrap_model(self.model).get_base_model()
        with fused_layers(causal) as self._fused:
            return super().train(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Counts the answer tokens of a step, so that each weighs the same, whichever batch or process it is in."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(len(batch["targets"]) for batch in batches), device=device)
        return batches, self.accelerator.reduce(count, "sum")

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *, num_items_in_batch: Tensor, **_: Any) -> Tensor:
        # The processes' gradients are averaged.
        return self._total_loss(model, inputs) * self.accelerator.num_processes / num_items_in_batch

    def _total_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        causal = self.accelerator.unwrap_model(model).get_base_model()
        layout = {"row_layout": RowLayout(inputs["attention_mask"], causal.dtype)} if self._fused else {}
        logits = answer_logits(model, causal, inputs, **layout)
        return torch.nn.functional.cross_entropy(logits.float(), inputs["targets"], reduction="sum")

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Mean loss over all answer tokens of the held-out rows, of which each process computes a share.

        All processes get the same number: one that ended early by its own rounding would leave the others waiting.
        """
        share = self._heldout[self.accelerator.process_index :: self.accelerator.num_processes]
        total, count = 0.0, 0
        self.model.eval()
        with torch.no_grad():
            for batch in share:
                total += self._total_loss(self.model, self._prepare_inputs(batch)).item()
                count += len(batch["targets"])
        self.model.train()
        sums = torch.tensor([total, count], dtype=torch.float64, device=self.args.device)
        total, count = self.accelerator.reduce(sums, "sum").tolist()
        metrics = {"eval_loss": total / count}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card: the manifest says it all."""


def training_arguments(settings: TrainingSettings, folder: Path, *, heldout: bool) -> trl.SFTConfig:
    """What of TRL's many options is not left at its default, and the settings.

    Args:
        settings: Learning rate, seed ...
        folder: For checkpoints.
        heldout: Whether a held-out loss is measured.

    Raises:
        InputError: A step's rows cannot be divided among the processes.
    """
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=rows_per_batch(settings),
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,  # a share of all steps
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,  # the base is loaded in its type; autocast would only add casts
        gradient_checkpointing=False,
        ddp_find_unused_parameters=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="steps" if heldout else "no",
        eval_steps=settings.eval_steps,
        save_steps=settings.eval_steps,
        save_total_limit=2,
        load_best_model_at_end=heldout,
        metric_for_best_model="loss" if heldout else None,
        greater_is_better=False if heldout else None,
        restore_callback_states_from_checkpoint=True,
        logging_steps=5,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    # The first of several processes sees the others' GPUs when it goes on alone; it is to keep to its own.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
