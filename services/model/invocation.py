"""How vLLM is called: its arguments and its environment."""

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tandem.registry import AdapterRef
from tandem.settings import ModelSettings
from tandem.weights import cpu_computes_bfloat16, cpu_cores


def command(model: ModelSettings, base_dir: Path, port: int, adapters: Sequence[AdapterRef]) -> list[str]:
    """vLLM's command line.

    Args:
        model: What decides the flags.
        base_dir: Folder of the base model.
        port: What it listens on.
        adapters: What it starts with.
    """
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    line += ["--model", str(base_dir), "--served-model-name", model.name]
    line += ["--host", model.host, "--port", str(port)]
    line += ["--max-model-len", str(model.max_model_len), "--max-num-seqs", str(model.max_num_seqs)]
    line += ["--dtype", _dtype(model.dtype), "--uvicorn-log-level", "warning"]
    line += ["--enable-lora", "--max-loras", str(model.max_loras), "--max-lora-rank", str(model.max_lora_rank)]
    # An adapter that is loaded beside those in use must not throw one of them out, to be read from disk again.
    line += ["--max-cpu-loras", str(model.max_loras + 2)]
    if on_cpu():
        line += ["--block-size", "32"]  # with the default of 128 short prompts never come from the prefix cache
    if adapters:
        line += ["--lora-modules", *(f"{ref.served}={ref.path.resolve()}" for ref in adapters)]
    return [*line, *model.extra_args]


def environment(model: ModelSettings) -> dict[str, str]:
    """vLLM's environment: ours, offline, and on the CPU bound to our cores."""
    env = dict(os.environ)
    env.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        VLLM_ALLOW_RUNTIME_LORA_UPDATING="True",
        VLLM_NO_USAGE_STATS="1",
        DO_NOT_TRACK="1",
        VLLM_LOGGING_LEVEL="INFO",  # TRL, once imported into a process, leaves ERROR there for its children
    )
    if model.api_key is not None:
        env["VLLM_API_KEY"] = model.api_key.get_secret_value()  # not in the arguments, which everyone can list
    if on_cpu():
        env["VLLM_CPU_KVCACHE_SPACE"] = str(model.kvcache_gib)
        env["VLLM_CPU_OMP_THREADS_BIND"] = model.threads or _ranges(cpu_cores())
        openmp = _intel_openmp()
        if openmp is not None:
            env["LD_PRELOAD"] = ":".join(filter(None, (str(openmp), env.get("LD_PRELOAD"))))
    return env


def on_cpu() -> bool:
    """Whether the installed vLLM is the build for the CPU."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _dtype(wanted: str) -> str:
    if wanted != "auto" or not on_cpu():
        return wanted
    return "bfloat16" if cpu_computes_bfloat16() else "float32"


def _ranges(cores: list[int]) -> str:
    """Cores as vLLM wants them: [0, 1, 2, 5] is 0-2,5."""
    parts: list[list[int]] = []
    for core in cores:
        if parts and core == parts[-1][-1] + 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _intel_openmp() -> Path | None:
    """The OpenMP library that vLLM's CPU build wants preloaded, from the wheel intel-openmp."""
    try:
        files = importlib.metadata.files("intel-openmp") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == "libiomp5.so":
            return Path(str(file.locate())).resolve()
    return None
