"""Which sentence a small model is asked about alone: by the search's score and the model's own odds of declining it.

A search tells what a sentence is about, the model rather whether it answers the question.
"""

from collections.abc import Sequence

# What a nat of lead that declining has takes off a sentence's score (`tandem.evidence`). Chosen on held-out style
# examples, see `training/LOG.md`.
NAT = 0.12


def choose(scores: Sequence[float], leads: Sequence[float]) -> int:
    """The place of the sentence to ask about.

    Args:
        scores: The search's.
        leads: For each sentence how far declining it is ahead of any other beginning, in nats.
    """
    values = [score - NAT * lead for score, lead in zip(scores, leads, strict=True)]
    return max(range(len(values)), key=values.__getitem__)
