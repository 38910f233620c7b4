"""The end of a training run: the promotion of what passed the gate, unless somebody was quicker."""

from pathlib import Path
from typing import Any

import pytest

from tandem.registry import NONE_ACTIVE, Gate, Registry
from tandem.settings import load_settings
from tests.adapter_files import add_adapter
from training.events import TrainingEvent
from training.job import _Run

NAME = "house-style"
PASSED = Gate(passed=True)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def begin(registry: Registry, said: list[TrainingEvent]) -> _Run:
    nothing: Any = None
    run = _Run(
        settings=load_settings(),
        name=NAME,
        base=Path("base"),
        material=nothing,
        on_event=said.append,
        by="training",
    )
    run.__dict__.update(registry=registry, base_digest="b" * 64)  # in the place of what their base model gives
    return run


@pytest.mark.parametrize("meanwhile", ["promoted another", "rolled back", "promoted the first"])
def test_a_run_does_not_undo_what_a_person_did_since_its_gate_began(
    registry: Registry, tmp_path: Path, meanwhile: str
) -> None:
    old, active, other, candidate = (add_adapter(registry, tmp_path / str(n), n, gate=PASSED) for n in range(4))
    if meanwhile != "promoted the first":
        registry.promote(old, "ada")
        registry.promote(active, "ada")
    said: list[TrainingEvent] = []
    run = begin(registry, said)
    assert run._active() == registry.active(NAME)
    if meanwhile == "rolled back":
        registry.rollback(NAME, "ada")
    else:
        registry.promote(other, "ada")
    registry.start_canary(active, 0.2, "ada")
    result = run._settle(registry.manifest(candidate))
    assert not result.promoted
    assert registry.active(NAME) == (old if meanwhile == "rolled back" else other)
    assert registry.canary(NAME) is not None
    assert f"{candidate.served} is not promoted" in said[-1].message
    assert "kept as a candidate" in said[-1].message


@pytest.mark.parametrize("was", ["none", "whole", "lost"])
def test_a_run_that_nobody_overtook_promotes(registry: Registry, tmp_path: Path, was: str) -> None:
    active, candidate = (add_adapter(registry, tmp_path / str(n), n, gate=PASSED) for n in range(2))
    if was != "none":
        registry.promote(active, "ada")
    if was == "lost":
        (registry.root / NAME / "active").write_text("f" * 64 + "\n")
    said: list[TrainingEvent] = []
    run = begin(registry, said)
    assert run._active() == (active if was == "whole" else None)
    assert (run.expected == NONE_ACTIVE) == (was == "none")
    assert run._settle(registry.manifest(candidate)).promoted
    assert registry.active(NAME) == candidate
    assert said[-1].message == f"{candidate.served} is active."
