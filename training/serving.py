"""What vLLM can serve, read from the installed vLLM without importing it, which takes a process of its own."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's choices for --max-lora-rank
_PACKAGE = "vllm.model_executor.models."


def serves_lora(architecture: str) -> bool | None:
    """Whether vLLM serves LoRA adapters for an architecture, such as `LlamaForCausalLM`; None if that is not known."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    models = Path(spec.submodule_search_locations[0]) / "model_executor" / "models"
    place = _registered(models).get(architecture)
    if place is None:
        return None  # vLLM may still run it with transformers' code
    return _supports(models, *place)


@cache
def _registered(models: Path) -> dict[str, tuple[str, str]]:
    """Architectures with their module and class, from vLLM's registry."""
    for node in _parse(models / "registry.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_TEXT_GENERATION_MODELS":
            return dict(ast.literal_eval(node.value))
    return {}


def _supports(models: Path, module: str, name: str) -> bool | None:
    """Whether a class, or one that it inherits from, is marked with vLLM's `SupportsLoRA`."""
    path = models / f"{module}.py"
    if not path.is_file():
        return None
    body = _parse(path).body
    imported = {
        alias.asname or alias.name: (node.module.removeprefix(_PACKAGE), alias.name)
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module and (node.level == 1 or node.module.startswith(_PACKAGE))
        for alias in node.names
    }
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [ast.unparse(base) for base in node.bases]
            if "SupportsLoRA" in bases:
                return True
            places = [imported.get(base, (module, base)) for base in bases]
            return any(_supports(models, *place) for place in places)
    return None


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
