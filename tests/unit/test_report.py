import io
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from eval.arms import run_suite
from eval.page import render_html, write_html
from eval.report import EvalReport, build_report, render_table
from eval.suite import Case
from tandem.errors import InputError, ModelUnavailable
from tandem.prompt import DECLINE
from tandem.style import StyleGuide
from tests.scripted_assistant import ScriptedAssistant, passage

WHEN = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(1)> & "quoted"'
CASES = [
    Case.model_validate({"id": "meals", "question": "How much?", "all_of": [["EUR 45"]], "answerable": True}),
    Case.model_validate({"id": "pets", "question": HOSTILE, "answerable": False}),
]


async def report(**script: object) -> EvalReport:
    said = {"tandem": "It is EUR 45 [1].", "rag": f"EUR 9 {HOSTILE}", "style": "EUR 9.", "base": DECLINE} | script
    assistant = ScriptedAssistant(said, [passage(1, f"EUR 45 a day. {HOSTILE}", document=HOSTILE)])
    outcomes = await run_suite(assistant, CASES, style=StyleGuide(cite=True))
    return build_report(outcomes, suites=["demo"], created_at=WHEN)


async def test_the_report_holds_the_arms_the_differences_and_the_failures() -> None:
    found = await report()
    assert [metrics.arm for metrics in found.arms] == ["tandem", "rag", "style", "base"]
    assert [metrics.correct for metrics in found.arms] == [0.5, 0, 0, 0.5]
    assert found.adapters == ("house-style@0123456789ab",)
    assert found.labels == {"ok": 1, "over_answer": 1}
    (correct,) = (c for c in found.comparisons if (c.first, c.second, c.measure) == ("tandem", "rag", "correct"))
    assert (correct.difference.mean, correct.difference.n) == (0.5, 2)
    wrong = [f"{failure.arm} {failure.case}" for failure in found.failures]
    assert wrong == ["tandem pets", "rag meals", "rag pets", "style meals", "style pets", "base meals"]
    first = found.failures[0]
    assert (first.label, first.owner, first.expected) == ("over_answer", "platform engineer", "a decline")
    assert [(quote.n, quote.cited) for quote in first.passages] == [(1, True)]
    assert found.failures[1].expected == "'EUR 45'"


async def test_it_survives_json() -> None:
    found = await report()
    assert EvalReport.model_validate_json(found.model_dump_json()) == found


async def test_a_crash_is_listed_and_scores_nothing() -> None:
    found = await report(tandem=ModelUnavailable("vLLM is down."))
    assert [(error.arm, error.case, error.error) for error in found.errors] == [
        ("tandem", "meals", "vLLM is down."),
        ("tandem", "pets", "vLLM is down."),
    ]
    assert found.arms[0].correct is None
    assert found.arms[0].failed == 2
    assert not any(failure.arm == "tandem" for failure in found.failures)
    assert not any("tandem" in (each.first, each.second) for each in found.comparisons)
    assert "vLLM is down." in render_html(found)


async def test_the_table_has_a_row_an_arm() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_table(await report()))
    text = console.file.getvalue()
    lines = [line.split() for line in text.splitlines()]
    arms = [words[1] for words in lines if len(words) > 1 and words[1] in ("tandem", "rag", "style", "base")]
    assert arms == ["tandem", "rag", "style", "base"]
    assert "tandem - rag, correct: +50.0%" in text
    assert "diagnosis of tandem: 1 ok, 1 over_answer" in text


class Elements(HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_is_whole_escaped_and_needs_nothing_else() -> None:
    page = Elements(render_html(await report()))
    assert page.open == []
    assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "onerror"} & {name for name, _ in page.attributes}
    assert page.text.count(HOSTILE) >= 4  # question, answer, quote and document id, each as text
    assert page.tags.count("details") == 6
    assert page.tags.count("svg") == 5
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert "Right answers: tandem 50%, rag 0%, style 0%, base 50%" in labels


async def test_the_page_is_written_or_says_why_not(tmp_path: Path) -> None:
    found = await report()
    write_html(found, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_html(found)
    with pytest.raises(InputError, match=r"cannot be written to .*--html"):
        write_html(found, tmp_path / "none" / "report.html")


async def test_a_run_of_bare_arms_is_reported_without_a_diagnosis() -> None:
    outcomes = await run_suite(ScriptedAssistant({"base": "EUR 45."}), CASES, ["base"])
    found = build_report(outcomes)
    assert found.diagnosed is None
    assert found.labels == {}
    assert "Knowledge or behaviour" not in render_html(found)
