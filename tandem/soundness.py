"""Whether an adapter's files can be served: whole, finite, and of the shapes of the base model.

The model server would take some that are not: a smaller matrix is copied into a corner of a larger one, and weights
that are no numbers give answers that are none.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from tandem.errors import AdapterError
from tandem.manifest import CONFIG, WEIGHTS
from tandem.serving import Serving

_PREFIX = "base_model.model."
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
# What PEFT can write and vLLM cannot serve, and the value that means it is not used.
_UNSERVED: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "modules_to_save": ([], None),
}


def check_sound(served: str, folder: Path, serving: Serving) -> None:
    """Checks an adapter's files.

    Args:
        served: Its name, for the message.
        folder: Holds them.
        serving: What they must fit, as far as it is known.

    Raises:
        AdapterError: They cannot be served; the message says why.
    """
    try:
        config = _config(folder)
        tensors = _tensors(folder)
        for module, (a, b) in tensors.items():
            _check_rank(module, a[0], b[1], config, serving.max_rank)
            _check_shape(module, (b[0], a[1]), serving, transposed=bool(config.get("fan_in_fan_out")))
    except _Unsound as exc:
        raise AdapterError(f"The adapter {served} cannot be served: {exc} Train it again with `tandem train`.") from exc


def adapter_modules(folder: Path) -> dict[str, tuple[int, int]]:
    """Output and input size of each module that an adapter changes; nothing where its files cannot be read."""
    try:
        return {module: (b[0], a[1]) for module, (a, b) in _tensors(folder).items()}
    except _Unsound:
        return {}


class _Unsound(Exception):
    """Why it cannot be served, a sentence."""


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise _Unsound(f"its {CONFIG} cannot be read.") from exc
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise _Unsound(f"its {CONFIG} describes no LoRA adapter.")
    for name, neutral in _UNSERVED.items():
        if config.get(name) not in neutral:
            raise _Unsound(f"it was trained with {name}={config[name]!r}, which vLLM does not serve.")
    return config


def _tensors(folder: Path) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
    """The shapes of both matrices of each module: A is (rank, input), B is (output, rank)."""
    try:
        rows = deserialize((folder / WEIGHTS).read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as exc:
        raise _Unsound(f"its {WEIGHTS} is broken ({exc}).") from exc
    sides: dict[str, dict[str, tuple[int, int]]] = {}
    for name, tensor in rows:
        module, _, side = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if side not in ("lora_A", "lora_B") or len(tensor["shape"]) != 2:
            raise _Unsound(f"it holds {name!r}, which is no matrix of a LoRA adapter.")
        if not _finite(tensor["dtype"], tensor["data"]):
            raise _Unsound(f"its matrix {name!r} holds values that are no finite numbers.")
        sides.setdefault(module, {})[side] = (tensor["shape"][0], tensor["shape"][1])
    halves = [module for module, both in sides.items() if len(both) != 2]
    if halves or not sides:
        raise _Unsound(f"one of the two matrices of {halves[0]!r} is missing." if halves else "it holds no matrices.")
    return {module: (both["lora_A"], both["lora_B"]) for module, both in sides.items()}


def _finite(dtype: str, data: bytes) -> bool:
    if dtype == "BF16":  # numpy has no such type; not finite is an exponent of all ones
        return not bool(((np.frombuffer(data, np.uint16) & 0x7F80) == 0x7F80).any())
    if dtype not in _FLOATS:
        raise _Unsound(f"its weights are stored as {dtype}, which is no type of LoRA weights.")
    return bool(np.isfinite(np.frombuffer(data, _FLOATS[dtype])).all())


def _check_rank(module: str, rank: int, other: int, config: dict[str, Any], largest: int | None) -> None:
    if rank != other:
        raise _Unsound(f"the two matrices of {module!r} have the ranks {rank} and {other}.")
    if not config.get("rank_pattern") and rank != config.get("r"):
        raise _Unsound(f"{module!r} has the rank {rank}, and its {CONFIG} says {config.get('r')}.")
    if largest is not None and rank > largest:
        raise _Unsound(
            f"it has the rank {rank}, and the model server takes {largest} at most (TANDEM_MODEL__MAX_LORA_RANK)."
        )


def _check_shape(module: str, shape: tuple[int, int], serving: Serving, *, transposed: bool) -> None:
    if not serving.modules:
        return
    wanted = serving.modules.get(module)
    if wanted is None and serving.base_digest is not None:
        raise _Unsound(f"the base model has no module {module!r}.")
    if wanted is not None and shape != (wanted[::-1] if transposed else wanted):
        raise _Unsound(
            f"{module!r} has the shape {shape[0]} x {shape[1]}, in the base model {wanted[0]} x {wanted[1]}."
        )
