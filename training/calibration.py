"""When to decline: how much likelier the declining sentence has to be than any other beginning.

An answer may begin with any of many words, the declining sentence with one, so that greedy decoding declines when it
holds that for a fifth likely. On held-out questions that their sources do answer, the odds that make it decline too
many of them are taken off that one word. Where the cross-encoder tells how likely a sentence answers the question,
as much is taken off as that exceeds a measure of its own, which is set on the same questions.
"""

import math
from collections.abc import Sequence

from tandem.manifest import Threshold
from training.speaker import Speaker
from training.trials import Trial

_EVEN = 0.0  # nobody need be kept from declining what is likelier not to be answered


def calibrate(speaker: Speaker, trials: Sequence[Trial], most: float, held: float) -> Threshold | None:
    """The threshold at which a share of the answerable questions is declined.

    Args:
        speaker: With the candidate.
        trials: Held-out questions that the gate does not ask.
        most: Share of the answerable questions that may be declined, 0 to 1, where nothing tells of each how likely it
            is answered.
        held: The same where the cross-encoder does.

    Returns:
        The first token of declining and what is added to its logit, at most 0; None where nothing need be.
    """
    token = speaker.declining_token
    asked = [trial.prompts for trial in trials if trial.answerable]
    leads = speaker.declining(asked)
    if not leads:
        return None
    lead = sorted(leads)[max(0, math.ceil((1 - most) * len(leads)) - 1)]
    odds = _odds(leads, speaker.odds(asked), held)
    bias = min(0.0, -round(lead, 3))
    return Threshold(token=token, bias=bias, odds=odds) if bias or odds is not None else None


def _odds(leads: Sequence[float], odds: Sequence[float | None], held: float) -> float | None:
    """The highest log-odds from which on declining may be held back that still decline no larger share."""
    told = [(lead, odd) for lead, odd in zip(leads, odds, strict=True) if odd is not None]
    if not told:
        return None
    # A question is declined where its lead is more than what it is held back by: its odds less these.
    lost = sorted(odd - lead for lead, odd in told if lead > 0)
    allowed = math.floor(held * len(leads))
    if allowed >= len(lost) or lost[allowed] > _EVEN:
        return _EVEN
    return round(lost[allowed] - 0.001, 3)  # that one is not declined for its last digits
