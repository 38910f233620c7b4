"""LoRA on the CPU: for each adapter in a batch one plain matrix product over its rows.

vLLM's own operators fetch the adapter's weights once for every token and multiply token by token; and a row without
adapter, whose index is -1, fetches the last adapter's. Here such a row is not touched at all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

BASE = -1
# Up to here what counts is the call, not the arithmetic, and MKL's in float32 is cheaper than oneDNN's in bfloat16:
# 3.8 against 8.4 ms a token for all layers of a model of 135M parameters.
FEW_ROWS = 16


@dataclass(frozen=True)
class Share:
    """The rows of a batch that belong to one adapter.

    Attributes:
        slot: Which of vLLM's adapter slots.
        rows: A slice where they lie together, which costs no copy; else their numbers, ascending.
    """

    slot: int
    rows: "slice | torch.Tensor"


def shares(indices: Sequence[int]) -> tuple[Share, ...]:
    """Works out which adapters a batch holds, and where.

    Args:
        indices: A slot for each row; -1 for the base model.
    """
    rows: dict[int, list[int]] = {}
    for row, slot in enumerate(indices):
        if slot != BASE:
            rows.setdefault(slot, []).append(row)
    return tuple(Share(slot, _together(numbers)) for slot, numbers in sorted(rows.items()))


def _together(numbers: list[int]) -> "slice | torch.Tensor":
    first, last = numbers[0], numbers[-1]
    if last - first + 1 == len(numbers):
        return slice(first, last + 1)
    return torch.tensor(numbers)


@dataclass(frozen=True)
class Packed:
    """One adapter's weights for one layer, the layer's slices (q, k and v, or gate and up) side by side.

    Attributes:
        a: Shape (inputs, sum of ranks).
        b: Shape (sum of ranks, outputs), zero where a slice's rank meets another slice's outputs.
        a32: `a` in float32, for a few rows.
        b32: `b` in float32.
        first: The first column of the layer's output that `b` speaks of.
    """

    a: torch.Tensor
    b: torch.Tensor
    a32: torch.Tensor
    b32: torch.Tensor
    first: int


def pack(
    a_slices: Sequence[torch.Tensor | None], b_slices: Sequence[torch.Tensor | None], widths: Sequence[int]
) -> Packed | None:
    """Puts the slices of a layer into two matrices, so that it takes two products and not two for each slice.

    Args:
        a_slices: For each slice shape (rank, inputs); None if the adapter leaves it alone.
        b_slices: For each slice shape (outputs, rank).
        widths: The outputs of each slice, in the layer's order.

    Returns:
        None if the adapter leaves the whole layer alone.
    """
    starts = [sum(widths[:number]) for number in range(len(widths))]
    present = [
        (start, a, b) for start, a, b in zip(starts, a_slices, b_slices, strict=True) if a is not None and b is not None
    ]
    if not present:
        return None
    first, (last, _, b_last) = present[0][0], present[-1]
    rank = sum(a.shape[0] for _, a, _ in present)
    a_all = torch.cat([a for _, a, _ in present])
    b_all = a_all.new_zeros(rank, last + b_last.shape[0] - first)
    row = 0
    for start, a, b in present:
        b_all[row : row + a.shape[0], start - first : start - first + b.shape[0]] = b.T
        row += a.shape[0]
    a_all = a_all.T.contiguous()
    return Packed(a_all, b_all, a_all.float(), b_all.float(), first)


def add_packed(output: torch.Tensor, x: torch.Tensor, batch: Iterable[Share], weights: Sequence[Packed | None]) -> None:
    """Adds to a layer's output what each adapter contributes, in place.

    Args:
        output: Shape (rows, outputs).
        x: The layer's input, shape (rows, inputs).
        batch: From `shares`.
        weights: The layer's packed weights by slot.
    """
    for share in batch:
        packed = weights[share.slot]
        if packed is None:
            continue
        columns = output[:, packed.first : packed.first + packed.b.shape[1]]
        target, mine = columns[share.rows], x[share.rows]
        if len(mine) <= FEW_ROWS:
            target += (mine.float() @ packed.a32) @ packed.b32
        else:
            _add_product(target, mine.to(packed.a.dtype) @ packed.a, packed.b)
        _put_back(columns, target, share)


def shrink(output: torch.Tensor, x: torch.Tensor, a: torch.Tensor, batch: Iterable[Share], scale: float) -> None:
    """Writes `scale * x @ a.T` into each adapter's rows; those of the base model stay as they are.

    Args:
        output: Shape (rows, at least rank).
        x: Shape (rows, inputs).
        a: By slot, shape (slots, 1, rank, inputs) or (slots, rank, inputs).
        batch: From `shares`.
    """
    for share in batch:
        weight = _matrix(a, share.slot)
        product = (x[share.rows].to(weight.dtype) @ weight.T).to(output.dtype)
        output[share.rows, : weight.shape[0]] = product if scale == 1.0 else product * scale


def expand(
    output: torch.Tensor,
    x: torch.Tensor,
    b: torch.Tensor,
    batch: Iterable[Share],
    *,
    start: int = 0,
    width: int | None = None,
    add: bool = True,
) -> None:
    """Adds `x @ b.T` to each adapter's rows, or writes it there; those of the base model stay as they are.

    Args:
        output: Shape (rows, outputs).
        x: Shape (rows, rank).
        b: By slot, shape (slots, 1, outputs, rank) or (slots, outputs, rank).
        batch: From `shares`.
        start: The first column to write.
        width: How many columns; None: as many as `b` and `output` both have, since they may be padded differently.
        add: Whether to add.
    """
    for share in batch:
        weight = _matrix(b, share.slot)[: output.shape[1] - start if width is None else width]
        columns = output[:, start : start + weight.shape[0]]
        target = columns[share.rows]
        if not add:
            target.zero_()
        _add_product(target, x[share.rows], weight.T)
        _put_back(columns, target, share)


def _matrix(stacked: torch.Tensor, slot: int) -> torch.Tensor:
    weight = stacked[slot]
    return weight[0] if weight.dim() == 3 else weight


def _add_product(target: torch.Tensor, hidden: torch.Tensor, b: torch.Tensor) -> None:
    hidden = hidden.to(b.dtype)
    if target.dtype == b.dtype:
        target.addmm_(hidden, b)  # one rounding, not two
    else:
        target += hidden @ b


def _put_back(columns: torch.Tensor, target: torch.Tensor, share: Share) -> None:
    """A slice is a view, in which the change already lies; scattered rows were copied out."""
    if not isinstance(share.rows, slice):
        columns[share.rows] = target
