"""The adapter registry."""

import multiprocessing
import zlib
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import AdapterError, NotFound, Overtaken
from tandem.manifest import Threshold
from tandem.pointer import Pointer
from tandem.registry import NONE_ACTIVE, AdapterRef, Gate, Registry
from tests.adapter_files import add_adapter

START = datetime(2026, 1, 1, tzinfo=UTC)


def add(registry: Registry, folder: Path, content: str, *, age: int = 0) -> AdapterRef:
    gate = Gate(passed=True, reasons=("Fine.",), differences={"candidate-base": {"style": (0.5, 0.4, 0.6)}})
    made = START + timedelta(days=age)
    return add_adapter(registry, folder, zlib.crc32(content.encode()), gate=gate, created_at=made)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def test_an_empty_registry_has_nothing(registry: Registry):
    assert registry.list() == []
    assert registry.names() == []
    assert registry.active("house-style") is None
    assert registry.history("house-style") == []
    for name in ("house-style", "house-style@0123456789ab", "../etc", ""):
        with pytest.raises(NotFound):
            registry.get(name)


def test_what_is_added_is_found_and_keeps_its_recipe(registry: Registry, tmp_path: Path):
    old = add(registry, tmp_path / "a", "one")
    new = add(registry, tmp_path / "b", "two", age=1)
    assert registry.list() == [new, old]
    assert registry.get(old.served) == old
    assert registry.get(f"house-style@{new.digest}") == new
    assert registry.manifest(old).gate.differences["candidate-base"]["style"] == (0.5, 0.4, 0.6)
    assert old.served == f"house-style@{old.digest[:12]}" == registry.manifest(old).served
    registry.verify(old, base_digest="b" * 64)
    assert {path.name for path in old.path.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "manifest.json",
    }


def test_a_version_is_immutable(registry: Registry, tmp_path: Path):
    ref = add(registry, tmp_path / "a", "one")
    before = (ref.path / "manifest.json").read_bytes()
    assert add(registry, tmp_path / "b", "one", age=9) == ref
    assert (ref.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"threshold": Threshold(token=5, bias=-2.0)}, "another threshold for declining,"),
        ({"threshold": None}, "another threshold for declining,"),
        ({"gate": Gate(passed=False)}, "another verdict of the gate,"),
        ({"gate": None, "threshold": None}, "another threshold for declining and another verdict of the gate,"),
    ],
)
def test_the_same_weights_with_another_threshold_or_verdict_are_refused(
    registry: Registry, tmp_path: Path, change: dict[str, Any], names: str
):
    recipe = {"threshold": Threshold(token=5, bias=-1.0), "gate": Gate(passed=True)}
    ref = add_adapter(registry, tmp_path / "a", **recipe)
    before = (ref.path / "manifest.json").read_bytes()
    with pytest.raises(AdapterError, match=f"already, with {names} .*tandem adapters delete {ref.served}"):
        add_adapter(registry, tmp_path / "b", **(recipe | change))
    assert (ref.path / "manifest.json").read_bytes() == before
    again = recipe | {"gate": Gate(passed=True, examples=9)}  # a killed run, judged once more
    assert add_adapter(registry, tmp_path / "c", **again) == ref
    assert (ref.path / "manifest.json").read_bytes() == before
    registry.delete(ref, "ada")
    assert add_adapter(registry, tmp_path / "b", **(recipe | change)) == ref


def test_a_wrong_digest_is_refused_and_leaves_nothing(registry: Registry, tmp_path: Path):
    ref = add(registry, tmp_path / "a", "one")
    manifest = registry.manifest(ref)
    (tmp_path / "a" / "adapter_model.safetensors").write_text("changed")
    with pytest.raises(AdapterError, match="digest"):
        registry.add(tmp_path / "a", manifest)
    with pytest.raises(AdapterError, match="no readable adapter_config"):
        registry.add(tmp_path, manifest)
    with pytest.raises(AdapterError, match="no name"):
        registry.add(tmp_path / "a", manifest.model_copy(update={"name": "../escape"}))
    assert [path.name for path in (registry.root / "house-style").iterdir() if path.name != ".lock"] == [ref.digest]


def test_broken_files_and_foreign_bases_are_found(registry: Registry, tmp_path: Path):
    ref = add(registry, tmp_path / "a", "one")
    with pytest.raises(AdapterError, match="another base model"):
        registry.verify(ref, base_digest="c" * 64)
    (ref.path / "adapter_model.safetensors").write_text("bit rot")
    with pytest.raises(AdapterError, match="not those it was registered with"):
        registry.verify(ref)
    with pytest.raises(AdapterError):
        registry.promote(ref, "ada")
    assert registry.active("house-style") is None


def test_promotion_and_rollback_walk_the_history(registry: Registry, tmp_path: Path):
    one, two, three = (add(registry, tmp_path / name, name, age=n) for n, name in enumerate("abc"))
    with pytest.raises(AdapterError, match="nothing to go back to"):
        registry.rollback("house-style")
    for ref in (one, two, three):
        registry.promote(ref, "ada")
    assert registry.get("house-style") == three
    assert registry.rollback("house-style", "bob") == two
    assert registry.rollback("house-style") == one
    assert registry.active("house-style") == one
    with pytest.raises(AdapterError, match="nothing to go back to"):
        registry.rollback("house-style")
    registry.promote(three, "ada")
    assert registry.rollback("house-style") == one
    assert [(entry.kind, entry.by) for entry in registry.history("house-style")][3] == ("rollback", "bob")
    with pytest.raises(NotFound):
        registry.rollback("other")


def test_a_promotion_that_expects_another_active_version_is_refused(registry: Registry, tmp_path: Path):
    one, two, three = (add(registry, tmp_path / name, name, age=n) for n, name in enumerate("abc"))
    assert registry.pointed_at("house-style") == NONE_ACTIVE
    registry.promote(one, "training", expected=NONE_ACTIVE)
    seen = registry.pointed_at("house-style")
    registry.promote(two, "ada")
    trial = registry.start_canary(one, 0.2, "ada")
    for expected in (seen, NONE_ACTIVE):
        with pytest.raises(Overtaken, match=f"{three.served} is not promoted: .*{two.digest[:12]} is active"):
            registry.promote(three, "training", expected=expected)
    assert registry.active("house-style") == two
    assert registry.canary("house-style") == (trial, one)  # nobody's trial was ended
    assert [entry.digest for entry in registry.history("house-style")] == [one.digest, two.digest, one.digest]
    registry.promote(three, "training", expected=two.digest)
    assert registry.active("house-style") == three
    assert registry.history("house-style")[-1].reason == f"It ended the trial of {one.served}."


def test_an_active_version_that_is_lost_is_still_what_is_expected(registry: Registry, tmp_path: Path):
    one = add(registry, tmp_path / "a", "a")
    registry.promote(one, "ada")
    (registry.root / "house-style" / "active").write_text("f" * 64 + "\n")
    registry.promote(one, "training", expected=registry.pointed_at("house-style"))
    assert registry.active("house-style") == one


def test_a_trial_is_begun_against_what_is_active_when_it_begins(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one, two, candidate = (add(registry, tmp_path / name, name, age=n) for n, name in enumerate("abc"))
    registry.promote(one, "ada")
    real = Pointer.lock

    def lock_after_a_promotion(pointer: Pointer) -> AbstractContextManager[None]:
        monkeypatch.setattr(Pointer, "lock", real)
        registry.promote(two, "bob")
        return real(pointer)

    monkeypatch.setattr(Pointer, "lock", lock_after_a_promotion)
    assert registry.start_canary(candidate, 0.2, "ada").against == two.digest
    assert registry.canary("house-style") is not None


def test_a_torn_history_line_and_a_lost_version_are_survived(registry: Registry, tmp_path: Path):
    one, two = add(registry, tmp_path / "a", "a"), add(registry, tmp_path / "b", "b")
    registry.promote(one, "ada")
    with (registry.root / "house-style" / "history.jsonl").open("a") as file:
        file.write('{"at": "2026-')
    assert registry.active("house-style") == one
    (registry.root / "house-style" / "active").write_text("f" * 64)
    with pytest.raises(AdapterError, match="not in"):
        registry.active("house-style")
    registry.promote(two, "ada")
    assert registry.active("house-style") == two


def test_an_ambiguous_or_short_digest_is_not_guessed(registry: Registry, tmp_path: Path):
    ref = add(registry, tmp_path / "a", "one")
    with pytest.raises(NotFound, match="not in the registry"):
        registry.get(f"house-style@{ref.digest[:5]}")
    twin = registry.root / "house-style" / (ref.digest[:12] + "0" * 52)
    twin.mkdir()
    with pytest.raises(NotFound, match="ambiguous"):
        registry.get(ref.served)


def _promote_often(root: Path, refs: list[AdapterRef]) -> None:
    for ref in refs * 15:
        Registry(root).promote(ref, "worker")


def test_readers_always_see_a_whole_pointer(registry: Registry, tmp_path: Path):
    refs = [add(registry, tmp_path / name, name) for name in "ab"]
    registry.promote(refs[0], "ada")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_promote_often, args=(registry.root, refs)) for _ in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert registry.active("house-style") in refs
        reads += 1
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads > 10
    history = registry.history("house-style")
    assert len(history) == 61
    assert all(entry.previous == before.digest for before, entry in pairwise(history))
