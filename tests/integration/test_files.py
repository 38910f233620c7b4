"""Real files, valid, odd and hostile: each ends as text or with a reason, and none hangs."""

import time
from collections import Counter
from pathlib import Path

import pytest

from ingest.sandbox import Sandbox
from tandem.errors import REASONS, DocumentError
from tandem.settings import IngestSettings

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "files"


def outcome_of(sandbox: Sandbox, path: Path) -> tuple[str, str]:
    """`text` and the text, or the reason and its sentence."""
    try:
        return "text", sandbox.parse(path.name, path.read_bytes()).text
    except DocumentError as exc:
        return exc.reason, exc.message


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder shared/data/files beside the repository")
def test_every_file_ends_as_text_or_with_a_reason() -> None:
    settings = IngestSettings()
    outcomes: Counter[str] = Counter()
    with Sandbox(settings) as sandbox:
        for path in sorted(path for path in SHARED.rglob("*") if path.is_file()):
            started = time.monotonic()
            outcome, said = outcome_of(sandbox, path)
            assert outcome == "text" or (outcome in REASONS and said.endswith(".")), path
            assert any(c.isalnum() for c in said), path
            outcomes[outcome] += 1
            assert time.monotonic() - started < 3 * settings.parse_timeout + 60, path
    assert outcomes["text"] > 300
    assert outcomes["encrypted"] >= 10
    assert outcomes["timeout"] == 0
