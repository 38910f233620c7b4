"""Attention within rows that hold several branches on one prefix, for training on a CPU.

PyTorch's fused attention computes its backward pass at a tenth of the speed of the CPU's matrix products. Here scores
are products over slabs of queries, which skip what lies behind a slab's last token, and the backward pass uses the
probabilities of the forward pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

SLAB = 128  # queries computed at once, at most


@dataclass(frozen=True)
class Heads:
    """How an attention layer divides its numbers.

    Attributes:
        queries: Query heads, a multiple of `keys`.
        keys: Key and value heads.
        size: Numbers in a head.
        scale: What scores are multiplied with.
    """

    queries: int
    keys: int
    size: int
    scale: float


@dataclass(frozen=True)
class Slab:
    """Queries from `start` to `end`, which see tokens before `end` only.

    Attributes:
        open_to: Tokens before this one are seen by all of them, in every row.
        bias: (rows, 1, queries, 1, end - open_to), added to the scores of the others: 0 or minus infinity.
    """

    start: int
    end: int
    open_to: int
    bias: Tensor


class RowLayout:
    """Which tokens of a batch of rows see which, as what is added to scores.

    Args:
        seen: (rows, 1, length, length) bool, as `training.rows.collate` makes it.
        dtype: Of the model.
    """

    def __init__(self, seen: Tensor, dtype: torch.dtype) -> None:
        self.rows, _, self.length, _ = seen.shape
        bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
        size = -(-self.length // -(-self.length // SLAB))
        self.slabs: list[Slab] = []
        for start in range(0, self.length, size):
            end = min(self.length, start + size)
            hidden = (~seen[:, :, start:end, :end]).flatten(0, 2).any(0).nonzero()
            open_to = int(hidden[0]) if len(hidden) else end
            self.slabs.append(Slab(start, end, open_to, bias[:, :, start:end, None, open_to:end].contiguous()))


def row_attention(qkv: Tensor, cos: Tensor, sin: Tensor, layout: RowLayout, heads: Heads) -> Tensor:
    """Attention with rotary positions.

    Args:
        qkv: (tokens, numbers of query, key and value heads side by side).
        cos: (rows, length, size of a head), and so is `sin`.
        layout: Which tokens see which.
        heads: How the numbers are divided.

    Returns:
        (tokens, numbers of the query heads).
    """
    return _RowAttention.apply(qkv, cos, sin, layout, heads)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotary positions as Llama has them: the halves of a head are the two coordinates. A negative `sin` turns back."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])


class _RowAttention(Function):  # type: ignore[misc]
    """Query heads that share a key head are neighbours in one matrix: (rows * keys, length * group, size)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, layout: RowLayout, heads: Heads) -> Tensor:
        rows, length, group = layout.rows, layout.length, heads.queries // heads.keys
        qkv = qkv.view(rows, length, heads.queries + 2 * heads.keys, heads.size)
        q_in, k_in, v_in = qkv.split([heads.queries, heads.keys, heads.keys], dim=2)
        q = qkv.new_empty(rows, heads.keys, length, group, heads.size)
        k = qkv.new_empty(rows, heads.keys, length, heads.size)
        grouped = q_in.unflatten(2, (heads.keys, group)).transpose(1, 2)
        _rotate(grouped, (cos * heads.scale)[:, None, :, None], (sin * heads.scale)[:, None, :, None], q)
        _rotate(k_in.transpose(1, 2), cos[:, None], sin[:, None], k)
        q, k = q.view(rows * heads.keys, length * group, heads.size), k.flatten(0, 1)
        v = v_in.transpose(1, 2).flatten(0, 1).contiguous()
        o = torch.empty_like(q)
        shares = []
        for slab in layout.slabs:
            at, end = slice(slab.start * group, slab.end * group), slab.end
            scores = torch.bmm(q[:, at], k[:, :end].transpose(1, 2))
            scores.view(rows, heads.keys, end - slab.start, group, end)[..., slab.open_to :].add_(slab.bias)
            share = torch.softmax(scores, -1)
            o[:, at] = torch.bmm(share, v[:, :end])
            shares.append(share)
        ctx.layout, ctx.heads = layout, heads
        ctx.save_for_backward(q, k, v, cos, sin, *shares)
        by_token = o.view(rows, heads.keys, length, group, heads.size).transpose(1, 2)
        return by_token.reshape(rows * length, heads.queries * heads.size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, cos, sin, *shares = ctx.saved_tensors
        layout: RowLayout = ctx.layout
        heads: Heads = ctx.heads
        rows, length, group = layout.rows, layout.length, heads.queries // heads.keys
        by_token = (rows, length, heads.keys, group, heads.size)
        grad = grad.view(by_token).transpose(1, 2).reshape(q.shape)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for slab, share in zip(layout.slabs, shares, strict=True):
            at, end = slice(slab.start * group, slab.end * group), slab.end
            grad_v[:, :end] += torch.bmm(share.transpose(1, 2), grad[:, at])
            grad_share = torch.bmm(grad[:, at], v[:, :end].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_share, share, -1, share.dtype)
            grad_q[:, at] = torch.bmm(grad_scores, k[:, :end])
            grad_k[:, :end] += torch.bmm(grad_scores.transpose(1, 2), q[:, at])
        out = grad.new_empty(rows, length, heads.queries + 2 * heads.keys, heads.size)
        q_out, k_out, v_out = out.split([heads.queries, heads.keys, heads.keys], dim=2)
        turned = grad_q.view(rows, heads.keys, length, group, heads.size).transpose(1, 2)
        cos_q, sin_q = (cos * heads.scale)[:, :, None, None], (sin * -heads.scale)[:, :, None, None]
        _rotate(turned, cos_q, sin_q, q_out.unflatten(2, (heads.keys, group)))
        by_head = (rows, heads.keys, length, heads.size)
        _rotate(grad_k.view(by_head).transpose(1, 2), cos[:, :, None], -sin[:, :, None], k_out)
        v_out.copy_(grad_v.view(by_head).transpose(1, 2))
        return out.view(rows * length, -1), None, None, None, None
