"""A version of an adapter as people are shown it, beside the one that is active."""

from datetime import datetime
from typing import Any

from pydantic import Field

from tandem.errors import AdapterError
from tandem.prompt import PROMPT_VERSION
from tandem.registry import AdapterRef, Gate, Manifest, Registry
from tandem.schemas import Value

_RECIPE = ("base_digest", "data_digest", "prompt_version", "style", "lora", "training", "versions")


class Comparison(Value):
    """A version beside the active one.

    Attributes:
        active: The active version.
        measures: For each measure of both gates: this version's mean, the active one's, and the difference. The gates
            may have asked different questions.
        paired: The gate's own comparison over the same questions, where it was made with this active version: mean, low
            and high of the difference.
        changed: What of the recipe differs: name, here, there.
    """

    active: str
    measures: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    paired: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    changed: dict[str, tuple[Any, Any]] = Field(default_factory=dict)


class AdapterVersion(Value):
    """A version of an adapter. `served` is the name the model server knows it by; `manifest` is its whole recipe.

    Attributes:
        canary: The share of conversations that it answers as a candidate; None when it is not on trial.
        prompt_matches: Whether it was trained on the prompt that is in use.
        problem: Why its manifest cannot be read.
        comparison: With the active version; only where one version is shown, and it is another.
    """

    served: str
    name: str
    digest: str
    active: bool
    canary: float | None = None
    base: str | None = None
    created_at: datetime | None = None
    prompt_matches: bool = False
    gate: Gate | None = None
    problem: str | None = None
    manifest: dict[str, Any] = Field(default_factory=dict)
    comparison: Comparison | None = None


def describe_all(registry: Registry) -> list[AdapterVersion]:
    """All versions of all adapters, newest first within a name."""
    return [_describe(registry, ref, _active(registry, ref.name)) for ref in registry.list()]


def describe(registry: Registry, ref: AdapterRef) -> AdapterVersion:
    """One version, compared with the active one."""
    active = _active(registry, ref.name)
    version = _describe(registry, ref, active)
    if active is None or version.active or version.problem:
        return version
    try:
        beside = compare(registry.manifest(ref), registry.manifest(active))
    except AdapterError:
        return version
    return version.model_copy(update={"comparison": beside})


def compare(this: Manifest, active: Manifest) -> Comparison:
    """Compares two recipes and what their gates measured."""
    mine = this.gate.metrics.get("candidate", {}) if this.gate else {}
    theirs = active.gate.metrics.get("candidate", {}) if active.gate else {}
    measures = {m: (mine[m], theirs[m], round(mine[m] - theirs[m], 4)) for m in mine if m in theirs}
    paired = this.gate.differences.get("candidate-active", {}) if this.gate and this.parent == active.served else {}
    here, there = _flat(this), _flat(active)
    names = sorted(set(here) | set(there))
    changed = {name: (here.get(name), there.get(name)) for name in names if here.get(name) != there.get(name)}
    return Comparison(active=active.served, measures=measures, paired=paired, changed=changed)


def _flat(manifest: Manifest) -> dict[str, Any]:
    """The recipe with names such as `lora.rank`."""
    flat: dict[str, Any] = {}
    for name, value in manifest.model_dump(mode="json", include=set(_RECIPE)).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat


def _active(registry: Registry, name: str) -> AdapterRef | None:
    try:
        return registry.active(name)
    except AdapterError:  # the pointer leads nowhere: the list must still be shown, to promote another from it
        return None


def _describe(registry: Registry, ref: AdapterRef, active: AdapterRef | None) -> AdapterVersion:
    trial = registry.canary(ref.name)
    version = AdapterVersion(
        served=ref.served,
        name=ref.name,
        digest=ref.digest,
        active=ref == active,
        canary=trial[0].share if trial and trial[1] == ref else None,
    )
    try:
        manifest = registry.manifest(ref)
    except AdapterError as exc:
        return version.model_copy(update={"problem": exc.message})
    return version.model_copy(
        update={
            "base": manifest.base_model,
            "created_at": manifest.created_at,
            "prompt_matches": manifest.prompt_version == PROMPT_VERSION,
            "gate": manifest.gate,
            "manifest": manifest.model_dump(mode="json"),
        }
    )
