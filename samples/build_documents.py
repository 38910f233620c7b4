"""Build the PDF and DOCX sample documents of both corpus versions.

Reads ``samples/sources/NAME.pdf.txt`` and ``NAME.docx.txt`` (a small Markdown-like
notation) and writes the documents into ``samples/corpus/v1`` and ``samples/corpus/v2``.
``[[old >> new]]`` marks text that differs between the two versions; ``---`` is a page
break. The output is reproducible: the same sources give the same bytes.

Run with reportlab and python-docx installed: ``python samples/build_documents.py``.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import docx
from docx.enum.text import WD_BREAK
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import (
    ListFlowable,
    ListItem,
    PageBreak,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
)

HERE = Path(__file__).resolve().parent
TARGETS: dict[str, str] = {
    "brook-2-manual.pdf": "products",
    "weir-l-installation.pdf": "products",
    "warranty-and-returns.pdf": "support",
    "procurement.docx": "finance",
    "data-retention.docx": "legal",
}
AUTHOR = "Fernhollow Instruments"
FIXED_DATE = dt.datetime(2025, 1, 1, 12, 0, 0)
VARIANT = re.compile(r"\[\[(.*?) >> (.*?)\]\]", re.DOTALL)
KINDS: tuple[tuple[str, str], ...] = (
    (r"#\s+", "h1"),
    (r"##\s+", "h2"),
    (r"###\s+", "h3"),
    (r"-\s+", "bullet"),
    (r"\d+\.\s+", "number"),
)


@dataclass
class Block:
    """One heading, paragraph, list, table or page break."""

    kind: str
    items: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def choose(text: str, version: int) -> str:
    """Resolve ``[[old >> new]]`` for corpus version 1 or 2."""
    return VARIANT.sub(lambda match: match.group(version), text)


def parse(text: str) -> list[Block]:
    """Turn the notation into blocks; consecutive list items and rows are joined."""
    blocks: list[Block] = []
    for line in text.splitlines():
        line = line.strip()
        previous = blocks[-1] if blocks else Block("blank")
        if not line:
            blocks.append(Block("blank"))
        elif line == "---":
            blocks.append(Block("break"))
        elif line.startswith("|"):
            row = [cell.strip() for cell in line.strip("|").split("|")]
            if previous.kind == "table":
                previous.rows.append(row)
            else:
                blocks.append(Block("table", rows=[row]))
        else:
            kind, content = "text", line
            for pattern, name in KINDS:
                match = re.match(pattern, line)
                if match:
                    kind, content = name, line[match.end() :]
                    break
            if kind in ("bullet", "number") and previous.kind == kind:
                previous.items.append(content)
            else:
                blocks.append(Block(kind, [content]))
    return [block for block in blocks if block.kind != "blank"]


def pdf_styles() -> dict[str, ParagraphStyle]:
    """Return the styles: larger bold type for headings, plain type for text."""
    body = ParagraphStyle("body", parent=getSampleStyleSheet()["BodyText"], fontSize=10.5)
    body.leading = 15
    styles = {"text": body}
    for name, size in (("h1", 20), ("h2", 14), ("h3", 12)):
        styles[name] = ParagraphStyle(
            name,
            parent=body,
            fontName="Helvetica-Bold",
            fontSize=size,
            leading=size * 1.3,
            spaceBefore=size * 0.7,
            spaceAfter=size * 0.3,
            keepWithNext=1,
        )
    styles["cell_head"] = ParagraphStyle("cell_head", parent=body, fontName="Helvetica-Bold")
    return styles


def pdf_flowable(block: Block, styles: dict[str, ParagraphStyle], width: float) -> Any:
    """Turn one block into a reportlab flowable."""
    if block.kind == "break":
        return PageBreak()
    if block.kind == "table":
        cells = [
            [Paragraph(escape(cell), styles["text" if index else "cell_head"]) for cell in row]
            for index, row in enumerate(block.rows)
        ]
        columns = len(block.rows[0])
        table = Table(cells, colWidths=[width / columns] * columns, repeatRows=1)
        table.setStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.grey)])
        return table
    if block.kind in ("bullet", "number"):
        items = [ListItem(Paragraph(escape(item), styles["text"])) for item in block.items]
        if block.kind == "bullet":
            return ListFlowable(items, bulletType="bullet", leftIndent=14)
        return ListFlowable(items, bulletType="1", bulletFormat="%s.", leftIndent=18)
    return Paragraph(escape(block.items[0]), styles[block.kind])


def write_pdf(blocks: list[Block], path: Path) -> None:
    """Write a PDF with fixed metadata."""
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        leftMargin=22 * mm,
        rightMargin=22 * mm,
        topMargin=20 * mm,
        bottomMargin=20 * mm,
        title=blocks[0].items[0],
        author=AUTHOR,
        invariant=1,
    )
    styles = pdf_styles()
    story: list[Any] = []
    for block in blocks:
        story.append(pdf_flowable(block, styles, document.width))
        if block.kind == "table":
            story.append(Spacer(1, 8))
    document.build(story)


def write_docx(blocks: list[Block], path: Path) -> None:
    """Write a Word document with fixed properties and fixed archive times."""
    document = docx.Document()
    properties = document.core_properties
    properties.title = blocks[0].items[0]
    properties.author = properties.last_modified_by = AUTHOR
    properties.comments = ""
    properties.created = properties.modified = FIXED_DATE
    properties.revision = 1
    for block in blocks:
        if block.kind in ("h1", "h2", "h3"):
            document.add_heading(block.items[0], level=int(block.kind[1]))
        elif block.kind == "table":
            table = document.add_table(rows=0, cols=len(block.rows[0]), style="Table Grid")
            for index, row in enumerate(block.rows):
                for cell, value in zip(table.add_row().cells, row, strict=True):
                    run = cell.paragraphs[0].add_run(value)
                    run.bold = index == 0
        elif block.kind == "break":
            document.add_paragraph().add_run().add_break(WD_BREAK.PAGE)
        else:
            style = {"bullet": "List Bullet", "number": "List Number"}.get(block.kind)
            for item in block.items:
                document.add_paragraph(item, style=style)
    buffer = io.BytesIO()
    document.save(buffer)
    with (
        zipfile.ZipFile(buffer) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            info = zipfile.ZipInfo(name, date_time=(2025, 1, 1, 12, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, source.read(name))


def main() -> None:
    """Build every document for both versions."""
    for name, folder in TARGETS.items():
        source = (HERE / "sources" / f"{name}.txt").read_text(encoding="utf-8")
        for version in (1, 2):
            blocks = parse(choose(source, version))
            path = HERE / "corpus" / f"v{version}" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write = write_pdf if path.suffix == ".pdf" else write_docx
            write(blocks, path)


if __name__ == "__main__":
    main()
