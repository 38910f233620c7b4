"""How long the guards take over ten thousand examples, each with sources of its own, which is the slowest there is.

pytest tests/bench/test_guards.py -s
"""

import random
import time

from tandem.settings import load_settings
from training.examples import load_examples
from training.guards import guard

ROWS = 2000
GOAL = 60.0  # seconds of one core for ten thousand rows


def test_ten_thousand_rows_take_less_than_a_minute() -> None:
    rows = []
    for n, row in enumerate(random.Random(7).choices(load_examples(load_settings().training.examples), k=ROWS)):
        sources = tuple(each.model_copy(update={"text": f"{each.text}\nCopy {n}."}) for each in row.sources)
        rows.append(row.model_copy(update={"sources": sources}))
    start = time.process_time()
    guard(rows)
    seconds = (time.process_time() - start) * 10_000 / ROWS
    print(f"\n  guards: {seconds:.1f} s of one core for 10,000 rows (goal: {GOAL:.0f})")
    assert seconds < GOAL
