"""Decoder layers of Llama's kind for training LoRA on a CPU, in fewer and larger operations.

They compute what transformers' and PEFT's own do. In float32 that is the same but for the order of sums; in bfloat16
some results between are rounded where theirs are not, LoRA's among them, which PEFT computes in float32.

On a GPU, and for models of another kind, training takes transformers' own layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import silu

from training.lora_linear import LoraLinears
from training.row_attention import Heads, RowLayout, row_attention


@contextmanager
def fused_layers(causal: Any) -> Iterator[bool]:
    """Lets the decoder layers of a model with LoRA compute by `FusedLayer` for a while.

    They then want `row_layout=RowLayout(...)` among the arguments of the model's forward.

    Args:
        causal: The causal model within the PEFT model.

    Yields:
        Whether they do: not on a GPU, nor where a layer has parts that Llama's have not.
    """
    layers = list(causal.model.layers) if _can_fuse(causal) else []
    for layer in layers:
        layer.forward = FusedLayer(layer, causal.config)
    try:
        yield bool(layers)
    finally:
        for layer in layers:
            del layer.forward


def _can_fuse(causal: Any) -> bool:
    if causal.device.type != "cpu" or causal.config.model_type != "llama" or causal.config.hidden_act != "silu":
        return False
    for layer in causal.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for module in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
            if not _is_plain(module):
                return False
        if not all(_is_plain(module) for module in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)):
            return False
    return True


def _is_plain(module: Any) -> bool:
    """A linear layer without bias, with one vanilla LoRA without dropout or with none."""
    if isinstance(module, LoraLinear):
        dropout = all(isinstance(part, torch.nn.Identity) for part in module.lora_dropout.values())
        vanilla = not any(module.lora_variant.values()) and not any(module.lora_bias.values())
        return dropout and vanilla and len(module.lora_A) == 1 and _is_plain(module.get_base_layer())
    return type(module) is torch.nn.Linear and module.bias is None


class FusedLayer:
    """Takes the place of a `LlamaDecoderLayer`'s forward.

    Args:
        layer: With LoRA in its projections.
        config: Of the model.
    """

    def __init__(self, layer: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._qkv = LoraLinears([attention.q_proj, attention.k_proj, attention.v_proj])
        self._out = LoraLinears([attention.o_proj])
        self._gate_up = LoraLinears([mlp.gate_proj, mlp.up_proj])
        self._down = LoraLinears([mlp.down_proj])
        self._before, self._between = layer.input_layernorm, layer.post_attention_layernorm
        self._heads = Heads(
            config.num_attention_heads, config.num_key_value_heads, attention.head_dim, attention.scaling
        )

    def __call__(
        self, hidden: Tensor, *, position_embeddings: tuple[Tensor, Tensor], row_layout: RowLayout, **_: Any
    ) -> Tensor:
        """Args: hidden (rows, length, numbers). Returns: the same shape."""
        shape = hidden.shape
        hidden = hidden.reshape(-1, shape[-1])
        x = _normed(hidden, self._before)
        attended = row_attention(self._qkv(x), *position_embeddings, row_layout, self._heads)
        hidden = hidden + self._out(attended)
        x = _normed(hidden, self._between)
        hidden = hidden + self._down(_Gated.apply(self._gate_up(x)))
        return hidden.view(shape)


def _normed(x: Tensor, norm: Any) -> Tensor:
    return _RmsNorm.apply(x, norm.weight, norm.variance_epsilon)


class _RmsNorm(Function):  # type: ignore[misc]
    """Root mean square norm with a frozen weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        factor = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, factor)
        return (x * factor.to(x.dtype)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor = ctx.saved_tensors
        grad = grad * weight
        along = torch.sum(grad * x, -1, keepdim=True, dtype=torch.float32) * factor.pow(3) / -x.shape[-1]
        return (grad * factor.to(grad.dtype)).addcmul_(x, along.to(x.dtype)), None, None


class _Gated(Function):  # type: ignore[misc]
    """silu(gate) * up, of gate and up side by side."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        out = torch.empty_like(gate_up)
        gate_out, up_out = out.chunk(2, -1)
        torch.mul(silu(gate), grad, out=up_out)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=gate_out)
        return out
