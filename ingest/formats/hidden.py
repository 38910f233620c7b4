"""What was left out of a reading because nobody who opens the document sees it, and the sentence that tells of it."""

from collections import Counter
from collections.abc import Mapping

# Letters. Fewer make no sentence: the mark of a program, a stray dot, the name of an icon.
_TELLING = 30


class HiddenText:
    """Counts passages and characters that were left out, by the technique that hid them."""

    def __init__(self) -> None:
        self._passages: Counter[str] = Counter()
        self._letters = 0
        self._signs: Counter[str] = Counter()

    def add(self, technique: str, text: str) -> None:
        """Counts a passage; one without a letter or figure hides nothing."""
        letters = sum(char.isalnum() for char in text)
        if letters:
            self._passages[technique] += 1
            self._letters += letters

    def count(self, signs: Mapping[str, int]) -> None:
        """Counts invisible characters, by their kind."""
        self._signs.update(signs)

    def sentence(self) -> str:
        """One sentence for the report; empty when nothing was hidden."""
        told: list[str] = []
        if self._letters >= _TELLING:
            number = self._passages.total()
            passages = "1 passage" if number == 1 else f"{number} passages"
            told.append(f"{passages} of hidden text ({', '.join(self._passages)}; {self._letters} letters)")
        if self._signs:
            number = self._signs.total()
            signs = "1 hidden character" if number == 1 else f"{number} hidden characters"
            told.append(f"{signs} ({', '.join(self._signs)})")
        if not told:
            return ""
        one = len(told) == 1 and told[0].startswith("1 ")
        return f"{' and '.join(told)} {'was' if one else 'were'} left out."
