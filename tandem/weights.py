"""Where the prepared model weights lie, and what they are called. Preparing them is `services/model/weights.py`'s work.

A prepared model is a folder `CACHE_DIR/models/NAME-DIGEST12/`. It appears by a rename, so one that exists is whole.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from tandem.errors import ModelUnavailable
from tandem.settings import Settings

BASE_MODEL = "SmolLM2-135M-Instruct"
FLOAT_EMBEDDER = "all-MiniLM-L6-v2"
INT8_EMBEDDER = "all-MiniLM-L6-v2-int8"
CROSS_ENCODER = "all-MiniLM-L6-v2-answers"
EMBEDDER_IR = "openvino_model.xml"  # inputs input_ids and attention_mask (n, tokens) int64; output (n, 384) float32
CROSS_ENCODER_LEARNT = "learnt.safetensors"  # what makes the embedder a cross-encoder
CROSS_ENCODER_IR = EMBEDDER_IR  # with token_type_ids; output (n,) float32
RECIPE_FILE = "tandem.json"


@dataclass(frozen=True)
class Weights:
    """The folders of the two prepared models."""

    embedder: Path
    base: Path


def models_dir(settings: Settings) -> Path:
    """The cache folder that holds the prepared models."""
    return settings.cache_dir.expanduser() / "models"


def model_dir(settings: Settings, name: str) -> Path:
    """The newest prepared folder of a model.

    Raises:
        ModelUnavailable: It is not prepared yet.
    """
    root = models_dir(settings)
    # The digest's length keeps NAME from finding NAME-int8.
    found = [path for path in root.glob(f"{name}-{'[0-9a-f]' * 12}") if (path / RECIPE_FILE).is_file()]
    if not found:
        raise ModelUnavailable(f"The model {name!r} is not prepared in {str(root)!r}: run `tandem models` once.")
    return max(found, key=lambda path: (path.stat().st_mtime, path.name))


def embedder_name(settings: Settings) -> str:
    """The embedding model that the settings name; for `auto` float32, where no index says otherwise.

    The int8 one is twice as quick where the CPU multiplies int8, and slower elsewhere. It is not taken by itself: its
    vector of a text hangs, in the third digit, on what is embedded in the same batch, which may be a document that the
    asker may not read.
    """
    return FLOAT_EMBEDDER if settings.embedding.model == "auto" else settings.embedding.model


def cross_encoder_dir(settings: Settings) -> Path | None:
    """The prepared folder of the cross-encoder that the settings name; None where they do without.

    Raises:
        ModelUnavailable: It is not prepared yet, or what it learnt is not there.
    """
    learnt = settings.retrieval.cross_encoder
    return model_dir(settings, cross_encoder_name(learnt)) if learnt is not None else None


def cross_encoder_name(learnt: Path) -> str:
    """The name under which a cross-encoder is prepared: another one learnt something else.

    Raises:
        ModelUnavailable: What it learnt cannot be read.
    """
    try:
        digest = hashlib.sha256((learnt / CROSS_ENCODER_LEARNT).read_bytes()).hexdigest()
    except OSError as exc:
        raise ModelUnavailable(
            f"What the cross-encoder learnt cannot be read: {str(learnt / CROSS_ENCODER_LEARNT)!r}: {exc.strerror}. "
            "Correct TANDEM_RETRIEVAL__CROSS_ENCODER, or leave it empty to do without."
        ) from exc
    return f"{CROSS_ENCODER}-{digest[:8]}"


def base_dir(settings: Settings) -> Path:
    """The folder of the base model: the configured one, or the prepared SmolLM2.

    Raises:
        ModelUnavailable: It does not exist, or holds no model.
    """
    configured = settings.model.path
    if configured is None:
        return model_dir(settings, BASE_MODEL)
    if not (configured / "config.json").is_file():
        raise ModelUnavailable(
            f"The model folder {str(configured)!r} (TANDEM_MODEL__PATH) holds no config.json: name a folder in Hugging "
            "Face's layout, or unset it to use the built-in model."
        )
    return configured


def find_models(settings: Settings) -> Weights:
    """The folders of both models, without preparing anything.

    Raises:
        ModelUnavailable: One of them is not there yet.
    """
    return Weights(embedder=model_dir(settings, embedder_name(settings)), base=base_dir(settings))


def model_digest(folder: Path) -> str:
    """What identifies the weights in `folder`: SHA-256 in hexadecimal.

    A prepared folder carries it; of any other the weight files are hashed (about a second for each GB).

    Raises:
        ModelUnavailable: There are no weights.
    """
    recipe = folder / RECIPE_FILE
    if recipe.is_file():
        return str(json.loads(recipe.read_text(encoding="utf-8"))["digest"])
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelUnavailable(f"The model folder {str(folder)!r} holds no *.safetensors file: download it again.")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def cpu_computes_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware. Elsewhere it is several times slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cpu_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))
