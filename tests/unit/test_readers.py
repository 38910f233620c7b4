"""Readers: what a person sees ends up in blocks, in order, and nothing else does."""

import io
import time
import zipfile
from pathlib import Path

import docx
import pytest
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from pypdf import PdfReader, PdfWriter
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

from ingest.readers import Reading, reader_for
from ingest.sandbox import Sandbox
from ingest.splitter import AnchoredNodeParser
from ingest.worker import _forbid
from tandem.errors import DocumentError, Unavailable
from tandem.settings import IngestSettings

SECRET = "swordfish"


def read(name: str, data: str | bytes) -> Reading:
    found = reader_for(name).read(name, data.encode() if isinstance(data, str) else data)
    for block in found.blocks:
        assert found.text[block.start : block.start + len(block.text)] == block.text
    return found


def texts(reading: Reading) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in reading.blocks]


def make_docx(fill) -> bytes:
    document = docx.Document()
    fill(document)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def make_pdf(story) -> bytes:
    out = io.BytesIO()
    SimpleDocTemplate(out, invariant=1).build(story)
    return out.getvalue()


def test_markdown_becomes_plain_text_under_its_headings() -> None:
    found = read(
        "travel.md",
        """---
title: Ignored here
---
# Travel

We pay **EUR 45** a day, see [the _rules_](/rules) and `form 7`.

## Booking {#booking}

Lead:

* by train
  over long distances
* by air
    1. economy
    2. never first

> [!NOTE]
> Ask first.

| Grade | Limit |
|---|---:|
| A | **10** |
| B | |

```python
x = 1
```
""",
    )
    assert found.title == "Travel"
    assert texts(found) == [
        ("text", "We pay EUR 45 a day, see the rules and form 7."),
        ("text", "Lead:"),
        ("list", "- by train over long distances\n- by air\n- economy\n- never first"),
        ("text", "Ask first."),
        ("table", "Grade | Limit\nA | 10\nB |"),
        ("code", "x = 1"),
    ]
    assert found.blocks[0].headings == ("Travel",)
    assert found.blocks[-1].headings == ("Travel", "Booking")
    assert "Lead:\n- by train" in found.text  # what a colon introduces stays with it


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("Write to {% data variables.contact.contact_dmca %}.", "Write to contact dmca."),
        ("Use {{ product_name }} now.", "Use product name now."),
        ("{% if x %}Yes{% endif %}, always.", "Yes, always."),
        ("Run `a {% b %}` <kbd>Ctrl</kbd>+C<br>twice.", "Run a Ctrl+C\ntwice."),
        ("Tom &amp; Jerry \\*literally\\* ~~gone~~ ![alt text](x.png)", "Tom & Jerry *literally* gone"),
        ("<https://example.org/a> and 5 < 6", "https://example.org/a and 5 < 6"),
    ],
)
def test_markdown_inline(source: str, plain: str) -> None:
    assert texts(read("a.md", source)) == [("text", plain)]


HIDDEN_IN_HTML = {
    "comment": f"<!-- {SECRET} -->",
    "script": f"<script>{SECRET}</script>",
    "style": f"<style>.{SECRET} {{}}</style>",
    "hidden": f"<p hidden>{SECRET}</p>",
    "display": f"<div style='Display : None'>{SECRET}</div>",
    "visibility": f"<span style='visibility:hidden'>{SECRET}</span>",
    "opacity": f"<p style='opacity:0'>{SECRET}</p>",
    "size": f"<span style='font-size:0px'>{SECRET}</span>",
    "white": f"<span style='color:#FFF'>{SECRET}</span>",
    "off-page": f"<p style='position:absolute;left:-9999px'>{SECRET}</p>",
    "aria": f"<p aria-hidden='true'>{SECRET}</p>",
    "template": f"<template><p>{SECRET}</p></template>",
    "alt": f"<img alt='{SECRET}' src='x'>",
    "attribute": f"<p title='{SECRET}'>seen</p>",
    "tags": "".join(chr(0xE0000 + ord(c)) for c in SECRET),
}


@pytest.mark.parametrize("hidden", HIDDEN_IN_HTML.values(), ids=HIDDEN_IN_HTML)
@pytest.mark.parametrize("name", ["a.html", "a.md"])
def test_hidden_text_is_dropped(name: str, hidden: str) -> None:
    found = read(name, f"<p>Before.</p>\n\n{hidden}\n\n<p>After.</p>")
    assert SECRET not in found.text
    assert "Before." in found.text
    assert "After." in found.text


def test_text_that_only_looks_hidden_is_kept() -> None:
    found = read(
        "a.html", "<table><tr style='background:#036'><td style='color:white'>Head</td><td>x</td></tr></table>"
    )
    assert "Head" in found.text


def test_invisible_characters_go_and_are_told_of() -> None:
    found = read("a.txt", "pass\u200bword \u202eevil\u202c so\u00adft e\u0301 caf\u00e9 \u0645\u06cc\u200c\u062e\u0648")
    assert found.text == "password evil soft \u00e9 caf\u00e9 \u0645\u06cc\u200c\u062e\u0648"
    assert found.warnings == ("1 hidden character (bidi override) was left out.",)


def test_html_main_text_with_lists_and_tables() -> None:
    found = read(
        "page.html",
        """<html><head><title>The  page</title></head><body><nav>Menu</nav><main><h1>Rules</h1>
        <p>One<br>two <b>bold</b>ly.</p>loose text<ul><li>a <ul><li>b</li></ul></li><li><p>c</p></li></ul>
        <table><caption>Limits</caption><tr><th>K</th><th>V</th></tr><tr><td>x</td><td>1</td></tr></table>
        <dl><dt>T</dt><dd>D</dd></dl></main><footer>Imprint</footer></body></html>""",
    )
    assert found.title == "The page"
    assert texts(found) == [
        ("text", "One\ntwo boldly."),
        ("text", "loose text"),
        ("list", "- a\n- b\n- c"),
        ("text", "Limits"),
        ("table", "K | V\nx | 1"),
        ("list", "- T\n- D"),
    ]


def test_html_nested_without_end_is_refused() -> None:
    with pytest.raises(DocumentError) as refused:
        read("a.html", "<div>" * 50_000 + "x")
    assert refused.value.reason in ("hostile", "corrupt")


def test_plain_text_paragraphs_are_rejoined() -> None:
    found = read(
        "notes.txt",
        b"Notes\n=====\n\nA line that was wrapped by hand at some wid-\nth and goes on here.\n\n- one\n- two\n",
    )
    assert found.title == "Notes"
    assert texts(found) == [
        ("text", "A line that was wrapped by hand at some width and goes on here."),
        ("list", "- one\n- two"),
    ]


@pytest.mark.parametrize(
    "data", ["caf\u00e9".encode("cp1252"), "caf\u00e9".encode("utf-16"), b"\xef\xbb\xbfcaf\xc3\xa9"]
)
def test_encodings(data: bytes) -> None:
    assert read("a.txt", data).text == "caf\u00e9"


def test_docx_in_document_order_without_hidden_text() -> None:
    def fill(document) -> None:
        document.add_heading("Buying", 0)
        document.add_heading("Limits", 1)
        document.add_paragraph("Ask first.")
        table = document.add_table(rows=2, cols=2)
        for cell, text in zip(
            [c for row in table.rows for c in row.cells], ["Order", "Who", "small", "you"], strict=True
        ):
            cell.text = text
        document.add_paragraph("one", style="List Bullet")
        document.add_paragraph("two", style="List Bullet")
        paragraph = document.add_paragraph("Seen ")
        for hide in ("w:vanish", "white", "tiny"):
            run = paragraph.add_run(SECRET)
            properties = run._r.get_or_add_rPr()
            if hide == "white":
                run.font.color.rgb = docx.shared.RGBColor(255, 255, 255)
            elif hide == "tiny":
                run.font.size = docx.shared.Pt(1)
            else:
                properties.append(OxmlElement(hide))
        deleted = OxmlElement("w:del")
        moved = OxmlElement("w:r")
        gone = OxmlElement("w:delText")
        gone.text = SECRET
        moved.append(gone)
        deleted.append(moved)
        paragraph._p.append(deleted)
        assert paragraph._p.find(qn("w:del")) is not None

    found = read("buying.docx", make_docx(fill))
    assert found.title == "Buying"
    assert texts(found) == [
        ("text", "Ask first."),
        ("table", "Order | Who\nsmall | you"),
        ("list", "- one\n- two"),
        ("text", "Seen"),
    ]
    assert found.blocks[0].headings == ("Buying", "Limits")


def test_pdf_pages_headings_tables_and_joined_lines() -> None:
    styles = getSampleStyleSheet()
    body = styles["BodyText"]
    long = "The hotel limit is EUR 130 per night including breakfast in all cities of the country. " * 4
    story = [
        Paragraph("Travel rules", styles["Title"]),
        Paragraph("Hotels", styles["Heading1"]),
        Paragraph(long, body),
        Table([["City", "Limit"], ["Paris", "150"], ["Rome", "140"]], colWidths=[200, 200]),
        PageBreak(),
        Paragraph("Meals", styles["Heading1"]),
        Paragraph("The allowance is EUR 45.", body),
    ]
    found = read("travel.pdf", make_pdf(story))
    assert found.title == "Travel rules"
    hotels, table, meals = found.blocks
    assert hotels.text == long.strip()
    assert hotels.headings == ("Travel rules", "Hotels")
    assert (table.kind, table.text) == ("table", "City | Limit\nParis | 150\nRome | 140")
    assert (meals.page, meals.headings, meals.text) == (2, ("Travel rules", "Meals"), "The allowance is EUR 45.")


def test_pdf_running_heads_and_page_numbers_are_no_text() -> None:
    styles = getSampleStyleSheet()
    story = []
    for page, animal in enumerate(["cat", "dog", "cow", "hen"], start=1):
        for text in ("Handbook of animals", f"This page tells of the {animal} and of nothing else.", f"Page {page}"):
            story.append(Paragraph(text, styles["BodyText"]))
        story.append(PageBreak())
    found = read("animals.pdf", make_pdf(story))
    assert [block.text for block in found.blocks] == [
        f"This page tells of the {animal} and of nothing else." for animal in ("cat", "dog", "cow", "hen")
    ]


def encrypted_pdf(password: str) -> bytes:
    writer = PdfWriter()
    writer.append(PdfReader(io.BytesIO(make_pdf([Paragraph("Hello there.", getSampleStyleSheet()["BodyText"])]))))
    writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_pdf_locked_with_an_empty_password_is_read() -> None:
    assert read("a.pdf", encrypted_pdf("")).text == "Hello there."


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("word/document.xml", b"0" * 60_000_000)
    return out.getvalue()


def laughing_docx() -> bytes:
    bomb = '<!DOCTYPE d [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(10)
    )
    source = io.BytesIO(make_docx(lambda document: document.add_paragraph("x")))
    out = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "word/document.xml":
                data = data.replace(b"<w:document", bomb.encode() + b"]><w:document", 1).replace(b">x<", b">&k;<")
            new.writestr(name, data)
    return out.getvalue()


REFUSED = [
    ("a.xyz", b"x", {"unsupported"}),
    ("noending", b"x", {"unsupported"}),
    ("empty.md", b"  \n", {"no_text"}),
    ("signs.md", b"* * *\n\n<!-- only a comment -->", {"no_text"}),
    ("locked.pdf", encrypted_pdf("secret"), {"encrypted"}),
    ("scan.pdf", make_pdf([PageBreak(), PageBreak()]), {"no_text"}),
    ("fake.pdf", b"<html>not a pdf</html>", {"corrupt"}),
    ("cut.pdf", make_pdf([Paragraph("x" * 400, getSampleStyleSheet()["BodyText"])])[:300], {"corrupt"}),
    ("fake.docx", b"PK\x03\x04 nothing", {"corrupt"}),
    ("old.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600, {"encrypted"}),
    ("bomb.docx", zip_bomb(), {"hostile"}),
    ("laugh.docx", laughing_docx(), {"hostile", "corrupt", "no_text"}),
    ("binary.txt", b"MZ\x00\x01", {"corrupt"}),
    ("garbage.txt", "\ufffd\ue000 a".encode() * 50, {"corrupt"}),
    ("long.txt", b"word " * 50_000, {"too_large"}),
]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(IngestSettings(max_text_chars=200_000)) as box:
        box.parse("warm.txt", b"The worker is started before anything is timed.")
        yield box


@pytest.mark.parametrize(("name", "data", "reasons"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_bad_files_are_refused_quickly_with_a_reason_and_a_sentence(sandbox, name, data, reasons) -> None:
    started = time.monotonic()
    with pytest.raises(DocumentError) as refused:
        sandbox.parse(name, data)
    assert refused.value.reason in reasons
    assert refused.value.message.endswith(".")
    assert time.monotonic() - started < 5


def test_sandbox_reads_what_the_reader_reads(sandbox) -> None:
    data = b"# T\n\nSome *text*.\n\n| a | b |\n|--|--|\n| 1 | 2 |\n"
    assert sandbox.parse("x/t.md", data) == read("t.md", data)


def test_a_file_that_takes_too_long_is_killed_and_the_next_is_read() -> None:
    slow = b"<p>" + b"<b>x</b> " * 400_000
    with Sandbox(IngestSettings(parse_timeout=0.2, max_elements=10**9)) as box:
        with pytest.raises(DocumentError) as refused:
            box.parse("slow.html", slow)
        assert refused.value.reason == "timeout"
        assert box.parse("next.txt", b"Fine.").text == "Fine."


def test_a_file_that_takes_too_much_memory_is_refused() -> None:
    with Sandbox(IngestSettings(parse_memory_mib=128, parse_timeout=30, max_elements=10**9)) as box:
        with pytest.raises(DocumentError) as refused:
            box.parse("large.html", b"<b>x</b> " * 1_000_000)
        # lxml reports the failed allocation as a broken file; either way it is refused.
        assert refused.value.reason in ("too_large", "corrupt", "no_text")
        assert box.parse("next.txt", b"Fine.").text == "Fine."


def test_the_worker_is_started_again_after_it_died() -> None:
    with Sandbox(IngestSettings()) as box:
        assert box.parse("a.txt", b"One.").text == "One."
        box._worker.kill()
        box._worker.wait()
        assert box.parse("a.txt", b"Two.").text == "Two."


def test_a_worker_that_does_not_start_is_not_the_files_fault(monkeypatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with Sandbox(IngestSettings()) as box, pytest.raises(Unavailable, match="does not start"):
        box.parse("a.txt", b"One.")


def test_a_worker_that_is_only_slow_is_not_called_broken(monkeypatch, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(slow))
    monkeypatch.setattr("ingest.sandbox._GRACE", 0.2)
    with Sandbox(IngestSettings()) as box:
        with pytest.raises(Unavailable, match=r"was not ready after 0 seconds.*less busy"):
            box.parse("a.txt", b"One.")
        assert box._worker is None


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("socket.connect", (None, ("127.0.0.1", 80))),
        ("subprocess.Popen", ("sh", [], None, None)),
        ("os.system", (b"true",)),
        ("open", ("/tmp/x", "w", 0)),
    ],
)
def test_a_reader_may_not_reach_outside(event: str, arguments: tuple) -> None:
    with pytest.raises(PermissionError):
        _forbid(event, arguments)


def test_readers_work_as_llamaindex_readers(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("# One\n\nFirst text.\n\n# Two\n\nSecond text.\n")
    documents = reader_for(path.name).load_data(path)
    nodes = AnchoredNodeParser().get_nodes_from_documents(documents)
    assert [(node.text, node.metadata["heading"]) for node in nodes] == [
        ("First text.", "One"),
        ("Second text.", "Two"),
    ]
