"""An adapter's weights on disk: whether a run can go on from them, read into a model, and written in PEFT's layout."""

import json
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tandem.errors import AdapterError
from tandem.registry import CONFIG, WEIGHTS
from tandem.settings import TrainingSettings


def check_start(start: Path, settings: TrainingSettings) -> None:
    """Refuses an adapter that a run cannot go on from.

    Weights mean something else under another alpha, and nothing under another rank or in other modules.

    Raises:
        AdapterError: It was trained with other settings; the message names them.
    """
    config = json.loads((start / CONFIG).read_text(encoding="utf-8"))
    targets = config.get("target_modules") or []
    theirs = {
        "RANK": config.get("r"),
        "ALPHA": config.get("lora_alpha"),
        "TARGETS": targets if isinstance(targets, str) else sorted(targets),
    }
    ours = {"RANK": settings.rank, "ALPHA": settings.alpha, "TARGETS": sorted(settings.targets)}
    others = [
        f"TANDEM_TRAINING__{name} is {ours[name]} and was {theirs[name]}" for name in ours if ours[name] != theirs[name]
    ]
    if others:
        raise AdapterError(
            f"The adapter {start.name[:12]!r} was trained with other settings ({'; '.join(others)}): make them "
            "equal, or unset TANDEM_TRAINING__START_FROM."
        )


def load_weights(model: PeftModel, folder: Path) -> None:
    """Puts the weights of a finished adapter into a fresh one of the same shape.

    Raises:
        AdapterError: They have another shape.
    """
    weights = load_file(folder / WEIGHTS)
    expected = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise AdapterError(
            f"The weights in {str(folder)!r} do not fit the base model and the targets: train without them."
        )
    set_peft_model_state_dict(model, weights)


def average(model: PeftModel, other: Path, share: float) -> None:
    """Puts the mean of a model's adapter and of another one of the same shape in its place.

    Args:
        model: With the adapter.
        other: Folder of the other one.
        share: Of the other one in the mean, 0 to 1.
    """
    own = get_peft_model_state_dict(model)
    theirs = load_file(other / WEIGHTS)
    mean = {
        name: torch.lerp(weights.float(), theirs[name].to(weights.device).float(), share)
        for name, weights in own.items()
    }
    set_peft_model_state_dict(model, mean)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes the adapter in bfloat16, in PEFT's layout: adapter_model.safetensors and adapter_config.json."""
    save_weights(model, folder, torch.bfloat16)
    config = model.peft_config["default"]
    config.inference_mode = True
    # Its name and not the folder: where this machine keeps its models is nobody's business, nor part of the digest.
    config.base_model_name_or_path = Path(config.base_model_name_or_path or "").name
    config.target_modules = sorted(config.target_modules)  # a set is written in no order, and the digest is of the file
    config.save_pretrained(folder)


def save_weights(model: PeftModel, folder: Path, dtype: torch.dtype) -> None:
    """Writes the weights alone, in a type."""
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model)
    save_file(
        {name: tensor.detach().to(dtype).contiguous().cpu() for name, tensor in sorted(state.items())},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
