"""The second stage of training, which learns from preference pairs: TRL's DPO.

The adapter that the first stage trained goes on; a frozen copy of it is what DPO compares with.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tandem.schemas import Value
from tandem.settings import TrainingSettings
from training.launch import processes
from training.preferences import Preference, conversation

_STEP = 4  # pairs of one optimiser step, all processes together


class Preferred(Value):
    """What the second stage came to.

    Attributes:
        pairs: That were trained on.
        loss: DPO's, mean over the last pass; 0.69 where nothing was learned.
        margin: By how much more the chosen answers became likely than the rejected ones, in DPO's reward units.
    """

    pairs: int
    steps: int
    loss: float
    margin: float


def train_on_preferences(
    model: Any, tokenizer: Any, preferences: Sequence[Preference], settings: TrainingSettings, folder: Path
) -> Preferred:
    """Trains the adapter of a model on pairs. Short enough to start over when it was killed.

    Args:
        model: PEFT's, with the adapter `default` of the first stage.
        tokenizer: Of the model.
        preferences: At least one.
        settings: Passes, learning rate, beta, seed.
        folder: For what the trainer writes.
    """
    import torch
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        output_dir=str(folder),
        beta=settings.preference_beta,
        num_train_epochs=settings.preference_passes,
        learning_rate=settings.preference_learning_rate,
        per_device_train_batch_size=1,  # a pair's logits over the whole vocabulary are large
        gradient_accumulation_steps=max(1, min(_STEP, len(preferences)) // processes()),
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        seed=settings.seed,
        data_seed=settings.seed,
        max_length=None,  # nothing is cut off: an answer without its end teaches the wrong thing
        use_cpu=not torch.cuda.is_available(),
        bf16=False,  # the base is loaded in its type
        gradient_checkpointing=False,
        ddp_find_unused_parameters=False,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    rng = random.Random(settings.seed)
    rows = [conversation(preference, rng) for preference in preferences]
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    result = trainer.train()
    model.delete_adapter("ref")  # TRL's frozen copy
    model.set_adapter("default")
    logged = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    last = logged[-max(1, round(len(logged) / settings.preference_passes)) :]
    return Preferred(
        pairs=len(preferences),
        steps=int(result.global_step),
        loss=round(sum(entry["loss"] for entry in last) / len(last), 4),
        margin=round(sum(entry["rewards/margins"] for entry in last) / len(last), 4),
    )
