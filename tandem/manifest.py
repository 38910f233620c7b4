"""What an adapter is: its files, the recipe it was made by, and the name it is served under."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tandem.errors import AdapterError
from tandem.schemas import Value

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"


class Gate(Value):
    """What the gate found.

    Attributes:
        passed: Whether the adapter may be promoted.
        reasons: Why not, or what was found, a sentence each.
        examples: Held-out questions that were asked.
        metrics: For each arm (candidate, base, active) the mean of each measure, 0 to 1.
        differences: For each comparison, such as `candidate-base`, and measure: mean, low and high of the difference.
        context: How often answers follow true and changed passages: pairs, true, other, remembered.
        memory: Exposure of planted canaries in bits, how probable that is by chance, and verbatim spans closed-book.
    """

    passed: bool
    reasons: tuple[str, ...] = ()
    examples: int = 0
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    differences: dict[str, dict[str, tuple[float, float, float]]] = Field(default_factory=dict)
    context: dict[str, float] = Field(default_factory=dict)
    memory: dict[str, float] = Field(default_factory=dict)


class Threshold(Value):
    """When an adapter declines.

    Attributes:
        token: The first of the declining answer, in the base model's vocabulary.
        bias: Added to its logit where sources are given; at most 0.
        odds: Where the cross-encoder tells how likely a sentence answers, declining is held back instead by as many
            nats as its log-odds exceed these. None for an adapter that they were not set for.
    """

    token: int
    bias: float = Field(le=0)
    odds: float | None = None

    def held_back(self, odds: float | None) -> float:
        """What is added to the token's logit for one question; at most 0.

        Args:
            odds: The highest that the cross-encoder gives a sentence; None without one.
        """
        return self.bias if odds is None or self.odds is None else min(0.0, self.odds - odds)


class Manifest(Value):
    """The recipe of an adapter.

    Attributes:
        digest: SHA-256 over weights and configuration.
        base_digest: Of the base model's weights; an adapter answers on no other.
        data_digest: Of the examples, after the guards.
        data: How many examples were read, refused and used.
        prompt_version: Of the template it was trained on.
        lora, training: Configuration.
        metrics: Of the training: loss, steps, tokens, seconds.
        threshold: When it declines, as calibrated on held-out questions; None leaves the model alone.
        parent: The adapter that was active when it was made, or None.
        versions: Of the libraries.
    """

    name: str
    digest: str
    base_model: str
    base_digest: str
    data_digest: str
    data: dict[str, int] = Field(default_factory=dict)
    prompt_version: str
    style: str = ""
    lora: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    threshold: Threshold | None = None
    gate: Gate | None = None
    parent: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    created_at: datetime

    @property
    def served(self) -> str:
        return f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True)
class AdapterRef:
    """One version of an adapter: its name, its digest, its folder."""

    name: str
    digest: str
    path: Path

    @property
    def served(self) -> str:
        """The name the model server knows it by."""
        return f"{self.name}@{self.digest[:12]}"


def adapter_digest(folder: Path) -> str:
    """SHA-256 over an adapter's weights and configuration.

    Raises:
        AdapterError: A file is missing.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            digest.update(f"{name}\n".encode())
            digest.update((folder / name).read_bytes())
        except OSError as exc:
            raise AdapterError(
                f"The adapter in {str(folder)!r} has no readable {name}: train it again, or roll back."
            ) from exc
    return digest.hexdigest()


def read_manifest(ref: AdapterRef) -> Manifest:
    """The recipe of a version.

    Raises:
        AdapterError: It is missing or unreadable.
    """
    try:
        return Manifest.model_validate_json((ref.path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as exc:
        raise AdapterError(
            f"The adapter {ref.served} has no readable {MANIFEST}: train it again, or roll back."
        ) from exc
