"""The plugin for vLLM: on the CPU, adapters that answer as they do alone, and nearly as fast as the base model, and
requests that are answered beside each other.

vLLM calls `register` in each of its processes; it finds it by its entry point in the group `vllm.general_plugins`.
"""

import importlib.metadata
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

GROUP = "vllm.general_plugins"
NAME = "tandem-lora"
AT_WORK = "Tandem's LoRA operators are at work"

log = logging.getLogger("vllm.tandem")  # under vLLM's own name, so that its log has it


def installed() -> bool:
    """Whether vLLM will find the plugin: not where the code is newer than what was installed."""
    return any(entry.name == NAME for entry in importlib.metadata.entry_points(group=GROUP))


def register() -> None:
    """Replaces LoRA operators and waiting on the CPU; leaves vLLM alone elsewhere, or if it is not as expected."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    _install_waiting()
    _install_operators()


def _install_waiting() -> None:
    from services.model import waiting

    odd = waiting.install()
    if odd is not None:
        log.warning("vLLM may answer requests one after the other that come at once: %s.", odd)


def _install_operators() -> None:
    try:
        odd = next(_unexpected(), None)
    except (ImportError, AttributeError) as exc:
        odd = str(exc)
    if odd is not None:
        log.warning(
            "This vLLM is not the one that Tandem's LoRA operators were written for, and they are left out: %s. "
            "Adapters are slow, and a base-model request beside them may be answered by one of them.",
            odd,
        )
        return
    from services.model import lora_punica

    lora_punica.install()
    log.info("%s: one product for each adapter in a batch.", AT_WORK)


def _unexpected() -> Iterator[str]:
    """What differs from vLLM 0.32, in whose place the plugin puts its own."""
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.lora.layers.column_parallel_linear import MergedColumnParallelLinearWithLoRA
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
    from vllm.platforms.cpu import CpuPlatform

    expected: list[tuple[Callable[..., Any], str]] = [
        (PunicaWrapperCPU.update_metadata, "self mapping lora_index_to_id max_loras vocab_size kwargs"),
        (PunicaWrapperCPU.add_shrink, "self y x lora_a_stacked scale kwargs"),
        (PunicaWrapperCPU.add_expand, "self y x lora_b_stacked output_slices offset_start add_inputs kwargs"),
        (PunicaWrapperCPU.add_lora_embedding, "self y x lora_b_stacked add_inputs kwargs"),
        (PunicaWrapperCPU.add_lora_logits, "self y x lora_a_stacked lora_b_stacked scale buffer kwargs"),
        (BaseLinearLayerWithLoRA.set_lora, "self index lora_a lora_b"),
        (BaseLinearLayerWithLoRA.reset_lora, "self index"),
        (BaseLinearLayerWithLoRA._apply_lora_to_output, "self x output"),
        (MergedColumnParallelLinearWithLoRA.set_lora, "self index lora_a lora_b"),
        (CpuPlatform.get_punica_wrapper, ""),
    ]
    for function, parameters in expected:
        found = " ".join(inspect.signature(function).parameters)
        if found != parameters:
            yield f"{function.__qualname__} takes ({found}), not ({parameters})"
    if not CpuPlatform.get_punica_wrapper().endswith(f".{PunicaWrapperCPU.__name__}"):
        yield f"the CPU's LoRA operators are {CpuPlatform.get_punica_wrapper()}"
