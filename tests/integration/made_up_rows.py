"""Small rows whose answers repeat one token: soon learned, and wrong where another is repeated."""

import random

from training.rows import Row


def rows_of_one_topic(count: int, topic: int, seed: int) -> list[Row]:
    """Two branches of nine tokens on a prefix of twenty, each; six tokens of a branch are the answer."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        prefix = [rng.randrange(1000) for _ in range(20)]
        branch = [rng.randrange(1000) for _ in range(4)] + [topic] * 5
        ids = (*prefix, *branch, *branch)
        positions = (*range(20), *range(20, 29), *range(20, 29))
        at = (*range(23, 29), *range(32, 38))
        rows.append(Row(ids, positions, (0,) * 20 + (1,) * 9 + (2,) * 9, at, (topic,) * 12))
    return rows
