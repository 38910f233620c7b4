"""Word for word from the training data: spans of an answer that stand in a text it was not shown."""

import re
from collections.abc import Iterable

_WORD = re.compile(r"\w+(?:['.,:@/-]\w+)*")


class SpanIndex:
    """All spans of `words` words of some texts, in lower case and without punctuation between words.

    Args:
        texts: The training inputs.
        words: Words of a span.
    """

    def __init__(self, texts: Iterable[str], words: int) -> None:
        self._words = words
        self._spans = {span for text in texts for span in self._cut(text)}

    def found(self, answer: str, shown: str = "") -> frozenset[str]:
        """The spans of `answer` that stand in the texts and not in `shown`, what the answerer was given."""
        return frozenset(self._cut(answer)) & self._spans - frozenset(self._cut(shown))

    def _cut(self, text: str) -> list[str]:
        words = _WORD.findall(text.lower())
        return [" ".join(words[n : n + self._words]) for n in range(len(words) - self._words + 1)]
