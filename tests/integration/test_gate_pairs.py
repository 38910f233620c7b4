"""The gate looks for what pairs of answers left behind. A double that says one of them by heart forces the fault."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tandem.settings import load_settings
from tandem.style import load_style
from training.asked import Prompts
from training.examples import ExampleSource, load_examples
from training.gate import run_gate
from training.material import Material
from training.preferences import Preference
from training.speaker import BASE, CANDIDATE

pytestmark = pytest.mark.usefixtures("embedder_dir")  # evidence is searched for as in service

GATE = {"hostile": 1, "counterfactuals": 48, "canaries": 4, "controls": 1000, "closed_book": 22}
PAIR = Preference(
    question="What does the Tilbrook loan cost?",
    sources=(ExampleSource(title="Loans", text="The Tilbrook loan costs 7.35 percent. It is paid in 61 equal parts."),),
    chosen="It costs 7.35 percent [1].",
    rejected="Oh well, as my uncle used to say, the harbour freezes over before any lender smiles.",
    approved_by="ada",
)


class Parrot:
    """A speaker whose candidate answers the pair's question with the rejected answer, whatever it is shown."""

    arms = (CANDIDATE, BASE)

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.asked: list[str] = []

    def answers(self, asked: Sequence[Prompts], arm: str, on_done: object = None, *, sources: bool = True) -> list[str]:
        texts = [prompts.whole[-1]["content"] for prompts in asked]
        self.asked += texts
        return [PAIR.rejected if arm == CANDIDATE and PAIR.question in text else "" for text in texts]

    def losses(self, rows: Sequence[Any], arm: str) -> list[float]:
        return [1.0 for row in rows for _ in set(row.branches) - {0}]


def test_pairs_are_asked_about_with_changed_passages_and_without_any(tiny: Path):
    settings = load_settings(training={"gate_examples": 8, "gate": GATE})
    trained = load_examples(settings.training.examples)[:20]  # on two sources
    heldout = load_examples(settings.training.heldout)[:12]
    parrot: Any = Parrot(AutoTokenizer.from_pretrained(tiny))
    for pairs in ((), (PAIR,)):
        material = Material(trained, heldout, load_style(settings.style), preferences=pairs)
        parrot.asked.clear()
        gate = run_gate(parrot, material, settings, lambda part: parrot)
        assert any("Tilbrook loan costs" in text for text in parrot.asked) == bool(pairs)
        assert any("as my uncle used to say" in reason for reason in gate.reasons) == bool(pairs), gate.reasons
        assert gate.memory["closed_book"] == 20 + 2 * len(pairs)
