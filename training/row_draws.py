"""The rows of a run: what the augmenter draws, rendered, and put into the order of training."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tandem.errors import ExampleError
from tandem.settings import TrainingSettings
from training.augment import Augmenter
from training.draws import Draw
from training.row_trainer import QUESTIONS, rows_per_step
from training.rows import Row, render_row

_FEW_LONG = 3  # draws that are too long and are left out, however few there are


def draw_rows(
    augmenter: Augmenter,
    tokenizer: Any,
    settings: TrainingSettings,
    on_left_out: Callable[[int, str], None] | None = None,
) -> list[Row]:
    """All rows of a run, in the order in which they are trained on.

    Rows of like length stand together in the batch of a step; the batches come in random order. What is left of each
    pass, too little for a batch, comes at the end of the run, so that all batches before keep their borders. Equal
    settings give equal rows, which is what makes a run resumable.

    Args:
        augmenter: Draws prompts with their questions.
        tokenizer: Of the base model.
        settings: Passes, batch size, limit of tokens, seed.
        on_left_out: Told how many draws of all passes were too long and are left out, and what is said of the first.

    Raises:
        ExampleError: More than one draw in twenty, and more than a few, are too long, or all are; others are left out.
    """
    rng = random.Random(settings.seed)
    rows: list[Row] = []
    left: list[Row] = []
    long: list[ExampleError] = []
    for number in range(math.ceil(settings.passes)):
        drawn: list[Row] = []
        refused: list[ExampleError] = []
        for draws in _in_rows(augmenter.one_pass(rng)):
            try:
                drawn.append(render_row(draws, tokenizer, settings.max_tokens))
            except ExampleError as exc:
                refused.append(exc)
        # One of the few draws of a shadow run must not end a training that is through.
        if refused and (not drawn or len(refused) > max(_FEW_LONG, 0.05 * (len(drawn) + len(refused)))):
            raise refused[0]
        long.extend(refused)
        part = min(1.0, settings.passes - number)
        batched, rest = _batched(drawn[: max(1, round(part * len(drawn)))], rows_per_step(settings), rng)
        rows.extend(batched)
        left.extend(rest)
    if long and on_left_out is not None:
        on_left_out(len(long), long[0].message)
    return [*rows, *sorted(left, key=_length)]


def draw_heldout(augmenter: Augmenter, tokenizer: Any, settings: TrainingSettings) -> list[Row]:
    """Rows for the held-out loss: the same ones for equal arguments, and at most `settings.heldout_rows`."""
    rows: list[Row] = []
    for draws in _in_rows(augmenter.one_pass(random.Random(settings.seed))):
        if len(rows) == settings.heldout_rows:
            break
        try:
            rows.append(render_row(draws, tokenizer, settings.max_tokens))
        except ExampleError:  # too long
            continue
    return rows


def _in_rows(draws: Iterable[Draw]) -> Iterator[list[Draw]]:
    """Draws by row: those of one sentence are joined, for half of such a short prompt is the system message."""
    waiting: list[Draw] = []
    for draw in draws:
        if not draw.alone:
            yield [draw]
            continue
        waiting.append(draw)
        if len(waiting) == QUESTIONS:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _batched(rows: Sequence[Row], size: int, rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Full batches of rows of like length, in random order, and the rows that are left."""
    ordered = sorted(rows, key=_length)
    whole = len(ordered) - len(ordered) % size
    batches = [ordered[start : start + size] for start in range(0, whole, size)]
    rng.shuffle(batches)
    return [row for batch in batches for row in batch], ordered[whole:]


def _length(row: Row) -> int:
    return len(row.ids)
