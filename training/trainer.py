"""LoRA training of the base model on drawn prompts: TRL's SFTTrainer over prefix-sharing rows."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from tandem.errors import AdapterError, ExampleError, ModelUnavailable
from tandem.settings import TrainingSettings
from tandem.weights import cpu_computes_bfloat16, cpu_cores
from training.augment import Augmenter
from training.fused_layer import fused_layers
from training.row_attention import RowLayout
from training.rows import Row, collate, render_row


@dataclass(frozen=True)
class Progress:
    """Where a training run stands.

    Attributes:
        loss: Mean over the steps since the last report, nats a token.
        tokens_per_second: Tokens of the rows, prefixes counted once.
        seconds_left: At the present speed.
    """

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Trained:
    """A trained model, still in memory, and what training it took, runs that were broken off included."""

    model: PeftModel
    tokenizer: Any
    steps: int
    tokens: int
    seconds: float
    loss: float


OnProgress = Callable[[Progress], None]


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


def rows_per_step(settings: TrainingSettings) -> int:
    """Rows in one optimiser step: a row holds some four questions."""
    return max(1, round(settings.batch_size / 4))


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
    start: Path | None = None,
) -> Trained:
    """Trains an adapter; goes on from the last checkpoint in `folder` if there is one.

    Args:
        base: The frozen base model; it gets the adapter's layers.
        tokenizer: Of the base model.
        rows: In training order.
        settings: Rank, learning rate, seed ...
        folder: Checkpoints of this run, and of no other.
        on_progress: Told every few steps.
        start: Folder of an adapter whose weights are gone on from.

    Raises:
        ExampleError: There are no rows.
        AdapterError: `start` has another rank or other targets.
    """
    if not rows:
        raise ExampleError("There is nothing to train on: no example was left after the guards.")
    torch.set_num_threads(len(cpu_cores()))
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config, autocast_adapter_dtype=True)  # the adapter itself is float32 everywhere
    if start is not None:
        _load_weights(model, start)
    last = get_last_checkpoint(folder) if folder.is_dir() else None
    reporter = _Reporter(rows, rows_per_step(settings), on_progress)
    trainer = _Trainer(
        model=model,
        args=_arguments(settings, folder, len(rows)),
        train_dataset=Dataset.from_dict({"row": list(range(len(rows)))}),
        data_collator=lambda batch: collate([rows[item["row"]] for item in batch], tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[reporter],
    )
    trainer.remove_callback(transformers_printer())
    with fused_layers(model.get_base_model()) as trainer.fused:
        result = trainer.train(resume_from_checkpoint=last)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Trained(
        model=model,
        tokenizer=tokenizer,
        steps=int(result.global_step),
        tokens=sum(len(row.ids) for row in rows),
        seconds=reporter.seconds,
        loss=sum(losses) / len(losses) if losses else float(result.training_loss),
    )


def _load_weights(model: PeftModel, folder: Path) -> None:
    """Puts the weights of a finished adapter into a fresh one of the same shape."""
    weights = load_file(folder / "adapter_model.safetensors")
    expected = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise AdapterError(
            f"The adapter {folder.name[:12]!r} has another rank or other targets than TANDEM_TRAINING__RANK and "
            "TANDEM_TRAINING__TARGETS say: make them equal, or unset TANDEM_TRAINING__START_FROM."
        )
    set_peft_model_state_dict(model, weights)


def transformers_printer() -> Any:
    """The callback that would print to standard output, which belongs to the command's result."""
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _arguments(settings: TrainingSettings, folder: Path, rows: int) -> trl.SFTConfig:
    steps = math.ceil(rows / rows_per_step(settings))
    return trl.SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=rows_per_step(settings),
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(0.04 * steps)),
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,  # the base is loaded in its type; autocast would only add casts
        gradient_checkpointing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        save_steps=40,
        save_total_limit=2,
        logging_steps=5,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
    )


class _Trainer(trl.SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, with a loss that computes logits for answer tokens only.

    The vocabulary is a fifth of this model's arithmetic, and nine tenths of the tokens are prompt.

    Attributes:
        fused: Whether the model's layers are `FusedLayer`.
    """

    fused = False

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        causal = self.accelerator.unwrap_model(model).get_base_model()
        mask = inputs["attention_mask"]
        layout = {"row_layout": RowLayout(mask, causal.dtype)} if self.fused else {}
        hidden = causal.model(
            input_ids=inputs["input_ids"],
            attention_mask=mask,
            position_ids=inputs["position_ids"],
            use_cache=False,
            **layout,
        ).last_hidden_state
        logits = causal.lm_head(hidden[inputs["predict_row"], inputs["predict_at"]])
        loss = torch.nn.functional.cross_entropy(logits.float(), inputs["targets"])
        return (loss, {"logits": logits}) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card: the manifest says it all."""


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Turns the trainer's log into `Progress`; keeps the time in the checkpoints, for a run that is resumed."""

    def __init__(self, rows: Sequence[Row], size: int, on_progress: OnProgress | None) -> None:
        self._tokens = [len(row.ids) for row in rows]
        self._size = size
        self._on_progress = on_progress
        self._first = 0
        self._before = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on training, earlier parts of the run included."""
        return self._before + time.monotonic() - self._started

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._first = state.global_step
        self._before = max((entry.get("elapsed", 0.0) for entry in state.log_history), default=0.0)
        self._started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.log_history:
            state.log_history[-1]["elapsed"] = round(self.seconds, 1)
        if self._on_progress is None or not logs or "loss" not in logs:
            return
        seconds = time.monotonic() - self._started
        done, first = state.global_step * self._size, self._first * self._size
        speed = sum(self._tokens[first:done]) / max(seconds, 1e-9)
        left = sum(self._tokens[done:]) / max(speed, 1e-9)
        self._on_progress(Progress(state.global_step, state.max_steps, float(logs["loss"]), speed, left))


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes the adapter in bfloat16, in PEFT's layout: adapter_model.safetensors and adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model)
    save_file(
        {name: tensor.detach().to(torch.bfloat16).contiguous().cpu() for name, tensor in sorted(state.items())},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = model.peft_config["default"]
    config.inference_mode = True
    config.save_pretrained(folder)
