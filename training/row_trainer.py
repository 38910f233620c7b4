"""TRL's SFTTrainer for rows: a loss over answer tokens, rows in their order, a held-out loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers.trainer_callback import EarlyStoppingCallback, PrinterCallback

from tandem.settings import TrainingSettings
from training.fused_layer import fused_layers
from training.progress import Reporter
from training.row_attention import RowLayout
from training.rows import Row, collate

QUESTIONS = 2  # that a row holds, about


def rows_per_batch(settings: TrainingSettings) -> int:
    """Rows that one process computes at once: a row holds some four questions."""
    return max(1, round(settings.batch_size / QUESTIONS / settings.accumulation))


def rows_per_step(settings: TrainingSettings) -> int:
    """Rows of one process in one optimiser step."""
    return rows_per_batch(settings) * settings.accumulation


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

    Logits are computed for answer tokens only: the vocabulary is a fifth of a small model's arithmetic, and nine tenths
    of the tokens are prompt. On a CPU the layers are fused while it trains.

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
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
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

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        logits = self._answer_logits(model, inputs)
        total = torch.nn.functional.cross_entropy(logits.float(), inputs["targets"], reduction="sum")
        count = num_items_in_batch if num_items_in_batch is not None else len(inputs["targets"])
        loss = total * self.accelerator.num_processes / count  # the processes' gradients are averaged
        return (loss, {"logits": logits}) if return_outputs else loss

    def _answer_logits(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        causal = self.accelerator.unwrap_model(model).get_base_model()
        layout = {"row_layout": RowLayout(inputs["attention_mask"], causal.dtype)} if self._fused else {}

        def only_answers(_: Any, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (hidden[0][inputs["predict_row"], inputs["predict_at"]],)

        hook = causal.get_output_embeddings().register_forward_pre_hook(only_answers)
        try:
            seen = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids")}
            return model(**seen, **layout, use_cache=False).logits
        finally:
            hook.remove()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Mean loss over all answer tokens of the held-out rows; every process computes all of them."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in self._heldout:
                inputs = self._prepare_inputs(batch)
                logits = self._answer_logits(self.model, inputs)
                total += torch.nn.functional.cross_entropy(logits.float(), inputs["targets"], reduction="sum").item()
                count += len(inputs["targets"])
        metrics = {"eval_loss": total / count}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card: the manifest says it all."""


def training_arguments(settings: TrainingSettings, folder: Path, *, heldout: bool) -> trl.SFTConfig:
    """What of TRL's many options is not left at its default, and the settings.

    Args:
        settings: Learning rate, seed ...
        folder: For checkpoints.
        heldout: Whether a held-out loss is measured.
    """
    return trl.SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=rows_per_batch(settings),
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=1,
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
