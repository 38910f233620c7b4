"""The LoRA operators against vLLM's own, on random batches: the same for adapters' rows, and base rows left alone."""

from collections.abc import Callable

import pytest
import torch

from services.model.lora_ops import BASE, FEW_ROWS, Packed, add_packed, expand, pack, shares, shrink

SLOTS, RANK, INPUTS = 3, 8, 24
WIDTHS = (16, 6, 6)  # as q, k and v


@pytest.fixture(scope="module")
def theirs():
    """vLLM's operators for the CPU."""
    return pytest.importorskip("vllm.lora.ops.torch_ops.lora_ops")


@pytest.fixture(params=range(3), ids=lambda seed: f"seed{seed}")
def draw(request: pytest.FixtureRequest) -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(request.param)
    return lambda *shape: torch.randn(*shape, generator=generator)


def drawn_batch(draw: Callable[..., torch.Tensor], seed_rows: int = 40) -> list[int]:
    """Slots of rows in a random order, so that most adapters' rows do not lie together; the base model's among them."""
    rows = (draw(seed_rows).abs() * 2).long().clamp(max=SLOTS).sub(1).tolist()
    return [*rows, BASE, *range(SLOTS), BASE]


def compare(mine: torch.Tensor, reference: torch.Tensor, before: torch.Tensor, batch: list[int]) -> None:
    base = torch.tensor([slot == BASE for slot in batch])
    assert torch.equal(mine[base], before[base]), "a row of the base model was touched"
    torch.testing.assert_close(mine[~base], reference[~base], rtol=1e-4, atol=1e-4)
    assert not torch.equal(mine[~base], before[~base])


def test_shrink_is_vllms(theirs, draw):
    batch = drawn_batch(draw)
    x, a, before = draw(len(batch), INPUTS), draw(SLOTS, 1, RANK, INPUTS), draw(len(batch), RANK + 2)
    mine, reference = before.clone(), before.clone()
    shrink(mine, x, a, shares(batch), 0.5)
    theirs.bgmv_shrink(x, a, reference, torch.tensor(batch), 0.5)
    compare(mine, reference, before, batch)


@pytest.mark.parametrize("add", [True, False])
def test_expand_is_vllms(theirs, draw, add: bool):
    batch = drawn_batch(draw)
    # The output is padded less than the weights, as it may be where the vocabulary is padded.
    x, b, before = draw(len(batch), RANK), draw(SLOTS, 1, 20, RANK), draw(len(batch), 18)
    mine, reference = before.clone(), before.clone()
    expand(mine, x, b, shares(batch), add=add)
    theirs.bgmv_expand(x, b, reference, torch.tensor(batch), add)
    compare(mine, reference, before, batch)


@pytest.mark.parametrize("add", [True, False])
def test_expand_of_a_slice_is_vllms(theirs, draw, add: bool):
    batch = drawn_batch(draw)
    x, b, before = draw(len(batch), RANK), draw(SLOTS, 1, 6, RANK), draw(len(batch), 18)
    mine, reference = before.clone(), before.clone()
    expand(mine, x, b, shares(batch), start=4, width=6, add=add)
    theirs.bgmv_expand_slice(x, b, reference, torch.tensor(batch), 4, 6, add)
    compare(mine, reference, before, batch)


@pytest.mark.parametrize("rows", [4, 40 + 3 * FEW_ROWS])
@pytest.mark.parametrize("absent", [(), (0,), (2,), (0, 2)])
def test_a_packed_layer_is_vllms_slice_by_slice(theirs, draw, rows: int, absent: tuple[int, ...]):
    batch = drawn_batch(draw, rows)
    x, before = draw(len(batch), INPUTS), draw(len(batch), sum(WIDTHS))
    a, b = [draw(SLOTS, 1, RANK, INPUTS) for _ in WIDTHS], [draw(SLOTS, 1, width, RANK) for width in WIDTHS]
    for number in absent:
        a[number][1] = b[number][1] = 0
    mine, reference = before.clone(), before.clone()
    add_packed(mine, x, shares(batch), [packed(a, b, slot, absent if slot == 1 else ()) for slot in range(SLOTS)])
    start = 0
    for number, width in enumerate(WIDTHS):
        hidden = torch.zeros(len(batch), RANK)
        theirs.bgmv_shrink(x, a[number], hidden, torch.tensor(batch), 1.0)
        theirs.bgmv_expand_slice(hidden, b[number], reference, torch.tensor(batch), start, width, True)
        start += width
    compare(mine, reference, before, batch)


def packed(a: list[torch.Tensor], b: list[torch.Tensor], slot: int, absent: tuple[int, ...] = ()) -> Packed | None:
    slices = [(None, None) if n in absent else (a[n][slot, 0], b[n][slot, 0]) for n in range(len(WIDTHS))]
    return pack([each for each, _ in slices], [each for _, each in slices], WIDTHS)


def test_a_layer_that_the_adapter_leaves_alone_costs_nothing():
    assert pack([None, None], [None, None], (4, 4)) is None
    output = torch.randn(2, 8)
    before = output.clone()
    add_packed(output, torch.randn(2, 4), shares([0, 0]), [None])
    assert torch.equal(output, before)


def test_bfloat16_is_as_near_as_bfloat16_allows(theirs, draw):
    batch = drawn_batch(draw, 80)
    x, before = draw(len(batch), INPUTS), draw(len(batch), 16)
    a, b = draw(SLOTS, 1, RANK, INPUTS), draw(SLOTS, 1, 16, RANK)
    exact, mine = before.clone(), before.bfloat16()
    hidden = torch.zeros(len(batch), RANK)
    theirs.bgmv_shrink(x, a, hidden, torch.tensor(batch), 1.0)
    theirs.bgmv_expand(hidden, b, exact, torch.tensor(batch), True)
    weights = [pack([a[slot, 0].bfloat16()], [b[slot, 0].bfloat16()], (16,)) for slot in range(SLOTS)]
    add_packed(mine, x.bfloat16(), shares(batch), weights)
    adapted = torch.tensor([slot != BASE for slot in batch])
    error = (mine.float() - exact)[adapted].abs().max() / exact[adapted].abs().max()
    assert error < 2**-6
    assert torch.equal(mine[~adapted], before.bfloat16()[~adapted])


def test_rows_that_lie_together_are_not_copied():
    together, scattered = shares([BASE, 1, 1, 1, BASE, 0, BASE, 0])[::-1]
    assert together.rows == slice(1, 4)
    assert scattered.rows.tolist() == [5, 7]
    assert shares([BASE, BASE]) == ()
