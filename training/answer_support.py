"""Whether the sources of an example bear out its answer: what they do not say would have to come from the weights."""

import re
from functools import lru_cache

from eval.support import all_figures, claims, content_words, figures
from tandem.declines import is_decline
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
_COURTESY = frozenset(
    content_words(
        "hello hi welcome good morning afternoon evening day thanks thank glad happy pleasure help assist assistant "
        "question questions ask document documents owner answer find sorry goodbye bye nice meet today here please "
        "look handbook tell know wonderful great let start anything everything something else"
    )
)


def find_unsupported(example: StyleExample) -> tuple[Reason, str] | None:
    """Why the answer of an example cannot come from its sources; None when it can."""
    stated, words = _stated(example.sources)
    unknown = figures(example.answer) - stated
    if unknown:
        unknown -= all_figures(example.question)
    if unknown:
        reason: Reason = "unsupported" if example.sources else "no_source"
        return reason, f"Its answer states {min(unknown)}, which no source holds: no fact may go into the weights."
    if not example.sources:
        return _without_sources(example)
    if not example.answerable:
        return None
    said = content_words(example.answer) - _COURTESY  # the closing line is no statement
    found = len(said & (words | content_words(example.question))) + len(figures(example.answer))
    share = found / (len(said) + len(figures(example.answer))) if found else float(not said)
    if share < _LEAST_SUPPORT:
        return "unsupported", f"Its sources hold {share:.0%} of the words of its answer: state it as the source does."
    return None


@lru_cache(maxsize=1024)
def _stated(sources: tuple[ExampleSource, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """The figures and content words of some sources, which many examples share, without what speaks to the model."""
    text = "\n".join(part for source in sources for part in (source.title, source.heading, source.text))
    text = " ".join(sentence for sentence in _SENTENCE_END.split(text) if not _INSTRUCTION.search(sentence))
    return all_figures(text), content_words(text)


def _without_sources(example: StyleExample) -> tuple[Reason, str] | None:
    """Without sources an answer may greet or decline."""
    for claim in claims(example.answer):
        words = content_words(claim) - content_words(example.question) - _COURTESY
        if not is_decline(claim) and len(words) > 1:
            return (
                "no_source",
                "It states something without a source: add the source, so that no fact goes into the weights.",
            )
    return None
