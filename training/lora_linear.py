"""Linear layers with LoRA that read the same input, computed as one.

PEFT computes `W x + s B (A x)` with a cast, three products, a multiplication and a sum for each module, and autograd
undoes each of them alone. On a CPU, where a rank-16 product costs as much as moving its result, that is most of the
time. Here q, k and v (or gate and up) are one product, and LoRA adds one thin product into its result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True)
class _Place:
    """Where a module's B lies in the joint B: its outputs and its ranks."""

    outputs: slice
    ranks: slice


class LoraLinears:
    """The linear modules of one input, some or all of which have LoRA.

    Their frozen weights become parts of one matrix, which is kept in both orders: products with a matrix in the wrong
    order run on one core only. The weights of LoRA stay PEFT's, in float32.

    Args:
        modules: PEFT's LoRA layers, each with one adapter, or plain `torch.nn.Linear`, without bias.
    """

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        bases = [module.get_base_layer() if isinstance(module, LoraLinear) else module for module in modules]
        weights: list[Tensor] = [base.weight.data for base in bases]
        self.weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        self.transposed = self.weight.t().contiguous()
        self.sizes = [weight.shape[0] for weight in weights]
        self.parameters: list[Tensor] = []
        self.places: list[_Place] = []
        scales: list[Tensor] = []
        at = rank = 0
        for module, base, size in zip(modules, bases, self.sizes, strict=True):
            base.weight.data = self.weight[at : at + size]  # the same numbers, and not a second copy of them
            if isinstance(module, LoraLinear):
                (adapter,) = module.lora_A
                a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
                self.parameters += [a, b]
                self.places.append(_Place(slice(at, at + size), slice(rank, rank + a.shape[0])))
                scales.append(torch.full((a.shape[0], 1), float(module.scaling[adapter])))
                rank += a.shape[0]
            at += size
        self.outputs, self.rank = at, rank
        self.scale = torch.cat(scales) if scales else torch.ones(0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Args: x (tokens, inputs). Returns: (tokens, outputs of all modules side by side)."""
        return _LoraProduct.apply(x, self, *self.parameters)

    def joint_a(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """All A above one another, with the scaling in them: (rank, inputs)."""
        return (torch.cat(list(parameters[::2])) * self.scale).to(dtype)

    def joint_b(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """All B in the blocks of one matrix: (outputs, rank)."""
        if len(self.sizes) == 1:
            return parameters[1].to(dtype)
        joint = torch.zeros(self.outputs, self.rank, dtype=dtype)
        for place, b in zip(self.places, parameters[1::2], strict=True):
            joint[place.outputs, place.ranks] = b
        return joint


class _LoraProduct(Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: LoraLinears, *parameters: Tensor) -> Tensor:
        ctx.layer = layer
        y = torch.mm(x, layer.weight.t())
        if parameters:
            a, b = layer.joint_a(parameters, x.dtype), layer.joint_b(parameters, x.dtype)
            low = torch.mm(x, a.t())
            y.addmm_(low, b.t())
            ctx.save_for_backward(x, low, a, b)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: LoraLinears = ctx.layer
        grad_x = torch.mm(grad, layer.transposed.t()) if ctx.needs_input_grad[0] else None
        if not layer.parameters:
            return grad_x, None
        x, low, a, b = ctx.saved_tensors
        low_grad = torch.mm(grad, b)
        if grad_x is not None:
            grad_x.addmm_(low_grad, a)
        grad_a = torch.mm(low_grad.t(), x) * layer.scale
        grad_b = torch.mm(grad.t(), low).float()
        of_parameters: list[Tensor | None] = []
        for place in layer.places:
            of_parameters += [grad_a[place.ranks], grad_b[place.outputs, place.ranks]]
        return grad_x, None, *of_parameters
