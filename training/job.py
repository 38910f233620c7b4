"""StyleExample -> guard -> augment -> train -> Adapter(candidate) -> gate -> promote -> active.

A run that was killed goes on where it stood: its folder is named by what is trained on, and how.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.cross_encoder import CrossEncoder
from tandem.errors import AdapterError, Busy, InputError, NotFound
from tandem.manifest import Threshold
from tandem.registry import AdapterRef, Gate, Manifest, Registry
from tandem.settings import Settings, TrainingSettings
from tandem.versions import NAME
from tandem.weights import base_dir, cross_encoder_dir, model_digest
from training.augment import Augmenter
from training.corpus import open_corpus
from training.events import OnEvent, Say, TrainingEvent, sayer
from training.examples import StyleExample, group_by_sources
from training.launch import is_main_process, leave_group, processes, take_one_gpu
from training.material import Material, read_material
from training.preference_stage import Preferred, train_on_preferences
from training.preflight import preflight, refuse
from training.recipe import write_manifest
from training.result import Result, settle, write_result

# torch and its family take seconds to import: not for those who only read this module's types.
if TYPE_CHECKING:
    from training.progress import Progress
    from training.rows import Row
    from training.speaker import Speaker
    from training.trainer import Trained

# Settings that change nothing in the weights, or nothing but the rows.
_IRRELEVANT = {"schedule", "time_zone", "min_new_examples", "gate_examples", "gate", "heldout", "examples"}
_IRRELEVANT |= {"preferences", "webhook", "webhook_token", "webhook_secret", "replay"}
_IRRELEVANT |= {"start_share"}  # what a run was trained to can be averaged anew


def train(
    settings: Settings,
    *,
    examples: Path | None = None,
    name: str | None = None,
    on_event: OnEvent | None = None,
    by: str = "tandem train",
    result: Path | None = None,
) -> Result | None:
    """Trains an adapter, registers it, and promotes it if it passes the gate.

    Under `accelerate launch` every process calls this: the first gates and registers, the others share in training.

    Args:
        settings: `settings.training` decides how; the adapter goes to `settings.registry`.
        examples: JSON Lines; by default those of the settings.
        name: Of the adapter; by default that of the settings.
        on_event: Told what is going on.
        by: Who is written into the promotion's history.
        result: Where the result is written before the promotion.

    Returns:
        The manifest with the gate's verdict, and whether it was promoted; None in a process that is not the first. A
        failed gate is no error: the adapter stays a candidate.

    Raises:
        ExampleError: The examples cannot be read, or are not sound.
        InputError: The adapter could not be served, as `training.preflight` finds, or a step cannot be divided among
            the processes.
        ModelUnavailable: The base model was not prepared.
        Busy: Another run holds the data directory.
    """
    # Read when the libraries are loaded. TRL reports its use over the network unless told; and threads that spin at
    # each barrier are several times slower as soon as anything else computes on this machine, as vLLM does.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    take_one_gpu()
    name = name or settings.adapter.name
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be an adapter's name: take up to 64 lower-case letters, digits, dots, dashes or "
            "underscores, a letter or digit first."
        )
    with run_lock(settings) if is_main_process() else nullcontext():
        settings, base = _pinned(settings), base_dir(settings)
        material = read_material(settings, examples or settings.training.examples, sayer(on_event))
        refuse(preflight(settings, base, material))
        run = _Run(settings, name, base, material, on_event, by, processes(), result)
        return run.run()


def _pinned(settings: Settings) -> Settings:
    """The settings with the version that training goes on from: a bare name would mean another after a promotion."""
    wanted = settings.training.start_from
    if wanted is None:
        return settings
    try:
        served = Registry.open(settings).get(wanted).served
    except (AdapterError, NotFound):  # the pre-flight check says so
        return settings
    return settings.model_copy(update={"training": settings.training.model_copy(update={"start_from": served})})


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
    processes: int = 1
    result: Path | None = None

    def run(self) -> Result | None:
        """Trains, examines, registers; None where this process only shared in training."""
        from training.base_model import load_base

        model, tokenizer = load_base(self.base)
        rows = self._draw(self.material.trained, tokenizer)
        self.say("augment", _drawn(rows))
        unseen = self._draw_heldout(tokenizer)
        folder = self.settings.runs_dir / self._named(self.name, rows, unseen)
        trained = self._fit(model, tokenizer, rows, unseen, folder)
        preferred = self._prefer(trained, folder / "preferences")
        if not leave_group():
            return None
        verdict = self._judge(trained, folder)
        result = self._settle(self._register(rows, trained, preferred, verdict, folder / "adapter"))
        shutil.rmtree(folder, ignore_errors=True)  # the checkpoints; what matters is in the registry
        return result

    @cached_property
    def say(self) -> Say:
        return sayer(self.on_event)

    @cached_property
    def cross_encoder(self) -> CrossEncoder | None:
        """The service's, by which it is told how likely a sentence answers."""
        prepared = cross_encoder_dir(self.settings)
        return CrossEncoder(prepared, self.settings.embedding.threads) if prepared is not None else None

    @cached_property
    def registry(self) -> Registry:
        return Registry.open(self.settings)

    @cached_property
    def expected(self) -> str:
        """What the pointer named when the gate began: what a person did since is not undone by a promotion."""
        return self.registry.pointed_at(self.name)

    @cached_property
    def base_digest(self) -> str:
        return model_digest(self.base)

    def _named(self, what: str, rows: "Sequence[Row]", unseen: "Sequence[Row]" = ()) -> str:
        """The name of a folder for the checkpoints of one training and of no other.

        The rows tell examples, their order, house style, prompt, retrieval and tokenizer; with more processes a step
        takes more of them.
        """
        from training.rows import rows_digest

        training = self.settings.training.model_dump_json(exclude=_IRRELEVANT)
        decides = (self.base_digest, rows_digest(rows), rows_digest(unseen), training, self.processes)
        return f"{what}-{hashlib.sha256(repr(decides).encode()).hexdigest()[:12]}"

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

    def _draw(
        self, examples: Sequence[StyleExample], tokenizer: Any, training: TrainingSettings | None = None
    ) -> "list[Row]":
        from training.row_draws import draw_rows

        def left_out(count: int, first: str) -> None:
            self.say("augment", f"{count} draws are too long and are left out. {first}")

        return draw_rows(self._augmenter(examples), tokenizer, training or self.settings.training, left_out)

    def _draw_heldout(self, tokenizer: Any) -> "list[Row]":
        from training.row_draws import draw_heldout

        return draw_heldout(self._augmenter(self.material.tuning), tokenizer, self.settings.training)

    def _fit(self, model: Any, tokenizer: Any, rows: "list[Row]", unseen: "list[Row]", folder: Path) -> "Trained":
        from training.trainer import train_adapter

        return train_adapter(
            model,
            tokenizer,
            rows,
            self.settings.training,
            folder,
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

    def _prefer(self, trained: "Trained", folder: Path) -> Preferred | None:
        """The second stage, where there are pairs to learn from."""
        if not self.material.preferences:
            return None
        found = train_on_preferences(
            trained.model,
            trained.tokenizer,
            self.material.preferences,
            self.settings.training,
            folder,
        )
        self.say("train", f"{found.pairs} pairs of answers: the margin of the chosen ones is {found.margin:.2f}.")
        return found

    def _judge(self, trained: "Trained", folder: Path) -> "_Verdict":
        """What the gate says, and when the adapter is to decline."""
        active = self._active()
        speaker = self._speaker(trained, active)
        threshold = self._calibrate(speaker)
        return _Verdict(self._examine(speaker, folder), threshold, active)

    def _register(
        self, rows: "list[Row]", trained: "Trained", preferred: Preferred | None, verdict: "_Verdict", files: Path
    ) -> Manifest:
        from training.adapter_weights import save_adapter

        save_adapter(trained.model, files)
        recipe = write_manifest(
            self.name, files, self.base, self.settings, self.material, rows, trained, preferred, self.processes
        )
        parent = verdict.active.served if verdict.active else None
        known = {"threshold": verdict.threshold, "gate": verdict.gate, "parent": parent}
        manifest = recipe.model_copy(update=known)
        return self.registry.manifest(self.registry.add(files, manifest))

    def _active(self) -> AdapterRef | None:
        """The adapter to compare with: the one that answers now, if it is whole and fits the base model."""
        try:
            ref = self.registry.active(self.name) if self.expected else None
            if ref is not None:
                self.registry.verify(ref, base_digest=self.base_digest)
        except AdapterError as exc:
            self.say("gate", f"The candidate is not compared with the active adapter: {exc.message}")
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
        return Speaker(model, trained.tokenizer, active=name, thresholds=thresholds, cross_encoder=self.cross_encoder)

    def _calibrate(self, speaker: "Speaker") -> Threshold | None:
        from training.calibration import calibrate
        from training.trials import draw_trials

        guide, gate = self.material.guide, self.settings.training.gate
        trials = draw_trials(self.material.tuning, guide, self.settings, gate.calibration, unanswerable=False)
        threshold = calibrate(speaker, trials, gate.calibrated_declines, gate.held_declines)
        if threshold is not None:
            speaker.decline_by(threshold)
            self.say("gate", f"The declining sentence is held back {_by(threshold)}.")
        return threshold

    def _examine(self, speaker: "Speaker", folder: Path) -> Gate:
        from training.gate import run_gate

        def asked(what: str, done: int, count: int) -> None:
            self.say("gate", f"{what}: {done} of {count}")

        gate = run_gate(speaker, self.material, self.settings, partial(self._shadow, folder), asked)
        for reason in gate.reasons:
            self.say("gate", ("Passed. " if gate.passed else "Failed: ") + reason)
        return gate

    def _shadow(self, folder: Path, part: Sequence[StyleExample]) -> "Speaker":
        """Another adapter, trained in the same way on other examples; there is no stage of preferences."""
        from training.base_model import load_base
        from training.speaker import Speaker
        from training.trainer import train_adapter

        model, tokenizer = load_base(self.base)
        # This process is alone now: what the others computed of a step is further parts of its own.
        parts = self.settings.training.accumulation * self.processes
        # Less than a pass would leave some of the canaries out.
        whole = max(1.0, self.settings.training.passes)
        alone = self.settings.training.model_copy(update={"accumulation": parts, "passes": whole})
        rows = self._draw(part, tokenizer, alone)
        own = folder / self._named("shadow", rows)  # other canaries, another shadow
        again = train_adapter(model, tokenizer, rows, alone, own, start=self.start)
        return Speaker(again.model, tokenizer)

    def _settle(self, manifest: Manifest) -> Result:
        result = Result(manifest=manifest, expected=self.expected)
        if self.result is not None:  # whoever finds it settles it, should this process not come to it
            write_result(self.result, result)
        result = settle(self.registry, result, self.by)
        if result.promoted:
            self.say("register", f"{manifest.served} is active.")
        elif result.overtaken:
            self.say("register", f"{result.overtaken} It is kept as a candidate.")
        else:
            self.say("register", f"{manifest.served} is kept as a candidate and not promoted.")
        return result


@dataclass(frozen=True)
class _Verdict:
    """What is known of a candidate once it was examined, and the adapter that it was compared with."""

    gate: Gate
    threshold: Threshold | None
    active: AdapterRef | None


def _by(threshold: Threshold) -> str:
    if threshold.odds is None:
        return f"by {-threshold.bias:.2f} nats"
    return f"by what the odds that a sentence answers exceed {threshold.odds:.2f} nats"


def _drawn(rows: "list[Row]") -> str:
    questions = sum(len(set(row.branches) - {0}) for row in rows)
    return f"{questions} questions over {len(rows)} prompts, {sum(len(row.ids) for row in rows)} tokens, are drawn."
