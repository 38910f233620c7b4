"""`tandem adapters` straight on a data directory, without a server."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import services.cli.main
from tandem.registry import AdapterRef, Registry
from tandem.settings import load_settings
from tests.adapter_files import add_adapter


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.chdir(tmp_path)  # away from any .env
    monkeypatch.setenv("TANDEM_MODEL__URL", "http://127.0.0.1:9/v1")  # the base model is elsewhere, and not seen
    return Registry(load_settings(data_dir=tmp_path / "data").registry)


@pytest.fixture
def refs(registry: Registry, tmp_path: Path) -> tuple[AdapterRef, AdapterRef]:
    return add_adapter(registry, tmp_path / "one", 1), add_adapter(registry, tmp_path / "two", 2)


def adapters(tmp_path: Path, *arguments: str) -> Any:
    """What the command printed with --json; its error as text."""
    command = ["adapters", *arguments, "--data-dir", str(tmp_path / "data"), "--json"]
    result = CliRunner().invoke(services.cli.main.app, command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return str(result.exception)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_everything_works_without_a_server(registry: Registry, refs, tmp_path: Path) -> None:
    one, two = refs
    assert {row["served"] for row in adapters(tmp_path, "list")} == {one.served, two.served}
    assert adapters(tmp_path, "promote", one.served)["active"] is True
    assert adapters(tmp_path, "show", "house-style")["served"] == one.served
    assert adapters(tmp_path, "show", two.served)["comparison"]["active"] == one.served
    assert adapters(tmp_path, "canary", two.served, "--share", "0.4")["canary"] == 0.4
    standing = adapters(tmp_path, "canary", "house-style")["running"]
    assert (standing["share"], standing["candidate"]["served"], standing["enough"]) == (0.4, two.served, False)
    assert "the candidate had 0 conversations" in standing["lacking"]
    assert "on trial" in adapters(tmp_path, "delete", two.served)
    assert adapters(tmp_path, "canary", "house-style", "--stop")["canary"] is None
    assert adapters(tmp_path, "canary", "house-style")["running"] is None
    assert adapters(tmp_path, "promote", f"house-style@{two.digest[:6]}")["served"] == two.served
    assert adapters(tmp_path, "rollback", "house-style")["served"] == one.served
    assert "is active" in adapters(tmp_path, "delete", one.served)
    assert adapters(tmp_path, "delete", two.served) == {"served": two.served, "deleted": True}
    assert [ref.served for ref in registry.list()] == [one.served]


def test_what_cannot_be_is_refused_with_a_sentence(registry: Registry, refs, tmp_path: Path) -> None:
    one, _ = refs
    foreign = add_adapter(registry, tmp_path / "foreign", 3, base_digest="c" * 64)
    adapters(tmp_path, "promote", one.served)
    assert "another base model" in adapters(tmp_path, "promote", foreign.served)
    assert "names no version" in adapters(tmp_path, "promote", "house-style")
    assert "no share" in adapters(tmp_path, "canary", foreign.served, "--share", "1.5")
    assert "No canary" in adapters(tmp_path, "canary", "house-style", "--stop")
    assert "nothing to go back to" in adapters(tmp_path, "rollback", "house-style")
    assert registry.active("house-style") == one
