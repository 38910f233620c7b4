"""StyleExample -> guard -> augment -> train -> Adapter(candidate) -> gate -> promote -> active.

A run that was killed goes on where it stood: its folder is named by everything that decides its result.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import AdapterError, Busy
from tandem.manifest import Threshold
from tandem.prompt import PROMPT_VERSION
from tandem.registry import AdapterRef, Gate, Manifest, Registry
from tandem.settings import Settings
from tandem.weights import base_dir, model_digest
from training.augment import Augmenter
from training.corpus import open_corpus
from training.events import OnEvent, Say, TrainingEvent, sayer
from training.examples import StyleExample, data_digest, group_by_sources
from training.launch import is_main_process
from training.material import Material, read_material
from training.preferences import Preferred, train_on_preferences
from training.preflight import preflight, refuse
from training.recipe import write_manifest
from training.result import write_result

# torch and its family take seconds to import: not for those who only read this module's types.
if TYPE_CHECKING:
    from training.progress import Progress
    from training.rows import Row
    from training.speaker import Speaker
    from training.trainer import Trained

# Settings that change nothing in the weights.
_IRRELEVANT = {"schedule", "time_zone", "min_new_examples", "gate_examples", "gate", "heldout", "examples"}
_IRRELEVANT |= {"preferences", "webhook", "webhook_token", "webhook_secret"}


def train(
    settings: Settings,
    *,
    examples: Path | None = None,
    name: str | None = None,
    on_event: OnEvent | None = None,
    by: str = "tandem train",
    result: Path | None = None,
) -> Manifest:
    """Trains an adapter, registers it, and promotes it if it passes the gate.

    Args:
        settings: `settings.training` decides how; the adapter goes to `settings.registry`.
        examples: JSON Lines; by default those of the settings.
        name: Of the adapter; by default that of the settings.
        on_event: Told what is going on.
        by: Who is written into the promotion's history.
        result: Where the manifest is written before the promotion, as `training.result` has it.

    Returns:
        The manifest, gate verdict included. A failed gate is no error: the adapter stays a candidate.

    Raises:
        ExampleError: The examples cannot be read, or are not sound.
        InputError: The adapter could not be served, as `training.preflight` finds.
        ModelUnavailable: The base model was not prepared.
        Busy: Another run holds the data directory.
    """
    # Read when the libraries are loaded. TRL reports its use over the network unless told; and threads that spin at
    # each barrier are several times slower as soon as anything else computes on this machine, as vLLM does.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with run_lock(settings) if is_main_process() else nullcontext():
        base = base_dir(settings)
        material = read_material(settings, examples or settings.training.examples, sayer(on_event))
        refuse(preflight(settings, base, material.trained, [*material.heldout, *material.tuning]))
        return _Run(settings, name or settings.adapter.name, base, material, on_event, by, result).manifest()


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


@dataclass(frozen=True)
class _Run:
    """One run, from sound examples to an adapter in the registry."""

    settings: Settings
    name: str
    base: Path
    material: Material
    on_event: OnEvent | None
    by: str
    result: Path | None = None

    def manifest(self) -> Manifest:
        """Trains, examines, registers."""
        from training.trainer import load_base, save_adapter

        model, tokenizer = load_base(self.base)
        rows = self._draw(self.material.trained, tokenizer)
        self.say("augment", _drawn(rows))
        trained = self._fit(model, tokenizer, rows)
        preferred = self._prefer(trained)
        if not is_main_process():
            raise SystemExit(0)  # under `accelerate launch`, the first process alone gates and registers
        active = self._active()
        speaker = self._speaker(trained, active)
        threshold = self._calibrate(speaker)
        gate = self._examine(speaker)
        save_adapter(trained.model, self.folder / "adapter")
        manifest = write_manifest(
            self.name, self.folder / "adapter", self.base, self.settings, self.material, rows, trained, preferred
        )
        known = {"threshold": threshold, "gate": gate, "parent": active.served if active else None}
        manifest = manifest.model_copy(update=known)
        ref = self.registry.add(self.folder / "adapter", manifest)
        if self.result is not None:
            write_result(self.result, manifest)
        self._settle(ref, gate)
        shutil.rmtree(self.folder, ignore_errors=True)  # the checkpoints; what matters is in the registry
        return self.registry.manifest(ref)

    @cached_property
    def say(self) -> Say:
        return sayer(self.on_event)

    @cached_property
    def registry(self) -> Registry:
        return Registry.open(self.settings)

    @cached_property
    def base_digest(self) -> str:
        return model_digest(self.base)

    @cached_property
    def folder(self) -> Path:
        """Checkpoints of this run and of no other."""
        training = self.settings.training.model_dump_json(exclude=_IRRELEVANT)
        examples = data_digest([*self.material.trained, *self.material.tuning])
        decides = (self.base_digest, examples, self.material.guide.model_dump_json(), PROMPT_VERSION, training)
        return self.settings.runs_dir / f"{self.name}-{hashlib.sha256(repr(decides).encode()).hexdigest()[:12]}"

    @cached_property
    def start(self) -> Path | None:
        """The adapter whose weights are gone on from."""
        wanted = self.settings.training.start_from
        if wanted is None:
            return None
        ref = self.registry.get(wanted)
        self.registry.verify(ref, base_digest=self.base_digest)
        self.say("train", f"Training goes on from {ref.served}.")
        return ref.path

    def _augmenter(self, examples: Sequence[StyleExample]) -> Augmenter:
        groups = group_by_sources(examples)
        return Augmenter(groups, self.material.guide, open_corpus(groups, self.settings))

    def _draw(self, examples: Sequence[StyleExample], tokenizer: Any) -> "list[Row]":
        from training.trainer import draw_rows

        return draw_rows(self._augmenter(examples), tokenizer, self.settings.training)

    def _fit(self, model: Any, tokenizer: Any, rows: "list[Row]") -> "Trained":
        from training.trainer import draw_heldout, train_adapter

        unseen = draw_heldout(self._augmenter(self.material.tuning), tokenizer, self.settings.training)
        return train_adapter(
            model,
            tokenizer,
            rows,
            self.settings.training,
            self.folder,
            self._progress,
            heldout=unseen,
            start=self.start,
        )

    def _progress(self, at: "Progress") -> None:
        if self.on_event is None:
            return
        unseen = f"held-out loss {at.heldout_loss:.3f}, " if at.heldout_loss is not None else ""
        message = (
            f"step {at.step} of {at.steps}, loss {at.loss:.3f}, {unseen}"
            f"{at.tokens_per_second:.0f} tokens/s, {at.seconds_left / 60:.0f} min left"
        )
        data = {fact: round(float(value), 4) for fact, value in vars(at).items() if value is not None}
        self.on_event(TrainingEvent(stage="train", message=message, data=data))

    def _prefer(self, trained: "Trained") -> Preferred | None:
        """The second stage, where there are pairs to learn from."""
        if not self.material.preferences:
            return None
        found = train_on_preferences(
            trained.model,
            trained.tokenizer,
            self.material.preferences,
            self.settings.training,
            self.folder / "preferences",
        )
        self.say("train", f"{found.pairs} pairs of answers: the margin of the chosen ones is {found.margin:.2f}.")
        return found

    def _active(self) -> AdapterRef | None:
        """The adapter to compare with: the one that answers now, if it is whole and fits the base model."""
        try:
            ref = self.registry.active(self.name)
            if ref is not None:
                self.registry.verify(ref, base_digest=self.base_digest)
        except AdapterError:
            return None
        return ref

    def _speaker(self, trained: "Trained", active: AdapterRef | None) -> "Speaker":
        from training.speaker import ACTIVE, Speaker

        model, thresholds = trained.model, {}
        if active is not None:
            model.load_adapter(str(active.path), adapter_name="active", torch_device=model.device.type)
            if (threshold := self.registry.manifest(active).threshold) is not None:
                thresholds[ACTIVE] = threshold
        name = "active" if active is not None else None
        return Speaker(model, trained.tokenizer, active=name, thresholds=thresholds)

    def _calibrate(self, speaker: "Speaker") -> Threshold | None:
        from training.calibration import calibrate
        from training.trials import draw_trials

        guide, gate = self.material.guide, self.settings.training.gate
        trials = draw_trials(self.material.tuning, guide, self.settings, gate.calibration)
        threshold = calibrate(speaker, trials, guide.declining_answer, gate.calibrated_declines)
        if threshold is not None:
            speaker.decline_by(threshold)
            self.say("gate", f"The declining sentence is held back by {-threshold.bias:.2f} nats.")
        return threshold

    def _examine(self, speaker: "Speaker") -> Gate:
        from training.gate import run_gate

        def asked(what: str, done: int, count: int) -> None:
            self.say("gate", f"{what}: {done} of {count}")

        gate = run_gate(speaker, self.material, self.settings, self._shadow, asked)
        for reason in gate.reasons:
            self.say("gate", ("Passed. " if gate.passed else "Failed: ") + reason)
        return gate

    def _shadow(self, part: Sequence[StyleExample]) -> "Speaker":
        """Another adapter, trained in the same way on other examples."""
        from training.speaker import Speaker
        from training.trainer import load_base, train_adapter

        model, tokenizer = load_base(self.base)
        rows = self._draw(part, tokenizer)
        again = train_adapter(model, tokenizer, rows, self.settings.training, self.folder / "shadow", start=self.start)
        return Speaker(again.model, tokenizer)

    def _settle(self, ref: AdapterRef, gate: Gate) -> None:
        if gate.passed:
            self.registry.promote(ref, self.by)
            self.say("register", f"{ref.served} is active.")
        else:
            self.say("register", f"{ref.served} is kept as a candidate and not promoted.")


def _drawn(rows: "list[Row]") -> str:
    questions = sum(len(set(row.branches) - {0}) for row in rows)
    return f"{questions} questions over {len(rows)} prompts, {sum(len(row.ids) for row in rows)} tokens, are drawn."
