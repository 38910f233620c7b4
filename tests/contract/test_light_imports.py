"""What answers questions starts quickly and stays small: no training or serving library in its process."""

import pkgutil
import subprocess
import sys

import tandem

HEAVY = ("torch", "transformers", "peft", "trl", "vllm", "datasets", "accelerate")
STARTS_WITHOUT = (*HEAVY, "qdrant_client", "llama_index", "openai", "fastapi", "sqlalchemy", "nltk", "numpy")


def heavy_after(code: str, heavy: tuple[str, ...] = HEAVY) -> list[str]:
    """The heavy packages that are loaded after `code` ran in a fresh interpreter."""
    report = f"import sys; print(' '.join(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_tandem_loads_none_of_them():
    # bootstrap composes the services, each of which imports what it needs.
    modules = [
        found.name
        for found in pkgutil.walk_packages(tandem.__path__, "tandem.")
        if found.name != "tandem.bootstrap" and not found.name.startswith("tandem.migrations")
    ]
    assert "tandem.retriever" in modules
    assert heavy_after("\n".join(f"import {name}" for name in modules)) == []


def test_the_check_sees_what_it_looks_for():
    assert heavy_after("import sys, types; sys.modules['torch'] = types.ModuleType('torch')") == ["torch"]


def test_the_command_line_starts_without_what_its_commands_need():
    assert heavy_after("import services.cli.main", STARTS_WITHOUT) == []
