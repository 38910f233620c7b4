"""Which sentence a small model is asked about alone: by the search's score and the model's own odds of declining it.

A search tells what a sentence is about, the model rather whether it answers the question.
"""

from collections.abc import Sequence

# What a nat of lead that declining has takes off a sentence's score (`tandem.evidence`). Chosen on held-out style
# examples, see `training/LOG.md`.
NAT = 0.12
# What a nat of the cross-encoder's odds adds to it.
ODDS = 0.1


def choose(scores: Sequence[float], leads: Sequence[float], odds: Sequence[float | None] = ()) -> int:
    """The place of the sentence to ask about.

    Args:
        scores: The search's.
        leads: For each sentence how far declining it is ahead of any other beginning, in nats.
        odds: The cross-encoder's log-odds that it answers; None, or nothing at all, where there is no cross-encoder.
    """
    told = [value or 0.0 for value in odds] or [0.0] * len(scores)
    values = [score - NAT * lead + ODDS * odd for score, lead, odd in zip(scores, leads, told, strict=True)]
    return max(range(len(values)), key=values.__getitem__)
