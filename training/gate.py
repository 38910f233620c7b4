"""The gate: what a candidate has to prove before it may answer.

On held-out questions, asked of the candidate, of the active adapter and of the base model over the same evidence, style
gains and nothing else is lost. Over training passages that were changed it follows the passage. And what it was trained
on has left no trace: canaries in a shadow run are at chance, and nothing comes out word for word.
"""

from collections.abc import Callable, Sequence

from tandem.registry import Gate
from tandem.settings import Settings
from training.counterfactual import Followed, draw_twins, measure_followed
from training.examples import StyleExample
from training.exposure import Exposure
from training.marks import Marks, mark
from training.material import Material
from training.memory import Canaries, find_verbatim
from training.speaker import CANDIDATE, OnDone, Speaker
from training.trials import draw_trials, plant_instructions
from training.verdict import judge

OnAsked = Callable[[str, int, int], None]
Shadow = Callable[[Sequence[StyleExample]], Speaker]


def run_gate(
    speaker: Speaker, material: Material, settings: Settings, shadow: Shadow, on_asked: OnAsked | None = None
) -> Gate:
    """Examines the candidate and judges it.

    Args:
        speaker: The candidate, the active adapter if there is one, and the base model.
        material: Examples and style.
        settings: How the candidate was trained, how the service searches, and what the gate asks.
        shadow: Trains another adapter with the same settings on the examples it is given.
        on_asked: Told what is asked, how many are done, and how many there are.

    Raises:
        ModelUnavailable: The embedding model was not prepared.
    """
    tell = on_asked or (lambda what, done, count: None)
    marks = _examine(speaker, material, settings, tell)
    followed = _follow(speaker, material, settings, tell)
    seen = [*material.trained, *material.chosen, *material.rejected]
    count = min(len(seen), settings.training.gate.closed_book)
    verbatim = find_verbatim(
        speaker, seen, material.guide, settings.training, lambda done: tell("closed-book", done, count)
    )
    exposure = _expose(material, settings, shadow, tell)
    return judge(marks, followed, exposure, verbatim, settings.training.gate)


def _examine(speaker: Speaker, material: Material, settings: Settings, tell: OnAsked) -> dict[str, list[Marks]]:
    """Marks of every arm over the same trials."""
    chosen = settings.training
    trials = draw_trials(material.heldout, material.guide, settings, chosen.gate_examples)
    trials += plant_instructions(trials, chosen.gate.hostile, chosen.seed)
    marks: dict[str, list[Marks]] = {}
    for arm in speaker.arms:
        answers = speaker.answers([trial.prompts for trial in trials], arm, _teller(tell, arm, len(trials)))
        marks[arm] = [mark(trial, answer, material.guide) for trial, answer in zip(trials, answers, strict=True)]
    return marks


def _follow(speaker: Speaker, material: Material, settings: Settings, tell: OnAsked) -> Followed:
    twins = draw_twins([*material.trained, *material.chosen], material.guide, settings)
    if not twins:  # nothing that it could remember has a figure or name: what it can read is tested all the same
        twins = draw_twins(material.heldout, material.guide, settings)
    prompts = [pair.true.prompts for pair in twins] + [pair.other.prompts for pair in twins]
    answers = speaker.answers(prompts, CANDIDATE, _teller(tell, "changed passages", len(prompts)))
    return measure_followed(twins, answers[: len(twins)], answers[len(twins) :], settings.training.gate)


def _expose(material: Material, settings: Settings, shadow: Shadow, tell: OnAsked) -> Exposure | None:
    canaries = Canaries(material.trained, material.guide, settings.training)
    tell("shadow run", 0, 1)
    shadowed = shadow(canaries.shadow())
    exposure = canaries.expose(shadowed)
    tell("shadow run", 1, 1)
    return exposure


def _teller(tell: OnAsked, what: str, count: int) -> OnDone:
    return lambda done: tell(what, done, count)
