"""Shows what training will see: `python -m training.preview [N]` prints N drawn prompts with their answers."""

import random
import sys

from tandem.prompt import build_messages
from tandem.settings import load_settings
from tandem.style import load_style
from training.augment import Augmenter
from training.corpus import open_corpus
from training.examples import group_by_sources, load_examples


def main() -> None:
    """Entry point."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    settings = load_settings()
    groups = group_by_sources(load_examples(settings.training.examples))
    augmenter = Augmenter(groups, load_style(settings.style), open_corpus(groups, settings))
    for _, draw in zip(range(count), augmenter.one_pass(random.Random(settings.training.seed)), strict=False):
        for position, question in enumerate(draw.questions):
            content = build_messages(question.question, draw.sources, marker=draw.marker)[-1]["content"]
            shown = content if position == 0 else f"Question: {question.question}"
            sys.stdout.write(f"{shown}\n--> {question.answer}\n\n")
        sys.stdout.write("-" * 80 + "\n")


if __name__ == "__main__":
    main()
