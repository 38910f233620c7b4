"""Whether the sources of an example bear out its answer: what they do not say would have to come from the weights."""

import re
from functools import lru_cache

from eval.matching import strip_markers, tokens
from eval.support import all_figures, content_words, figures
from tandem.declines import is_decline
from tandem.sentences import split_sentences
from training.examples import ExampleSource, StyleExample
from training.finding import Reason

# Share of an answer's content words that its sources hold.
_LEAST_SUPPORT = 0.5
# A sentence that speaks to the model is no source for anything.
_INSTRUCTION = re.compile(
    r"\b(?:ignore|forget|disregard|override)\b[^.!?\n]{0,30}\b(?:instructions?|prompts?|other sources|questions?)"
    r"|\b(?:system|assistant)\s*:|^\W*assistant,|\bnote to the (?:assistant|model|AI)\b|\byou (?:are|must) now\b"
    r"|\b(?:answer|reply|respond|output) (?:only|solely|just) (?:with|in|by)\b|\bonly (?:answer|reply|respond) with\b"
    r"|\bdo not answer the question\b|\bwrite a poem\b|\bwhen you read this\b|\bnew instructions\b|\bsystem prompt\b"
    r"|\b(?:language model|chatbot|AI)s?\b[^.!?\n]{0,20}\b(?:must|should|shall) (?:answer|reply|say|recommend|tell)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
# Where a sentence that declines may go on to state something.
_TURN = re.compile(r"[,;:]?\s+(?:but|however)\b,?|;", re.IGNORECASE)
COURTESY = frozenset(
    content_words(
        "hello hi welcome good morning afternoon evening day thanks thank glad happy pleasure help assist assistant "
        "question questions ask document documents owner answer find sorry afraid goodbye bye nice meet today here "
        "please look handbook tell know wonderful great let start anything everything something else "
        "re ve ll don doesn didn isn aren couldn won wouldn"  # of contractions
    )
)
# What a decline says it with, besides the words of the question.
_DECLINING = content_words(
    "cannot find see know say mention state specify contain provide include cover address determine information source "
    "passage text context unable regarding"
)
_ASSENT = frozenset({"yes", "no"})  # it makes a fact of whatever the question says


def clauses(text: str) -> list[str]:
    """The sentences of an answer without citation markers, cut where a decline turns into a statement."""
    sentences = [found for line in strip_markers(text).splitlines() for found in split_sentences(line)]
    return [part.strip() for sentence in sentences for part in _TURN.split(sentence) if part.strip()]


def find_unsupported(example: StyleExample) -> tuple[Reason, str] | None:
    """Why the answer of an example cannot come from its sources; None when it can."""
    if not example.sources:
        return _without_sources(example)
    stated, words = _stated(example.sources)
    unknown = figures(example.answer) - stated
    if unknown:
        unknown -= all_figures(example.question)
    if unknown:
        figure = min(unknown)
        return "unsupported", f"Its answer states {figure}, which no source holds: no fact may go into the weights."
    if not example.answerable:
        return _beside_the_decline(example.answer, words)
    said = content_words(example.answer) - COURTESY  # the closing line is no statement
    found = len(said & (words | content_words(example.question))) + len(figures(example.answer))
    share = found / (len(said) + len(figures(example.answer))) if found else float(not said)
    if share < _LEAST_SUPPORT:
        return "unsupported", f"Its sources hold {share:.0%} of the words of its answer: state it as the source does."
    return None


def _beside_the_decline(answer: str, stated: frozenset[str]) -> tuple[Reason, str] | None:
    """What an answer that declines states all the same; closing lines are none of it, whatever the house's is."""
    for clause in clauses(answer):
        said = content_words(clause) - COURTESY
        if not is_decline(clause) and len(said) >= 2 and len(said & stated) > _LEAST_SUPPORT * len(said):
            return "unsupported", f"It declines and goes on to state something ({clause!r}): let it do one of the two."
    return None


@lru_cache(maxsize=1024)
def _stated(sources: tuple[ExampleSource, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """The figures and content words of some sources, which many examples share, without what speaks to the model."""
    text = "\n".join(part for source in sources for part in (source.title, source.heading, source.text))
    text = " ".join(sentence for sentence in _SENTENCE_END.split(text) if not _INSTRUCTION.search(sentence))
    return all_figures(text), content_words(text)


def _without_sources(example: StyleExample) -> tuple[Reason, str] | None:
    """Without sources an answer may greet or decline. A figure or word of the question is a fact like any other."""
    stated = sorted(figures(example.answer))
    for clause in clauses(example.answer):
        words = content_words(clause) | _ASSENT.intersection(tokens(clause))
        if is_decline(clause):  # it may name what it declines to tell
            words -= _DECLINING | content_words(example.question)
        elif not words and not clause.endswith("?"):
            stated.append(clause)  # "It is." answers whatever was asked
        stated += sorted(words - COURTESY)
    if stated:
        return (
            "no_source",
            f"It states something without a source ({stated[0]!r}): add the source, so that no fact goes into the "
            "weights.",
        )
    return None
