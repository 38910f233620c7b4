"""A process that is killed at any step of a change leaves an adapter registry that answers, and that can be changed.

Every call of a C function that writes is a step: the child is killed by SIGKILL before and after each of them.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import NotFound
from tandem.registry import AdapterRef, Registry
from tests.adapter_files import NOW, add_adapter, manifest_for, write_adapter

NAME = "house-style"
_WRITING = {"write", "flush", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir", "sendfile", "copyfileobj"}
Change = Callable[[Registry], Any]


class House:
    """A registry in which `oldest`, then `old` was promoted; `new` and `spare` are candidates."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(folder / "registry")
        if not folder.exists():
            for seed in range(4):
                add_adapter(self.registry, folder / str(seed), seed, created_at=NOW + timedelta(days=seed))
        self.spare, self.new, self.old, self.oldest = self.registry.list()
        if self.registry.active(NAME) is None:
            self.registry.promote(self.oldest, "tests")
            self.registry.promote(self.old, "tests")
        self.source = folder / "source"
        self.added = manifest_for(write_adapter(self.source, 99))


def in_child(change: Callable[[], Any], die_at: int | None) -> int:
    """Makes a change in a process of its own, which is killed at a step.

    Returns:
        How many steps it took; -1 when it was killed.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        steps = 0

        def step(frame: Any, event: str, function: Any) -> None:
            nonlocal steps
            if event in ("c_call", "c_return") and getattr(function, "__name__", "") in _WRITING:
                if steps == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                steps += 1

        sys.setprofile(step)
        try:
            change()
        finally:
            sys.setprofile(None)
            os.write(writing, str(steps).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        answer = told.read()
    os.waitpid(pid, 0)
    return int(answer) if answer else -1


def killed_everywhere(tmp_path: Path, change: Callable[[House], Any], look: Callable[[House], Any]) -> None:
    """Makes a change in a fresh house, once for each step at which it can be killed, and looks at what is left."""
    House(tmp_path / "template")

    def run(die_at: int | None) -> tuple[House, int]:
        house = House(Path(shutil.copytree(tmp_path / "template", tmp_path / f"killed at {die_at}")))
        return house, in_child(lambda: change(house), die_at)

    _, steps = run(None)
    assert steps > 10
    for number in range(steps):
        house, survived = run(number)
        assert survived == -1
        assert all(_is_whole(house.registry, ref) for ref in house.registry.list())
        look(house)
        left = [path.name for path in (house.registry.root / NAME).iterdir()]
        house.registry.add(house.source, house.added)  # sweeps
        assert house.registry.get(house.added.served)
        swept = [path.name for path in (house.registry.root / NAME).iterdir()]
        assert not [name for name in swept if name.startswith((".adding-", ".deleting-"))], left


def _is_whole(registry: Registry, ref: AdapterRef) -> bool:
    registry.check(ref)
    return True


def test_promotion(tmp_path: Path) -> None:
    seen = set()

    def look(house: House) -> None:
        registry = house.registry
        active = registry.active(NAME)
        assert active in (house.old, house.new)
        seen.add(active == house.new)
        assert registry.predecessor(NAME) == (house.old if active == house.new else house.oldest)
        registry.promote(house.new, "again")
        assert registry.rollback(NAME) == house.old
        assert registry.rollback(NAME) == house.oldest

    killed_everywhere(tmp_path, lambda house: house.registry.promote(house.new, "killed"), look)
    assert seen == {False, True}


def test_a_promotion_after_a_killed_one_does_not_roll_back_to_what_never_answered(tmp_path: Path) -> None:
    def look(house: House) -> None:
        registry = house.registry
        active = registry.active(NAME)
        registry.promote(house.spare, "again")
        assert registry.rollback(NAME) == active

    killed_everywhere(tmp_path, lambda house: house.registry.promote(house.new, "killed"), look)


def test_rollback(tmp_path: Path) -> None:
    seen = set()

    def look(house: House) -> None:
        registry = house.registry
        active = registry.active(NAME)
        assert active in (house.old, house.oldest)
        seen.add(active == house.oldest)
        if active == house.old:
            assert registry.rollback(NAME) == house.oldest
        registry.promote(house.new, "again")
        assert registry.rollback(NAME) == house.oldest

    killed_everywhere(tmp_path, lambda house: house.registry.rollback(NAME, "killed"), look)
    assert seen == {False, True}


def test_adding(tmp_path: Path) -> None:
    def look(house: House) -> None:
        assert house.registry.active(NAME) == house.old

    killed_everywhere(tmp_path, lambda house: house.registry.add(house.source, house.added), look)


def test_deleting(tmp_path: Path) -> None:
    seen = set()

    def look(house: House) -> None:
        registry = house.registry
        assert registry.active(NAME) == house.old
        gone = house.oldest not in registry.list()
        seen.add(gone)
        if not gone:
            registry.delete(house.oldest, "again")
        with pytest.raises(NotFound):
            registry.get(house.oldest.served)

    killed_everywhere(tmp_path, lambda house: house.registry.delete(house.oldest, "killed"), look)
    assert seen == {False, True}


def test_a_trial_begins_and_ends(tmp_path: Path) -> None:
    seen = set()

    def both(house: House) -> None:
        house.registry.start_canary(house.new, 0.5, "killed")
        house.registry.withdraw_canary(NAME, "killed")

    def look(house: House) -> None:
        registry = house.registry
        assert registry.active(NAME) == house.old
        running = registry.canary(NAME)
        seen.add(running is not None)
        registry.start_canary(house.spare, 0.5, "again")
        found = registry.canary(NAME)
        assert found is not None
        assert found[1] == house.spare
        registry.promote(house.spare, "again")
        assert registry.canary(NAME) is None

    killed_everywhere(tmp_path, both, look)
    assert seen == {False, True}


def test_a_promotion_that_ends_a_trial(tmp_path: Path) -> None:
    seen = set()

    def change(house: House) -> None:
        house.registry.start_canary(house.new, 0.5, "killed")
        house.registry.promote(house.spare, "killed")

    def look(house: House) -> None:
        on_trial = house.registry.canary(NAME) is not None
        seen.add((house.registry.active(NAME) == house.spare, on_trial))

    killed_everywhere(tmp_path, change, look)
    # The trial ends in the same instant: it was against another version.
    assert seen == {(False, False), (False, True), (True, False)}
