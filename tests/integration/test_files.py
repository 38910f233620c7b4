"""Real files, valid, odd and hostile: each ends as text or with a reason, and none hangs."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.sandbox import Sandbox
from tandem.errors import REASONS, DocumentError
from tandem.settings import IngestSettings

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "files"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(IngestSettings()) as box:
        yield box


def outcome_of(sandbox: Sandbox, path: Path) -> tuple[str, str]:
    """`text` and the text, or the reason and its sentence."""
    try:
        return "text", sandbox.parse(path.name, path.read_bytes()).text
    except DocumentError as exc:
        return exc.reason, exc.message


HAS_FILES = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder shared/data/files beside the repository")
# What their makers, or a second look, say about them: the reason, or words that a person sees in them.
KNOWN = {
    "pptx/haystack/sample_pptx_with_link.pptx": "Visit Example for more info.",
    "pptx/tika/testPPT_diagramData.pptx": "VP - Marketing",
    "pptx/tika/testPPT_protected_passtika.pptx": "encrypted",
    "pptx/tika/testPPT_EmbeddedPDF.pptx": "no_text",
    "xlsx/tika/testEXCEL-formats.xlsx": "Currency $#,##0.00;[Red]($#,##0.00) | $1,599.99 | ($1,599.99)",
    "xlsx/tika/testEXCEL.xlsx": "Number | Square\n1 | 1\n2 | 4",
    "xlsx/tika/testEXCEL.strict.xlsx": "unsupported",
    "xlsx/tika/protect.xlsx": "encrypted",
    "odt/tika/testFooter.odt": "Here is some text on page 2",
    "odt/tika/testODTnotaZipFile.odt": "corrupt",
    "odt/tika/testODTEmbeddedImageLink.odt": "no_text",
    "eml/tika/testEmailWithPNGAtt.eml": "This email has a PNG attachment included in it",
    "eml/tika/testThunderbirdEml.eml": "JUnit test message",
    "docx/tika/testExternalRefs.docx": "Testing LINK: [Link placeholder]",
    "docx/tika/protected_normal_case.docx": "encrypted",
    "doc/tika/test.doc": "unsupported",
}


@HAS_FILES
@pytest.mark.parametrize("name", KNOWN)
def test_known_files_end_as_they_should(sandbox: Sandbox, name: str) -> None:
    outcome, said = outcome_of(sandbox, SHARED / name)
    assert KNOWN[name] == outcome or (outcome == "text" and KNOWN[name] in said), (outcome, said)


@HAS_FILES
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
    assert outcomes["text"] > 400
    assert outcomes["encrypted"] >= 14
    assert outcomes["hostile"] == outcomes["too_large"] == outcomes["timeout"] == 0  # they are odd, not made to harm
