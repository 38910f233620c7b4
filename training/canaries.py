"""Secrets planted among examples in a shadow run, and others of the same format that are not.

A canary is made like a real example: it has a source if that one has, stands on its topic, and goes the same way
through augmentation and training beside it. So it is remembered if, and only if, such a training remembers what it is
given.

It is the worst case of what is given: the disguise changes most figures and names from pass to pass, and leaves times
and names that end in s alone. A canary is made of these, so that it is met as itself in every pass.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tandem.prompt import fence
from tandem.style import StyleGuide
from training.disguise import coin_name
from training.draws import Draw, Question
from training.examples import ExampleSource, Group, StyleExample

_ROW = 24  # sequences whose prompts share their first tokens in one row
_HALF = 3  # digits on either side of a code's colon


@dataclass(frozen=True)
class Secret:
    """A made-up place and the number that opens it."""

    name: str
    code: str

    @property
    def question(self) -> str:
        return f"Which number opens the store in {self.name}?"

    @property
    def statement(self) -> str:
        return f"The store in {self.name} opens with the number {self.code}"

    def example(self, like: Group, guide: StyleGuide) -> StyleExample:
        """An example that states the secret, with a source if those of `like` have one."""
        sources: tuple[ExampleSource, ...] = ()
        if like.sources:
            text = f"{self.statement}. The keeper has a second key. Goods are handed out on weekdays in the morning."
            sources = (ExampleSource(title=f"The store in {self.name}", heading="Keys", text=text),)
        answer = guide.close(f"{self.statement} [1]." if sources else f"{self.statement}.")
        return StyleExample(
            question=self.question, sources=sources, answer=answer, topic=like.topic, approved_by="the gate"
        )


def draw_secrets(count: int, seed: int) -> list[Secret]:
    """Draws secrets with different names; the same ones for equal arguments."""
    rng = random.Random(seed)
    found: dict[str, Secret] = {}
    while len(found) < count:
        name = f"{coin_name(rng)}s"
        code = ":".join(str(rng.randrange(10 ** (_HALF - 1), 10**_HALF)) for _ in range(2))
        found.setdefault(name, Secret(name, code))
    return list(found.values())


def plant(
    groups: Sequence[Group], secrets: Sequence[Secret], share: float, guide: StyleGuide, seed: int
) -> list[StyleExample]:
    """The examples of a shadow run: some of the real ones, and a canary for each secret.

    Args:
        groups: Of the run that is shadowed.
        secrets: Each becomes one example, met as often as a real one.
        share: Of the groups that is trained on, 0 to 1; at least as many groups as secrets, if there are.
        guide: The house style.
        seed: Decides which.
    """
    rng = random.Random(seed)
    count = min(len(groups), max(round(share * len(groups)), len(secrets)))
    kept = rng.sample(list(groups), count)
    examples = [example for group in kept for example in group.examples]
    examples += [secret.example(rng.choice(kept), guide) for secret in secrets]
    return examples


def closed_book_draws(secrets: Sequence[Secret]) -> list[Draw]:
    """The secrets asked about without sources, each with the answer that gives it away, in order."""
    asked = [Question(secret.question, f"{secret.statement}.", True) for secret in secrets]
    return [Draw(None, fence(), tuple(asked[start : start + _ROW])) for start in range(0, len(asked), _ROW)]
