"""vLLM's LoRA layers on the CPU, taught to multiply as `lora_ops` does. Imported only inside vLLM's processes."""

from collections.abc import Callable
from typing import Any

import torch
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.layers.column_parallel_linear import MergedColumnParallelLinearWithLoRA
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform

from services.model.lora_ops import Packed, Share, add_packed, expand, pack, shares, shrink

_PACKED = "_tandem_packed"


class TandemPunicaCPU(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not typed here
    """Knows which adapters the batch of this step holds, worked out when the batch changes, not in every layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batch: tuple[Share, ...] = ()
        self.sampled: tuple[Share, ...] = ()
        self.rows = 0  # that a token is sampled from

    def update_metadata(self, mapping: Any, *args: Any, **kwargs: Any) -> None:
        """Called by vLLM before a step whose batch is not the last one's."""
        super().update_metadata(mapping, *args, **kwargs)
        self.batch = shares(self.token_lora_indices.tolist())
        self.sampled = shares(self.sampler_indices.tolist())
        self.rows = len(self.sampler_indices)

    def add_shrink(self, y: Any, x: torch.Tensor, lora_a_stacked: Any, scale: float, **kwargs: Any) -> None:
        """As in vLLM: y[i] = scale * x @ a[i], for each slice."""
        x = x.view(-1, x.shape[-1])
        for output, a in zip(y, lora_a_stacked, strict=True):
            shrink(output.view(-1, output.shape[-1]), x, a, self.batch, scale)

    def add_expand(
        self,
        y: torch.Tensor,
        x: Any,
        lora_b_stacked: Any,
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """As in vLLM: y's columns of each slice += x[i] @ b[i]."""
        y = y.view(-1, y.shape[-1])
        start = offset_start
        for hidden, b, width in zip(x, lora_b_stacked, output_slices, strict=True):
            expand(y, hidden, b, self.batch, start=start, width=width, add=add_inputs)
            start += width

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **kwargs: Any
    ) -> None:
        """As in vLLM: y += x @ b."""
        expand(y, x, lora_b_stacked, self.batch, add=add_inputs)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """As in vLLM: y += scale * x @ a @ b, for the rows that a token is sampled from.

        Where a client asks how likely its prompt is (`prompt_logprobs`), the rows are that prompt's, and vLLM does not
        say whose adapter they want: such logits stay the base model's, which they are unless an adapter has a part for
        the vocabulary.
        """
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        if x.shape[0] != self.rows:
            return
        if buffer is None:
            buffer = torch.zeros((x.shape[0], lora_b_stacked.shape[-1]), dtype=torch.float32)
        shrink(buffer, x, lora_a_stacked, self.sampled, scale)
        if buffer.any():  # as a rule no adapter touches the vocabulary, and this product is a large one
            expand(y, buffer, lora_b_stacked, self.sampled)


def install() -> None:
    """Has vLLM's layers of this process use it."""
    CpuPlatform.get_punica_wrapper = classmethod(lambda cls: f"{__name__}.{TandemPunicaCPU.__name__}")
    for layer in (BaseLinearLayerWithLoRA, MergedColumnParallelLinearWithLoRA):
        layer.set_lora = _packing(layer.set_lora)
    BaseLinearLayerWithLoRA.reset_lora = _forgetting(BaseLinearLayerWithLoRA.reset_lora)
    BaseLinearLayerWithLoRA._apply_lora_to_output = _apply_lora_to_output


def _packing(original: Callable[..., None]) -> Callable[..., None]:
    def set_lora(self: Any, index: int, lora_a: Any, lora_b: Any) -> None:
        original(self, index, lora_a, lora_b)
        # Read back from what vLLM will hold: sliced for this process and padded to the largest rank.
        held = zip(self.lora_a_stacked, self.lora_b_stacked, strict=True)
        slices = [_trimmed(a[index, 0], b[index, 0]) for a, b in held]
        _packed(self)[index] = pack([a for a, _ in slices], [b for _, b in slices], self.output_slices)

    return set_lora


def _forgetting(original: Callable[..., None]) -> Callable[..., None]:
    def reset_lora(self: Any, index: int) -> None:
        original(self, index)
        _packed(self)[index] = None

    return reset_lora


def _packed(layer: Any) -> list[Packed | None]:
    packed: list[Packed | None] | None = layer.__dict__.get(_PACKED)
    if packed is None:
        packed = [None] * layer.lora_a_stacked[0].shape[0]
        setattr(layer, _PACKED, packed)
    return packed


def _trimmed(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    used = a.any(dim=1).nonzero()
    rank = int(used[-1]) + 1 if len(used) else 0
    return (a[:rank], b[:, :rank]) if rank else (None, None)


def _apply_lora_to_output(self: Any, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    batch = self.punica_wrapper.batch
    if batch:
        add_packed(output.view(-1, output.shape[-1]), x.reshape(-1, x.shape[-1]), batch, _packed(self))
    return output
