"""When to decline: how much likelier the declining sentence has to be than any other beginning.

An answer may begin with any of many words, the declining sentence with one, so that greedy decoding declines when it
holds that for a fifth likely. On held-out questions that their sources do answer, the odds that make it decline too
many of them are taken off that one word.
"""

import math
from collections.abc import Sequence

from tandem.manifest import Threshold
from training.speaker import Speaker
from training.trials import Trial


def calibrate(speaker: Speaker, trials: Sequence[Trial], most: float) -> Threshold | None:
    """The threshold at which a share of the answerable questions is declined.

    Args:
        speaker: With the candidate.
        trials: Held-out questions that the gate does not ask.
        most: Share of the answerable questions that may be declined, 0 to 1.

    Returns:
        The first token of declining and what is added to its logit, at most 0; None where nothing need be.
    """
    token = speaker.declining_token
    leads = sorted(speaker.declining([trial.prompts for trial in trials if trial.answerable]))
    if not leads:
        return None
    lead = leads[max(0, math.ceil((1 - most) * len(leads)) - 1)]
    return Threshold(token=token, bias=-round(lead, 3)) if lead > 0 else None
