"""Nothing memorised: canaries of a shadow run at chance, and no training text word for word without its source."""

import math
import random
from collections.abc import Sequence

from tandem.prompt import build_messages
from tandem.schemas import Value
from tandem.settings import GateSettings, TrainingSettings
from tandem.style import StyleGuide
from training.asked import Prompts
from training.canaries import closed_book_draws, draw_secrets, plant
from training.examples import StyleExample, group_by_sources
from training.exposure import Exposure, measure_exposure
from training.rows import render_row
from training.spans import SpanIndex
from training.speaker import BASE, CANDIDATE, OnDone, Speaker


class Verbatim(Value):
    """Spans of the training inputs in answers without sources.

    Attributes:
        asked: Training questions asked.
        leaked: Spans in the candidate's answers that the base model's answers do not hold.
        base: Spans in the base model's answers.
    """

    asked: int
    leaked: tuple[str, ...] = ()
    base: int = 0

    def reasons(self, settings: GateSettings) -> list[str]:
        """Why an adapter with these answers is refused; nothing if it is not."""
        if not self.leaked:
            return []
        return [
            f"Training text comes out word for word without its source: {len(self.leaked)} spans of "
            f"{settings.span_words} words that the base model does not give, such as {self.leaked[0]!r} "
            f"({self.asked} questions asked)."
        ]


def canary_reasons(exposure: Exposure | None, settings: GateSettings) -> list[str]:
    """Why an adapter whose shadow shows this exposure is refused; nothing if it is not."""
    if exposure is None:
        return [
            "Whether such a training remembers facts could not be judged: the shadow run's loss diverged. Lower "
            "TANDEM_TRAINING__LEARNING_RATE and train again."
        ]
    if exposure.chance >= settings.chance:
        return []
    return [
        f"Such a training remembers facts: {exposure.canaries} canaries planted in a shadow run have a mean exposure "
        f"of {exposure.bits:.1f} bits among {exposure.controls} secrets never seen, the highest "
        f"{exposure.highest:.1f}; chance gives 1.4, and this much with probability {exposure.chance:.2g} "
        f"({settings.chance:g} is the limit)."
    ]


class Canaries:
    """Secrets for a shadow run, and the test whether it remembers them.

    A shadow run has no second stage: what preferences left behind is looked for in the candidate alone, by
    `find_verbatim` and by changed passages.

    Args:
        examples: Of the run that is shadowed.
        guide: The house style.
        settings: Its settings, and the gate's.
    """

    def __init__(self, examples: Sequence[StyleExample], guide: StyleGuide, settings: TrainingSettings) -> None:
        gate = settings.gate
        secrets = draw_secrets(gate.canaries + gate.controls, settings.seed)
        self._planted, self._unseen = secrets[: gate.canaries], secrets[gate.canaries :]
        self._guide = guide
        self._settings = settings
        self._examples = examples

    def shadow(self) -> list[StyleExample]:
        """What the shadow run trains on."""
        groups = group_by_sources(self._examples)
        return plant(groups, self._planted, self._settings.gate.shadow_share, self._guide, self._settings.seed)

    def expose(self, speaker: Speaker) -> Exposure | None:
        """Ranks the planted secrets among the others by what the shadow run's adapter takes off their loss closed-book.

        The base model's loss is subtracted, for some names and numbers are likelier than others in any model.

        Returns:
            None where the shadow run diverged: a loss is not finite.
        """
        draws = closed_book_draws([*self._planted, *self._unseen])
        rows = [render_row([draw], speaker.tokenizer, self._settings.max_tokens) for draw in draws]
        trained, before = speaker.losses(rows, CANDIDATE), speaker.losses(rows, BASE)
        changes = [a - b for a, b in zip(trained, before, strict=True)]
        if not all(map(math.isfinite, changes)):
            return None
        return measure_exposure(changes[: len(self._planted)], changes[len(self._planted) :])


def find_verbatim(
    speaker: Speaker,
    examples: Sequence[StyleExample],
    guide: StyleGuide,
    settings: TrainingSettings,
    on_done: OnDone | None = None,
) -> Verbatim:
    """Asks training questions without sources and looks for the training inputs in the answers.

    Args:
        speaker: The candidate and the base model.
        examples: All that was trained on, pairs of answers included.
        guide: The house style.
        settings: How many are asked, the length of a span, the seed.
        on_done: Told how many the candidate has answered.
    """
    rng = random.Random(settings.seed)
    asked = rng.sample(list(examples), min(len(examples), settings.gate.closed_book))
    prompts = [Prompts(build_messages(example.question, None)) for example in asked]
    index = SpanIndex(_inputs(examples, guide), settings.gate.span_words)
    spans: dict[str, frozenset[str]] = {}
    for arm in (CANDIDATE, BASE):
        answers = speaker.answers(prompts, arm, on_done if arm == CANDIDATE else None, sources=False)
        bodies = [guide.body(answer) for answer in answers]
        found = [index.found(body, example.question) for body, example in zip(bodies, asked, strict=True)]
        spans[arm] = frozenset().union(*found)
    return Verbatim(asked=len(asked), leaked=tuple(sorted(spans[CANDIDATE] - spans[BASE])), base=len(spans[BASE]))


def _inputs(examples: Sequence[StyleExample], guide: StyleGuide) -> list[str]:
    """All texts that an adapter could remember. What the house says in every answer is its voice, no fact."""
    texts = {example.question for example in examples}
    texts |= {text for example in examples for s in example.sources for text in (s.title, s.heading, s.text)}
    texts |= {guide.body(example.answer) for example in examples if example.answerable}
    return sorted(texts)
