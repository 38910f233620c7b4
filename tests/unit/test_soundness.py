"""Adapters that must not be promoted are refused with the reason, and the old one stays."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tandem.errors import AdapterError
from tandem.registry import CONFIG, MANIFEST, WEIGHTS, AdapterRef, Registry, adapter_digest
from tandem.serving import Serving, serving_of
from tandem.settings import load_settings
from tests.adapter_files import STEM, add_adapter, manifest_for, write_adapter

MODULE = "model.layers.0.self_attn.v_proj"
SERVING = Serving(max_rank=16, base_digest="b" * 64, modules={MODULE: (6, 8)})
UNSEEN = Serving(max_rank=16, like_active=True)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry", lambda: SERVING)
    registry.promote(add_adapter(registry, tmp_path / "old", 1), "tests")
    return registry


def register(registry: Registry, folder: Path, **fields: str) -> AdapterRef:
    return registry.add(folder, manifest_for(adapter_digest(folder), **fields))


def with_value(folder: Path, value: float) -> None:
    write_adapter(folder)
    tensors = load_file(folder / WEIGHTS)
    tensors[f"{STEM}.lora_B.weight"][2, 1] = value
    save_file(tensors, folder / WEIGHTS)


def in_bfloat16(folder: Path, value: float) -> None:
    """As `with_value`, stored as PEFT stores a model that was trained in bfloat16: numpy has no such type."""
    with_value(folder, value)
    tensors = load_file(folder / WEIGHTS)
    header, body = {}, b""
    for name, tensor in tensors.items():
        data = (np.ascontiguousarray(tensor).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    head = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(head).to_bytes(8, "little") + head + body)


def truncated(folder: Path) -> None:
    write_adapter(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-40])


def half(folder: Path) -> None:
    write_adapter(folder)
    tensors = load_file(folder / WEIGHTS)
    del tensors[f"{STEM}.lora_B.weight"]
    save_file(tensors, folder / WEIGHTS)


def of_another_module(folder: Path) -> None:
    write_adapter(folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({name.replace("v_proj", "w_proj"): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)


def without_config(folder: Path) -> None:
    write_adapter(folder)
    (folder / CONFIG).write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (truncated, "adapter_model.safetensors is broken"),
        (lambda folder: with_value(folder, float("nan")), "no finite numbers"),
        (lambda folder: with_value(folder, float("inf")), "no finite numbers"),
        (lambda folder: in_bfloat16(folder, float("nan")), "no finite numbers"),
        (half, "one of the two matrices of .* is missing"),
        (of_another_module, "no module 'model.layers.0.self_attn.w_proj'"),
        (without_config, "adapter_config.json cannot be read"),
        (lambda folder: write_adapter(folder, rank=32), r"rank 32, .* 16 at most \(TANDEM_MODEL__MAX_LORA_RANK\)"),
        (lambda folder: write_adapter(folder, r=8), "the rank 4, and its adapter_config.json says 8"),
        (lambda folder: write_adapter(folder, sizes=(6, 7)), "shape 6 x 7, in the base model 6 x 8"),
        (lambda folder: write_adapter(folder, use_dora=True), "use_dora=True, which vLLM does not serve"),
        (lambda folder: write_adapter(folder, peft_type="IA3"), "no LoRA adapter"),
    ],
)
def test_what_cannot_be_served_is_refused(
    registry: Registry, tmp_path: Path, write: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path / "new")
    ref = register(registry, tmp_path / "new")
    old = registry.active("house-style")
    with pytest.raises(AdapterError, match=reason):
        registry.promote(ref, "tests")
    with pytest.raises(AdapterError, match=reason):
        registry.start_canary(ref, 0.5, "tests")
    assert registry.active("house-style") == old
    assert registry.canary("house-style") is None
    assert len(registry.history("house-style")) == 1


def test_sound_bfloat16_is_taken(registry: Registry, tmp_path: Path) -> None:
    in_bfloat16(tmp_path / "new", 1.0)
    registry.promote(register(registry, tmp_path / "new"), "tests")


def test_files_that_changed_a_lost_manifest_and_another_base_are_refused(registry: Registry, tmp_path: Path) -> None:
    changed, lost = (add_adapter(registry, tmp_path / str(seed), seed) for seed in (2, 3))
    (changed.path / CONFIG).write_text((changed.path / CONFIG).read_text() + " ")
    (lost.path / MANIFEST).unlink()
    foreign = add_adapter(registry, tmp_path / "foreign", 4, base_digest="c" * 64)
    for ref, reason in (
        (changed, "not those it was registered with"),
        (lost, "no readable manifest.json"),
        (foreign, "trained on another base model"),
    ):
        with pytest.raises(AdapterError, match=reason):
            registry.promote(ref, "tests")


def test_where_the_base_model_cannot_be_seen_the_active_version_tells_what_fits(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry", lambda: UNSEEN)
    registry.promote(add_adapter(registry, tmp_path / "old", 1), "tests")
    foreign = add_adapter(registry, tmp_path / "foreign", 2, base_digest="c" * 64)
    with pytest.raises(AdapterError, match=r"another base model than the active .*TANDEM_MODEL__PATH"):
        registry.promote(foreign, "tests")
    write_adapter(tmp_path / "wide", 3, sizes=(6, 9))
    with pytest.raises(AdapterError, match="6 x 9, in the base model 6 x 8"):
        registry.promote(register(registry, tmp_path / "wide"), "tests")
    registry.promote(add_adapter(registry, tmp_path / "new", 4), "tests")


def test_the_shipped_adapter_fits_the_base_model(base_model: Path) -> None:
    settings = load_settings()
    serving = serving_of(settings)
    assert serving.base_digest is not None
    assert serving.modules["model.layers.0.self_attn.v_proj"] == (192, 576)
    assert settings.adapter.shipped is not None
    shipped = Registry(settings.adapter.shipped, lambda: serving)
    ref = shipped.active(settings.adapter.name)
    assert ref is not None
    shipped.check(ref)
