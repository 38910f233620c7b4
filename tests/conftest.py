"""What all tests share: settings over a temporary folder, and one real vLLM for the whole session."""

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.model.server import ModelServer
from services.model.weights import ensure_models
from tandem.embedder import Embedder
from tandem.prompt import PROMPT_VERSION
from tandem.registry import AdapterRef, Manifest, Registry, adapter_digest
from tandem.settings import Settings, load_settings
from tandem.weights import model_digest

# Read when the libraries are imported, which is later: no test speaks to a hub or reports its use.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1", OMP_WAIT_POLICY="passive")

T = TypeVar("T")
START_TIMEOUT = 300.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings over a data directory of this test's own."""
    return load_settings(data_dir=tmp_path / "data")


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The prepared base model."""
    return ensure_models(load_settings(), embedder=False, base=True).base


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Path:
    """Two layers of 32 numbers, random weights, the real vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base_model / name, folder / name)
    config = LlamaConfig.from_pretrained(base_model)
    config.update(
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "initializer_range": 0.3,  # else so small a model can hardly say anything
        }
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embedder_dir() -> Path:
    return ensure_models(load_settings(), embedder=True, base=False).embedder


@pytest.fixture(scope="session")
def embedder(embedder_dir: Path) -> Embedder:
    return Embedder(embedder_dir, load_settings().embedding)


@dataclass(frozen=True)
class RunningModel:
    """One vLLM with its event loop, which runs in a thread that lives as long as it.

    Attributes:
        url: The endpoint, ending in /v1.
        registry: What it serves from.
        adapter: The active version there.
    """

    server: ModelServer
    settings: Settings
    registry: Registry
    adapter: AdapterRef
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return self.server.url

    def run(self, work: Coroutine[Any, Any, T], timeout: float = START_TIMEOUT) -> T:
        """Runs a coroutine on the server's loop and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)


@pytest.fixture(scope="session")
def make_adapter(base_model: Path) -> Callable[..., AdapterRef]:
    """Registers a small random adapter for the base model: real files, a meaningless voice."""

    def make(
        registry: Registry, folder: Path, *, seed: int = 1, scale: float = 0.05, name: str = "house-style"
    ) -> AdapterRef:
        return random_adapter(registry, folder, base_model, seed=seed, scale=scale, name=name)

    return make


@pytest.fixture(scope="session")
def model_server(
    tmp_path_factory: pytest.TempPathFactory, base_model: Path, make_adapter: Callable[..., AdapterRef]
) -> Iterator[RunningModel]:
    """The one vLLM of the test session, with an active adapter: the shipped one if there is one, else a random one."""
    root = tmp_path_factory.mktemp("model")
    settings = load_settings(data_dir=root / "data")
    shipped = Registry(settings.adapter.shipped) if settings.adapter.shipped else None
    active = shipped.active(settings.adapter.name) if shipped else None
    registry = Registry(settings.registry)
    if shipped and active:
        adapter = registry.add(active.path, shipped.manifest(active))
    else:
        adapter = make_adapter(registry, root / "random")
    registry.promote(adapter, "tests")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = ModelServer(settings, base_model, registry)
    running = RunningModel(server, settings, registry, adapter, loop)
    try:
        running.run(server.start())
        running.run(server.wait_ready())
        yield running
    finally:
        running.run(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def random_adapter(
    registry: Registry, folder: Path, base: Path, *, seed: int, scale: float, name: str = "house-style"
) -> AdapterRef:
    """Writes a random rank-8 adapter on the value projections in PEFT's layout and registers it."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    hidden, heads = config["hidden_size"], config["num_key_value_heads"]
    out = heads * config.get("head_dim", hidden // config["num_attention_heads"])
    rng = np.random.default_rng(seed)
    tensors: dict[str, Any] = {}
    for layer in range(config["num_hidden_layers"]):
        stem = f"base_model.model.model.layers.{layer}.self_attn.v_proj"
        tensors[f"{stem}.lora_A.weight"] = rng.normal(0, scale, (8, hidden)).astype(np.float32)
        tensors[f"{stem}.lora_B.weight"] = rng.normal(0, scale, (out, 8)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj"]}
    lora |= {"base_model_name_or_path": base.name, "bias": "none", "lora_dropout": 0.0, "inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps(lora), encoding="utf-8")
    manifest = Manifest(
        name=name,
        digest=adapter_digest(folder),
        base_model=base.name,
        base_digest=model_digest(base),
        data_digest="0" * 64,
        prompt_version=PROMPT_VERSION,
        created_at=datetime.now(UTC),
    )
    return registry.add(folder, manifest)
