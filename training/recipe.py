"""The manifest of a finished run: everything that made the adapter."""

import importlib.metadata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.prompt import PROMPT_VERSION
from tandem.registry import Manifest, adapter_digest
from tandem.settings import Settings
from tandem.weights import cross_encoder_dir, embedder_name, model_digest
from training.examples import data_digest
from training.material import Material
from training.preference_stage import Preferred
from training.preferences import preferences_digest

if TYPE_CHECKING:
    from training.rows import Row
    from training.trainer import Trained

_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers")
_FIRST_STAGE = ("passes", "batch_size", "accumulation", "learning_rate", "warmup", "max_tokens", "seed")
_START = ("start_from", "start_share", "replay")
_KEPT = ("eval_steps", "heldout_rows", "patience")  # decide which step's weights are kept
_SECOND_STAGE = ("preference_passes", "preference_learning_rate", "preference_beta")


def write_manifest(
    name: str,
    folder: Path,
    base: Path,
    settings: Settings,
    material: Material,
    rows: "Sequence[Row]",
    trained: "Trained",
    preferred: Preferred | None,
    processes: int = 1,
) -> Manifest:
    """Writes down how an adapter came to be; the gate's verdict is added when there is one.

    Args:
        name: Of the adapter.
        folder: Its files in PEFT's layout.
        base: The base model's folder.
        settings: How it was trained.
        material: What it was trained on.
        rows: The prompts drawn from that.
        trained: What came of it.
        preferred: What the second stage did, if there was one.
        processes: That shared in the training; they have ended by now.
    """
    training = settings.training
    stages = {f"preference_{key}": value for key, value in preferred.model_dump().items()} if preferred else {}
    return Manifest(
        name=name,
        digest=adapter_digest(folder),
        base_model=base.name,
        base_digest=model_digest(base),
        data_digest=data_digest(material.trained),
        data={
            "read": len(material.trained) + material.refused + material.rested,
            "refused": material.refused,
            "rested": material.rested,
            "questions": sum(len(set(row.branches) - {0}) for row in rows),
            "prompts": len(rows),
            "preferences": preferred.pairs if preferred else 0,
        },
        prompt_version=PROMPT_VERSION,
        style=material.guide.name,
        lora={"rank": training.rank, "alpha": training.alpha, "targets": list(training.targets)},
        training=_recipe(settings, material)
        | {
            "processes": processes,
            "dtype": str(trained.model.dtype).removeprefix("torch."),
            "device": trained.model.device.type,
        },
        metrics={**trained.outcome.model_dump(exclude_none=True), **stages},
        versions={library: importlib.metadata.version(library) for library in _LIBRARIES},
        created_at=datetime.now(UTC),
    )


def _recipe(settings: Settings, material: Material) -> dict[str, Any]:
    """What decides, beside the examples and the base model, which weights come of a run."""
    training = settings.training
    recipe = {key: getattr(training, key) for key in (*_FIRST_STAGE, *_KEPT)}
    if training.start_from is not None:
        recipe |= {key: getattr(training, key) for key in _START}
    recipe |= {
        "tuning_digest": data_digest(material.tuning),
        "retrieval": settings.retrieval.model_dump(mode="json", exclude={"cross_encoder"}),  # picks a prompt's evidence
        "embedding": embedder_name(settings),
        "cross_encoder": prepared.name if (prepared := cross_encoder_dir(settings)) is not None else None,
    }
    if material.preferences:
        recipe |= {key: getattr(training, key) for key in _SECOND_STAGE}
        recipe["preferences_digest"] = preferences_digest(material.preferences)
    return recipe
