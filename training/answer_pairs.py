"""Questions with the sentences that the service's search finds for them, and which of those answer them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tandem.cross_encoder import context_of
from tandem.settings import Settings
from tandem.style import StyleGuide
from training.corpus import Corpus, open_corpus
from training.examples import Group, StyleExample, group_by_sources
from training.grounding import Grounded, Grounding, Key

FOUND = 10  # sentences of a question, best first: those that answer it are to be told from near misses
_WORDS = 6000  # of them together at most


@dataclass(frozen=True)
class Judged:
    """One question over sentences.

    Attributes:
        contexts: Each sentence with where it stands, as `tandem.cross_encoder.context_of` writes it.
        answers: The places of those that answer the question, or a part of it; none where nothing does.
        found: How many of the first are what the search found, best first; the others answer, and it missed them.
    """

    question: str
    contexts: tuple[str, ...]
    answers: frozenset[int]
    found: int


def judge_search(
    examples: Sequence[StyleExample], guide: StyleGuide, settings: Settings, passes: int = 1
) -> list[Judged]:
    """Searches each question among sources of other topics and its own, as the service searches its index.

    Args:
        examples: With the answers that tell which sentences bear them out.
        guide: The house style, which says what of an answer is courtesy.
        settings: How the service searches, and the seed.
        passes: How often each question is asked, every time among other sources.

    Returns:
        In random order. An answerable question whose answer stands on no one sentence is left out.

    Raises:
        ModelUnavailable: The embedding model was not prepared.
    """
    # The service's search before any cross-encoder: it is what one has to rank.
    wide = settings.retrieval.model_copy(update={"sentences": FOUND, "compared": FOUND, "budget_words": _WORDS})
    settings = settings.model_copy(update={"retrieval": wide})
    groups = [group for group in group_by_sources(examples) if group.sources]
    corpus = open_corpus(groups, settings)
    grounding = [Grounding(group, guide) for group in groups]
    judged = []
    for number in range(passes):
        rng = random.Random(settings.training.seed + number)
        for shelf in corpus.shelves(rng):
            for index in shelf:
                for asked in grounding[index].examples:
                    if one := _judge(groups, grounding, corpus, asked, index, shelf):
                        judged.append(one)
    random.Random(settings.training.seed).shuffle(judged)
    return judged


def _judge(
    groups: Sequence[Group],
    grounding: Sequence[Grounding],
    corpus: Corpus,
    asked: Grounded,
    index: int,
    shelf: Sequence[int],
) -> Judged | None:
    bearing = {key for key in asked.needed if asked.part(key) is not None} if asked.example.answerable else set()
    if asked.example.answerable and not bearing:
        return None

    def written(group: int, key: Key) -> str:
        source = groups[group].sources[key[0]]
        return context_of(source.title, source.heading, grounding[group].text(key))

    contexts: list[str] = []
    answers: set[int] = set()
    missed = set(bearing)
    for shown, _ in corpus.looks(asked.example.question, shelf):
        key = (shown.source, shown.units[0])
        if shown.group == index and key in bearing:
            answers.add(len(contexts))
            missed.discard(key)
        contexts.append(written(shown.group, key))
    found = len(contexts)
    answers.update(range(found, found + len(missed)))
    contexts.extend(written(index, key) for key in sorted(missed))
    return Judged(asked.example.question, tuple(contexts), frozenset(answers), found) if contexts else None
