"""Small LoRA adapters in PEFT's layout, sound or broken as a test wants them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tandem.registry import CONFIG, WEIGHTS, AdapterRef, Manifest, Registry, adapter_digest

STEM = "base_model.model.model.layers.0.self_attn.v_proj"
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def write_adapter(folder: Path, seed: int = 1, *, rank: int = 4, sizes: tuple[int, int] = (6, 8), **config: Any) -> str:
    """Writes the files of an adapter on one module of the output and input sizes given; returns their digest."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{STEM}.lora_A.weight": rng.normal(size=(rank, sizes[1])).astype(np.float32),
        f"{STEM}.lora_B.weight": rng.normal(size=(sizes[0], rank)).astype(np.float32),
    }
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": rank, "bias": "none"} | config))
    return adapter_digest(folder)


def manifest_for(digest: str, **fields: Any) -> Manifest:
    """A manifest of little content."""
    recipe: dict[str, Any] = {
        "name": "house-style",
        "digest": digest,
        "base_model": "base",
        "base_digest": "b" * 64,
        "data_digest": "d" * 64,
        "prompt_version": "p",
        "created_at": NOW,
    }
    return Manifest.model_validate(recipe | fields)


def add_adapter(registry: Registry, folder: Path, seed: int = 1, **fields: Any) -> AdapterRef:
    """Writes a sound adapter and registers it."""
    return registry.add(folder, manifest_for(write_adapter(folder, seed), **fields))
