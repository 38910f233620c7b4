"""StyleExample -> guard -> augment -> train -> Adapter(candidate) -> gate -> promote -> active.

A run that was killed goes on where it stood: its folder is named by everything that decides its result.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tandem.database import Database
from tandem.errors import AdapterError, Busy, ExampleError
from tandem.prompt import PROMPT_VERSION
from tandem.registry import AdapterRef, Gate, Manifest, Registry, adapter_digest
from tandem.schemas import Value
from tandem.settings import Settings, TrainingSettings
from tandem.style import StyleGuide, load_style
from tandem.weights import base_dir, model_digest
from training.augment import Augmenter
from training.corpus import open_corpus
from training.corpus_facts import CorpusFacts
from training.examples import StyleExample, data_digest, group_by_sources, load_examples
from training.guards import Guarded, guard
from training.launch import is_main_process
from training.preferences import Preferred, guard_preferences, load_preferences, train_on_preferences
from training.preflight import preflight, refuse

Stage = Literal["guard", "augment", "train", "gate", "register"]
# Settings that change nothing in the weights.
_IRRELEVANT = {"schedule", "time_zone", "min_new_examples", "gate_examples", "gate", "heldout", "examples"}
_IRRELEVANT |= {"preferences", "webhook", "webhook_token", "webhook_secret"}
_LISTED = 20  # refused examples in a run's log; its folder lists all
_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers")


class TrainingEvent(Value):
    """One line of a run's log.

    Attributes:
        message: For people.
        data: For programs: in the stage `train` step, steps, loss, heldout_loss, tokens_per_second, seconds_left.
    """

    stage: Stage
    message: str
    data: dict[str, float] = Field(default_factory=dict)


OnEvent = Callable[[TrainingEvent], None]


def train(
    settings: Settings,
    *,
    examples: Path | None = None,
    name: str | None = None,
    on_event: OnEvent | None = None,
    by: str = "tandem train",
) -> Manifest:
    """Trains an adapter, registers it, and promotes it if it passes the gate.

    Args:
        settings: `settings.training` decides how; the adapter goes to `settings.registry`.
        examples: JSON Lines; by default those of the settings.
        name: Of the adapter; by default that of the settings.
        on_event: Told what is going on.
        by: Who is written into the promotion's history.

    Returns:
        The manifest, gate verdict included. A failed gate is no error: the adapter stays a candidate.

    Raises:
        ExampleError: The examples cannot be read, or are not sound.
        InputError: The adapter could not be served, as `training.preflight` finds.
        ModelUnavailable: The base model was not prepared.
        Busy: Another run holds the data directory.
    """
    say = on_event or (lambda event: None)
    name = name or settings.adapter.name
    # Read when the libraries are loaded. TRL reports its use over the network unless told; and threads that spin at
    # each barrier are several times slower as soon as anything else computes on this machine, as vLLM does.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with run_lock(settings) if is_main_process() else nullcontext():
        guide = load_style(settings.style)
        base = base_dir(settings)
        facts = _facts(settings, say)
        guarded = _read(examples or settings.training.examples, facts, settings.runs_dir, say)
        heldout = guard(load_examples(settings.training.heldout), facts).examples
        refuse(preflight(settings, base, guarded.examples, heldout))
        return _train(settings, name, base, guide, guarded, heldout, say, by)


@contextmanager
def run_lock(settings: Settings) -> Iterator[None]:
    """One training run at a time on a data directory. The kernel lets go when the process ends, however it ends.

    Raises:
        Busy: Another run holds it.
    """
    settings.runs_dir.mkdir(parents=True, exist_ok=True)
    with (settings.runs_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Busy(
                f"A training run is under way in {str(settings.runs_dir)!r}: wait for it, or name another --data-dir."
            ) from exc
        yield


def _facts(settings: Settings, say: OnEvent) -> CorpusFacts | None:
    database = Database(settings.database)
    try:
        facts = CorpusFacts.of(database)
    finally:
        database.close()
    if facts is None:
        message = "No documents are ingested here: the examples are not compared with any."
    else:
        message = f"The examples are compared with the {facts.documents} documents that are live."
    say(TrainingEvent(stage="guard", message=message))
    return facts


def _read(path: Path, facts: CorpusFacts | None, runs_dir: Path, say: OnEvent) -> Guarded:
    examples = load_examples(path)
    guarded = guard(examples, facts)
    refused = guarded.refusals
    for refusal in refused[:_LISTED]:
        message = f"Example {refusal.number} is left out ({refusal.reason}): {refusal.message}"
        say(TrainingEvent(stage="guard", message=message))
    lines = "".join(refusal.model_dump_json() + "\n" for refusal in refused)
    (runs_dir / "refused.jsonl").write_text(lines, encoding="utf-8")
    if len(refused) > _LISTED:
        message = f"{len(refused) - _LISTED} more are listed in {str(runs_dir / 'refused.jsonl')!r}."
        say(TrainingEvent(stage="guard", message=message))
    if not guarded.examples:
        raise ExampleError(
            f"None of the {len(examples)} examples in {path.name!r} passed the guards. "
            f"The first: {refused[0].message} All are listed in {str(runs_dir / 'refused.jsonl')!r}."
        )
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in refused).most_common())
    message = f"{len(guarded.examples)} of {len(examples)} examples pass the guards"
    say(TrainingEvent(stage="guard", message=f"{message}; left out: {counts}." if counts else f"{message}."))
    return guarded


def _train(
    settings: Settings,
    name: str,
    base: Path,
    guide: StyleGuide,
    guarded: Guarded,
    heldout: Sequence[StyleExample],
    say: OnEvent,
    by: str,
) -> Manifest:
    # torch and its family take seconds to import: not for those who only read this module's types.
    from training.gate import Material, run_gate
    from training.progress import Progress
    from training.speaker import Speaker
    from training.trainer import draw_heldout, draw_rows, load_base, save_adapter, train_adapter

    registry = Registry(settings.registry)
    base_digest = model_digest(base)
    start = registry.get(settings.training.start_from) if settings.training.start_from else None
    if start is not None:
        registry.verify(start, base_digest=base_digest)
        say(TrainingEvent(stage="train", message=f"Training goes on from {start.served}."))
    model, tokenizer = load_base(base)
    groups = group_by_sources(guarded.examples)
    augmenter = Augmenter(groups, guide, open_corpus(groups, settings))
    rows = draw_rows(augmenter, tokenizer, settings.training)
    tokens = sum(len(row.ids) for row in rows)
    questions = sum(len(set(row.branches) - {0}) for row in rows)
    message = f"{questions} questions over {len(rows)} prompts, {tokens} tokens, are drawn."
    say(TrainingEvent(stage="augment", message=message))

    apart = group_by_sources(heldout)
    unseen = draw_heldout(Augmenter(apart, guide, open_corpus(apart, settings)), tokenizer, settings.training)
    folder = settings.runs_dir / _run_id(name, base_digest, [*guarded.examples, *heldout], guide, settings)

    def progress(at: Progress) -> None:
        message = (
            f"step {at.step} of {at.steps}, loss {at.loss:.3f}, "
            + (f"held-out loss {at.heldout_loss:.3f}, " if at.heldout_loss is not None else "")
            + f"{at.tokens_per_second:.0f} tokens/s, {at.seconds_left / 60:.0f} min left"
        )
        data = {fact: round(float(value), 4) for fact, value in vars(at).items() if value is not None}
        say(TrainingEvent(stage="train", message=message, data=data))

    trained = train_adapter(
        model,
        tokenizer,
        rows,
        settings.training,
        folder,
        progress,
        heldout=unseen,
        start=start.path if start else None,
    )
    preferred = _prefer(trained, settings.training, folder, say)
    if not is_main_process():
        raise SystemExit(0)  # under `accelerate launch`, the first process alone gates and registers
    active = _active(registry, name, base_digest)
    if active is not None:
        trained.model.load_adapter(str(active.path), adapter_name="active", torch_device=model.device.type)
    speaker = Speaker(trained.model, tokenizer, active="active" if active is not None else None)

    def shadow(part: Sequence[StyleExample]) -> Speaker:
        model, _ = load_base(base)
        some = group_by_sources(part)
        drawn = draw_rows(Augmenter(some, guide, open_corpus(some, settings)), tokenizer, settings.training)
        home = folder / "shadow"
        again = train_adapter(model, tokenizer, drawn, settings.training, home, start=start.path if start else None)
        return Speaker(again.model, tokenizer)

    def asked(what: str, done: int, count: int) -> None:
        say(TrainingEvent(stage="gate", message=f"{what}: {done} of {count}"))

    gate = run_gate(speaker, Material(guarded.examples, heldout, guide), settings, shadow, asked)
    for reason in gate.reasons:
        say(TrainingEvent(stage="gate", message=("Passed. " if gate.passed else "Failed: ") + reason))

    save_adapter(trained.model, folder / "adapter")
    manifest = Manifest(
        name=name,
        digest=adapter_digest(folder / "adapter"),
        base_model=base.name,
        base_digest=base_digest,
        data_digest=data_digest(guarded.examples),
        data={
            "read": len(guarded.examples) + len(guarded.refusals),
            "refused": len(guarded.refusals),
            "questions": questions,
            "prompts": len(rows),
            "preferences": preferred.pairs if preferred else 0,
        },
        prompt_version=PROMPT_VERSION,
        style=guide.name,
        lora={
            "rank": settings.training.rank,
            "alpha": settings.training.alpha,
            "targets": list(settings.training.targets),
        },
        training={
            key: getattr(settings.training, key)
            for key in ("passes", "batch_size", "learning_rate", "warmup", "max_tokens", "seed")
        }
        | {"dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type},
        metrics={
            **trained.outcome.model_dump(exclude_none=True),
            **({f"preference_{key}": value for key, value in preferred.model_dump().items()} if preferred else {}),
        },
        gate=gate,
        parent=active.served if active is not None else None,
        versions={library: importlib.metadata.version(library) for library in _LIBRARIES},
        created_at=datetime.now(UTC),
    )
    ref = registry.add(folder / "adapter", manifest)
    _settle(registry, ref, gate, by, say)
    shutil.rmtree(folder, ignore_errors=True)  # the checkpoints; what matters is in the registry
    return registry.manifest(ref)


def _prefer(trained: Any, settings: TrainingSettings, folder: Path, say: OnEvent) -> Preferred | None:
    """The second stage, where there are pairs to learn from."""
    if settings.preferences is None:
        return None
    guarded = guard_preferences(load_preferences(settings.preferences))
    for refusal in guarded.refusals[:20]:
        say(TrainingEvent(stage="guard", message=f"Pair {refusal.number} is left out: {refusal.message}"))
    if not guarded.preferences:
        return None
    found = train_on_preferences(
        trained.model, trained.tokenizer, guarded.preferences, settings, folder / "preferences"
    )
    message = f"{found.pairs} pairs of answers: the margin of the chosen ones is {found.margin:.2f}."
    say(TrainingEvent(stage="train", message=message, data=found.model_dump()))
    return found


def _settle(registry: Registry, ref: AdapterRef, gate: Gate, by: str, say: OnEvent) -> None:
    if gate.passed:
        registry.promote(ref, by)
        say(TrainingEvent(stage="register", message=f"{ref.served} is active."))
    else:
        say(TrainingEvent(stage="register", message=f"{ref.served} is kept as a candidate and not promoted."))


def _active(registry: Registry, name: str, base_digest: str) -> AdapterRef | None:
    """The adapter to compare with: the one that answers now, if it is whole and fits the base model."""
    try:
        ref = registry.active(name)
        if ref is not None:
            registry.verify(ref, base_digest=base_digest)
    except AdapterError:
        return None
    return ref


def _run_id(
    name: str, base_digest: str, examples: Sequence[StyleExample], guide: StyleGuide, settings: Settings
) -> str:
    decides: tuple[Any, ...] = (
        base_digest,
        data_digest(examples),
        guide.model_dump_json(),
        PROMPT_VERSION,
        settings.training.model_dump_json(exclude=_IRRELEVANT),
    )
    return f"{name}-{hashlib.sha256(repr(decides).encode()).hexdigest()[:12]}"
