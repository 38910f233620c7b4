"""The gate: held-out questions to the candidate and to the base model, over the same prompts.

Style must gain; right answers, right citations and right declining must not lose, against the base model that has the
same sources, and against the adapter that is active now.
"""

import random
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from eval.confidence import Interval, paired_difference
from eval.matching import MARKER, contains, strip_markers, tokens
from eval.style import score
from eval.support import figures
from tandem.declines import is_decline
from tandem.prompt import Source, build_messages
from tandem.registry import Gate
from tandem.settings import Settings
from tandem.style import StyleGuide
from training.augment import Augmenter, Shares
from training.corpus import open_corpus
from training.examples import StyleExample, group_by_sources

MEASURES = ("right", "citations", "declining", "style")
_BATCH = 8
_NEW_TOKENS = 120
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-zà-ÿ]{2,}(?: [A-Z][a-zà-ÿ]{2,})*")
_F1 = 0.6

OnAsked = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trial:
    """One held-out question over its evidence, and the answer that a curator approved."""

    question: str
    sources: tuple[Source, ...]
    marker: str
    reference: str
    answerable: bool


@dataclass(frozen=True)
class Marks:
    """What one answer is worth: 0 to 1 each, None where the measure does not apply."""

    right: float | None
    citations: float | None
    declining: float
    style: float


def draw_trials(heldout: Sequence[StyleExample], guide: StyleGuide, settings: Settings) -> list[Trial]:
    """Draws `settings.training.gate_examples` questions with evidence as the service picks it.

    The same ones for equal arguments.
    """
    rng = random.Random(settings.training.seed)
    groups = group_by_sources(heldout)
    # One question a prompt: in service each has evidence of its own.
    shares = Shares(closed_book=0.0, injected=0.0, declined=0.0, shuffled=0.0, split=0.0)
    augmenter = Augmenter(groups, guide, open_corpus(groups, settings), max_questions=1, shares=shares)
    trials = [
        Trial(asked.question, draw.sources, draw.marker, asked.answer, asked.answerable)
        for draw in augmenter.one_pass(rng)
        for asked in draw.questions
        if draw.sources
    ]
    rng.shuffle(trials)
    return trials[: settings.training.gate_examples]


def mark(trial: Trial, answer: str, guide: StyleGuide) -> Marks:
    """Marks one answer against its reference."""
    declined = is_decline(answer)
    style = score(answer, guide, declined=declined).value
    if not trial.answerable:
        return Marks(None, None, float(declined), style)
    body, reference = guide.body(answer), guide.body(trial.reference)
    right = not declined and (_says_keys(body, reference) or token_f1(body, reference) >= _F1)
    cited = set(MARKER.findall(body)) == set(MARKER.findall(reference))
    return Marks(float(right), float(cited and not declined), float(not declined), style)


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall over tokens, 0 to 1; citation markers aside."""
    said, wanted = tokens(strip_markers(answer)), tokens(strip_markers(reference))
    left = list(wanted)
    hits = 0
    for token in said:
        if token in left:
            left.remove(token)
            hits += 1
    return 2 * hits / (len(said) + len(wanted)) if hits else 0.0


def _says_keys(answer: str, reference: str) -> bool:
    """Whether an answer holds every figure and name of the reference. Not enough where it has none."""
    wanted = figures(reference)
    names = _NAME.findall(strip_markers(reference))
    if not wanted and not names:
        return False
    return wanted <= figures(answer) and all(contains(strip_markers(answer), name) for name in names)


def ask_all(
    model: PeftModel,
    tokenizer: Any,
    trials: Sequence[Trial],
    arm: AbstractContextManager[Any],
    on_asked: Callable[[int], None],
) -> list[str]:
    """Greedy answers, in the trials' order.

    Args:
        model: With the adapter's layers.
        tokenizer: Of the base model.
        trials: What to ask.
        arm: Entered for the time of asking; `model.disable_adapter()` asks the base model.
        on_asked: Told how many are done.
    """
    prompts = [
        tokenizer.apply_chat_template(
            build_messages(trial.question, trial.sources, marker=trial.marker),
            tokenize=False,
            add_generation_prompt=True,
        )
        for trial in trials
    ]
    encoded = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    order = sorted(range(len(trials)), key=lambda n: len(encoded[n]))
    answers = [""] * len(trials)
    model.eval()
    with arm, torch.inference_mode():
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            length = max(len(encoded[n]) for n in batch)
            ids = torch.full((len(batch), length), tokenizer.pad_token_id)
            seen = torch.zeros((len(batch), length), dtype=torch.long)
            for row, n in enumerate(batch):
                ids[row, length - len(encoded[n]) :] = torch.tensor(encoded[n])
                seen[row, length - len(encoded[n]) :] = 1
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=seen.to(model.device),
                max_new_tokens=_NEW_TOKENS,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            for row, n in enumerate(batch):
                answers[n] = tokenizer.decode(out[row, length:], skip_special_tokens=True).strip()
            on_asked(min(start + _BATCH, len(order)))
    return answers


def run_gate(
    model: PeftModel,
    tokenizer: Any,
    trials: Sequence[Trial],
    guide: StyleGuide,
    *,
    active: str | None = None,
    on_asked: OnAsked | None = None,
) -> Gate:
    """Asks every arm and compares.

    Args:
        model: The base model with the candidate as its active PEFT adapter.
        tokenizer: Of the base model.
        trials: At least one that is answerable.
        guide: The house style.
        active: PEFT name under which `model` also holds the adapter that answers now.
        on_asked: Told arm, questions done, questions in all.
    """
    candidate = model.active_adapter
    marks: dict[str, list[Marks]] = {}

    def ask(arm: str, context: AbstractContextManager[Any]) -> None:
        told = on_asked or (lambda *_: None)
        answers = ask_all(model, tokenizer, trials, context, lambda done: told(arm, done, len(trials)))
        marks[arm] = [mark(trial, answer, guide) for trial, answer in zip(trials, answers, strict=True)]

    ask("candidate", nullcontext())
    ask("base", model.disable_adapter())
    if active is not None:
        model.set_adapter(active)
        ask("active", nullcontext())
        model.set_adapter(candidate)
    return judge(marks, trials)


def judge(marks: dict[str, list[Marks]], trials: Sequence[Trial]) -> Gate:
    """The verdict over the marks of the arms `candidate`, `base` and, if there is one, `active`."""
    differences: dict[str, dict[str, tuple[float, float, float]]] = {}
    reasons: list[str] = []
    for other in [arm for arm in marks if arm != "candidate"]:
        rows: dict[str, tuple[float, float, float]] = {}
        for measure in MEASURES:
            interval = _compare(marks["candidate"], marks[other], measure)
            if interval is None:
                continue
            rows[measure] = (round(interval.mean, 4), round(interval.low, 4), round(interval.high, 4))
            if interval.loss:
                reasons.append(
                    f"{measure} is worse than with {_ARMS[other]}: {interval.mean:+.2f} ({_span(interval)})."
                )
            elif measure == "style" and other == "base" and not interval.gain:
                reasons.append(f"style does not gain on {_ARMS[other]}: {interval.mean:+.2f} ({_span(interval)}).")
        differences[f"candidate-{other}"] = rows
    means = {arm: {measure: _mean(found, measure) for measure in MEASURES} for arm, found in marks.items()}
    if not reasons:
        before, after = means["base"], means["candidate"]
        summary = ", ".join(f"{measure} {before[measure]:.2f} -> {after[measure]:.2f}" for measure in MEASURES)
        return Gate(
            passed=True,
            reasons=(f"Style gains and nothing is lost against the base model: {summary}.",),
            examples=len(trials),
            metrics=means,
            differences=differences,
        )
    return Gate(passed=False, reasons=tuple(reasons), examples=len(trials), metrics=means, differences=differences)


_ARMS = {"base": "the base model", "active": "the active adapter"}


def _span(interval: Interval) -> str:
    return f"{interval.level:.0%} interval {interval.low:+.2f} to {interval.high:+.2f}, {interval.n} questions"


def _compare(first: Sequence[Marks], second: Sequence[Marks], measure: str) -> Interval | None:
    pairs = [(getattr(a, measure), getattr(b, measure)) for a, b in zip(first, second, strict=True)]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return paired_difference([a for a, _ in known], [b for _, b in known]) if known else None


def _mean(marks: Sequence[Marks], measure: str) -> float:
    values = [value for value in (getattr(row, measure) for row in marks) if value is not None]
    return round(sum(values) / len(values), 4) if values else 0.0
