"""Presentations, spreadsheets, OpenDocument texts and mail: what a person sees, where it stands, and nothing else."""

import io
import zipfile
from datetime import date, datetime, time, timedelta
from email.message import EmailMessage

import openpyxl
import pptx
import pytest
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches, Pt

from ingest.formats.number_format import shown
from ingest.readers import Reading, reader_for
from ingest.sandbox import Sandbox
from ingest.splitter import split
from tandem.errors import DocumentError
from tandem.settings import IngestSettings, SplitterSettings

SECRET = "swordfish"


def read(name: str, data: bytes) -> Reading:
    found = reader_for(name).read(name, data)
    for block in found.blocks:
        assert found.text[block.start : block.start + len(block.text)] == block.text
    for chunk in split(found.text, found.blocks, SplitterSettings(), "m"):
        assert chunk.text.endswith(found.text[chunk.start : chunk.end])
    return found


def texts(reading: Reading) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in reading.blocks]


def saved(document) -> bytes:
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def deck() -> bytes:
    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[1])
    slide.shapes.title.text = "Travel"
    frame = slide.placeholders[1].text_frame
    frame.text = "Book by train."
    frame.add_paragraph().text = "Never fly first."
    slide.notes_slide.notes_text_frame.text = "Say why."
    hidden = show.slides.add_slide(show.slide_layouts[1])
    hidden.shapes.title.text, hidden.placeholders[1].text = "Hidden", SECRET
    hidden._element.set("show", "0")
    slide = show.slides.add_slide(show.slide_layouts[5])
    slide.shapes.title.text = "Limits"
    table = slide.shapes.add_table(3, 2, Inches(1), Inches(2), Inches(4), Inches(2)).table
    for n, row in enumerate([("City", "Limit"), ("Paris", "150"), ("Rome", "140")]):
        table.cell(n, 0).text, table.cell(n, 1).text = row
    box = slide.shapes.add_textbox(Inches(50), Inches(2), Inches(1), Inches(1))
    box.text_frame.text = SECRET  # off the slide
    run = slide.shapes.add_textbox(Inches(1), Inches(5), Inches(1), Inches(1)).text_frame.paragraphs[0].add_run()
    run.text, run.font.size = SECRET, Pt(1)
    blank = show.slides.add_slide(show.slide_layouts[6])
    group = blank.shapes.add_group_shape()
    group.shapes.add_textbox(Inches(1), Inches(1), Inches(2), Inches(1)).text_frame.text = "In a group."
    chart = CategoryChartData()
    chart.categories = ["2025", "2026"]
    chart.add_series("Trips", (3, 4.5))
    blank.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(3), Inches(3), chart)
    show.slides.add_slide(show.slide_layouts[5]).shapes.title.text = "Ask before you book"
    return saved(show)


def test_slides_have_their_title_as_heading_and_their_number_as_page() -> None:
    found = read("travel.pptx", deck())
    assert found.title == "Travel"
    assert SECRET not in found.text
    assert [(block.page, block.headings, block.kind, block.text) for block in found.blocks] == [
        (1, ("Travel",), "list", "- Book by train.\n- Never fly first."),
        (1, ("Travel",), "text", "Speaker notes: Say why."),
        (3, ("Limits",), "table", "City | Limit\nParis | 150\nRome | 140"),
        (4, ("Slide 4",), "text", "In a group."),
        (4, ("Slide 4",), "table", "| Trips\n2025 | 3\n2026 | 4.5"),
        (5, ("Ask before you book",), "text", "Ask before you book"),
    ]
    assert found.warnings == ("1 hidden slides were left out: 2.",)
    chunks = split(found.text, found.blocks, SplitterSettings(), "m")
    assert [(chunk.page, chunk.heading) for chunk in chunks][:2] == [(1, "Travel"), (3, "Limits")]


@pytest.mark.parametrize("layout", [6, 5])
def test_a_presentation_without_text_is_refused(layout: int) -> None:
    show = pptx.Presentation()
    show.slides.add_slide(show.slide_layouts[layout])
    with pytest.raises(DocumentError) as refused:
        read("empty.pptx", saved(show))
    assert refused.value.reason == "no_text"


def book() -> bytes:
    workbook = openpyxl.Workbook()
    rates = workbook.active
    rates.title = "Rates"
    rates.append(["Rates of 2026"])
    rates.append(["City", "Limit", "Share", "From", "Internal"])
    rates.append(["Paris", 1234.5, 0.25, date(2026, 3, 1), SECRET])
    rates.append(["Rome", 140, 0.125, datetime(2026, 4, 1, 9, 30), SECRET])
    rates.append([SECRET])
    rates.append([])
    rates.append(["Grade", "Class"])
    rates.append(["A", 1])
    for row in (3, 4):
        rates.cell(row, 2).number_format = '#,##0.00 "EUR"'
        rates.cell(row, 3).number_format = "0.0%"
    rates["D4"].number_format = "d-mmm-yyyy h:mm"
    rates.column_dimensions["E"].hidden = True
    rates.row_dimensions[5].hidden = True
    workbook.create_sheet("Secret").append([SECRET])
    workbook["Secret"].sheet_state = "hidden"
    workbook.create_sheet("Sums").append(["=1+1", "sum"])
    return saved(workbook)


def test_sheets_are_headings_and_figures_are_as_a_person_sees_them() -> None:
    found = read("rates.xlsx", book())
    assert found.title == "rates"  # no sheet's name
    assert SECRET not in found.text
    assert [(block.headings, block.text) for block in found.blocks] == [
        (("Rates",), "Rates of 2026"),
        (
            ("Rates",),
            "City | Limit | Share | From\n"
            "Paris | 1,234.50 EUR | 25.0% | 2026-03-01\n"
            "Rome | 140.00 EUR | 12.5% | 1-Apr-2026 9:30",
        ),
        (("Rates",), "Grade | Class\nA | 1"),
        (("Sums",), "sum"),
    ]
    assert [warning.split(".")[0] for warning in found.warnings] == [
        "1 hidden sheets were left out: Secret",
        "In the sheet 'Rates', 1 hidden rows and 1 hidden columns were left out",
        "In the sheet 'Sums', 1 formulas have no stored value",
    ]


def test_every_chunk_of_a_long_sheet_begins_with_the_header() -> None:
    workbook = openpyxl.Workbook()
    workbook.active.append(["City", "Limit"])
    for n in range(300):
        workbook.active.append([f"City {n}", n])
    found = read("long.xlsx", saved(workbook))
    chunks = split(found.text, found.blocks, SplitterSettings(), "m")
    assert len(chunks) > 5
    assert all(chunk.text.startswith("City | Limit\nCity ") for chunk in chunks)
    assert {line for chunk in chunks for line in chunk.text.splitlines()[1:]} == {f"City {n} | {n}" for n in range(300)}


@pytest.mark.parametrize(
    ("value", "code", "text"),
    [
        (0.25, "0%", "25%"),
        (1234.5, '#,##0.00 "€"', "1,234.50 €"),
        (1.005, "0.00", "1.01"),
        (-3, '_(* #,##0_);_(* \\(#,##0\\);_(* "-"_);_(@_)', "(3)"),
        (0, '_(* #,##0_);_(* \\(#,##0\\);_(* "-"_);_(@_)', "-"),
        (-1234.5, "#,##0.00;[Red]-#,##0.00", "-1,234.50"),
        (45, "[$€-407] #,##0", "€ 45"),
        (1234567, '0.0,,"M"', "1.2M"),
        (-0.001, "0.0", "0.0"),
        (2.75, "# ??/??", "2 3/4"),
        (12345.678, "0.00E+00", "1.23E+4"),
        (7, "000", "007"),
        (50, '[<10]"few";0', "50"),
        (0.1 + 0.2, "General", "0.3"),
        (float("inf"), "0.0", "inf"),
        (True, "General", "TRUE"),
        (date(2026, 3, 1), "mm-dd-yy", "2026-03-01"),
        (datetime(2026, 3, 1, 14, 5), "d-mmm-yy h:mm AM/PM", "1-Mar-26 2:05 PM"),
        (datetime(2026, 3, 1, 14, 5, 9), "dddd, d. mmmm yyyy hh:mm:ss", "Sunday, 1. March 2026 14:05:09"),
        (time(9, 30), "h:mm", "9:30"),
        (timedelta(hours=30), "[h]:mm", "30:00:00"),
        (45, "bad[[;;;;", "bad"),
    ],
)
def test_number_formats(value: object, code: str, text: str) -> None:
    assert shown(value, code) == text


def odt(body: str, styles: str = "", title: str = "") -> bytes:
    names = ("office", "text", "table", "style", "meta", "drawing", "xsl-fo-compatible", "manifest")
    spaces = " ".join(f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in names)
    spaces += ' xmlns:fo="urn:oasis:names:tc:opendocument:xmlns:xsl-fo-compatible:1.0"'
    spaces += ' xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"'
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        package.writestr(
            "content.xml",
            f"<office:document-content {spaces}><office:automatic-styles>{styles}</office:automatic-styles>"
            f"<office:body><office:text>{body}</office:text></office:body></office:document-content>",
        )
        package.writestr("meta.xml", f'<m xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></m>')
    return out.getvalue()


def test_odt_in_document_order_without_hidden_text() -> None:
    hidden = {"gone": 'text:display="none"', "tiny": 'fo:font-size="1pt"', "white": 'fo:color="#ffffff"'}
    styles = "".join(
        f'<style:style style:name="{name}" style:family="text"><style:text-properties {how}/></style:style>'
        for name, how in hidden.items()
    )
    spans = "".join(f'<text:span text:style-name="{name}">{SECRET}</text:span>' for name in hidden)
    body = f"""<text:tracked-changes><text:p>{SECRET}</text:p></text:tracked-changes>
    <text:h text:outline-level="1">Buying</text:h><text:h text:outline-level="2">Limits</text:h>
    <text:p>Ask<text:s/>first{spans}<text:line-break/>always<text:note><text:note-citation>1</text:note-citation>
    <text:note-body><text:p>By mail.</text:p></text:note-body></text:note>.</text:p>
    <text:p><office:annotation><text:p>{SECRET}</text:p></office:annotation>Then buy.</text:p>
    <text:section><text:list><text:list-item><text:p>one</text:p><text:list><text:list-item><text:p>two</text:p>
    </text:list-item></text:list></text:list-item></text:list></text:section>
    <table:table><table:table-header-rows><table:table-row><table:table-cell><text:p>Order</text:p></table:table-cell>
    <table:table-cell><text:p>Who</text:p></table:table-cell></table:table-row></table:table-header-rows>
    <table:table-row><table:table-cell table:number-columns-repeated="2"><text:p>you</text:p></table:table-cell>
    </table:table-row></table:table>"""
    found = read("buying.odt", odt(body, styles, "The handbook"))
    assert found.title == "The handbook"
    assert SECRET not in found.text
    assert texts(found) == [
        ("text", "Ask first\nalways."),
        ("text", "By mail."),
        ("text", "Then buy."),
        ("list", "- one\n- two"),
        ("table", "Order | Who\nyou | you"),
    ]
    assert found.blocks[-1].headings == ("Buying", "Limits")


def test_an_encrypted_odt_says_so() -> None:
    out = io.BytesIO(odt("<text:p>x</text:p>"))
    with zipfile.ZipFile(out, "a") as package:
        space = "urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"
        package.writestr("META-INF/manifest.xml", f'<m:m xmlns:m="{space}"><m:encryption-data/></m:m>')
    with pytest.raises(DocumentError) as refused:
        read("locked.odt", out.getvalue())
    assert refused.value.reason == "encrypted"


def mail(**parts: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "Ada <ada@example.org>", "Bob <bob@example.org>"
    message["Date"], message["Subject"] = "Mon, 02 Mar 2026 09:00:00 +0000", "New tråvel rules"
    message.set_content(parts["text"]) if "text" in parts else None
    if "html" in parts and "text" in parts:
        message.add_alternative(parts["html"], subtype="html")
    elif "html" in parts:
        message.set_content(parts["html"], subtype="html")
    return message


def test_mail_is_its_text_with_the_subject_as_title() -> None:
    message = mail(text="The allowance is EUR 45.\n\nAsk me.\n", html=f"<p>{SECRET}</p>")
    message.add_attachment(SECRET.encode(), maintype="application", subtype="pdf", filename="rates.pdf")
    message.add_attachment(mail(text=SECRET))
    found = read("a.eml", message.as_bytes())
    assert found.title == "New tråvel rules"
    assert texts(found) == [
        ("text", "From: Ada <ada@example.org>\nTo: Bob <bob@example.org>\nDate: Mon, 02 Mar 2026 09:00:00 +0000"),
        ("text", "The allowance is EUR 45."),
        ("text", "Ask me."),
    ]
    assert {block.headings for block in found.blocks} == {("New tråvel rules",)}
    assert found.warnings == ("2 attachments were not read: rates.pdf, a forwarded message.",)


def test_mail_without_a_text_part_is_read_from_its_html() -> None:
    html = f"<title>Other</title><p>Read <b>this</b>.</p><p style='display:none'>{SECRET}</p>"
    found = read("a.eml", mail(html=html).as_bytes())
    assert found.title == "New tråvel rules"
    assert texts(found)[1:] == [("text", "Read this.")]


def test_mail_without_a_body_has_no_text() -> None:
    message = mail()
    message.add_attachment(b"x", maintype="image", subtype="png", filename="scan.png")
    with pytest.raises(DocumentError) as refused:
        read("a.eml", message.as_bytes())
    assert refused.value.reason == "no_text"


def test_a_character_set_that_does_not_exist_is_no_obstacle() -> None:
    data = b"From: a@example.org\nSubject: s\nContent-Type: text/plain; charset=klingon\n\nThe limit is 45.\n"
    assert "The limit is 45." in read("a.eml", data).text


def test_the_confined_reader_gives_the_same() -> None:
    """Where nothing can be opened, no library may want to open anything: a template, a module, a font."""
    files = {
        "a.pptx": deck(),
        "a.xlsx": book(),
        "a.odt": odt("<text:p>One.</text:p>"),
        "a.eml": mail(html="<p>One.</p>").as_bytes(),
    }
    with Sandbox(IngestSettings()) as sandbox:
        for name, data in files.items():
            assert sandbox.parse(name, data) == read(name, data)
