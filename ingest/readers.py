"""Files into blocks: the reader interface, the plain-text reader, and the table of formats.

A reader is a LlamaIndex `BaseReader`, so it can be used outside Tandem too; inside, `read` is all there is. Readers
run in the sandbox (`ingest.sandbox`): what they raise is a `DocumentError`, or it is taken for a corrupt file.
"""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from llama_index.core.readers.base import BaseReader
from llama_index.core.schema import Document

from ingest.formats.cleaning import clean, unreadable_share
from ingest.formats.hidden import HiddenText
from ingest.formats.limits import Limits
from tandem.errors import DocumentError
from tandem.schemas import Block, Value

# Raised whenever a reader starts to give other blocks for the same bytes: unchanged files are then read again.
READER_VERSION = "2"
Kind = Literal["text", "table", "list", "code"]


class Reading(Value):
    """What a reader found in a file, before anything is known about who may read it."""

    title: str
    text: str
    blocks: tuple[Block, ...]
    warnings: tuple[str, ...] = ()

    @property
    def content_hash(self) -> str:
        """SHA-256 over the blocks: equal for files that say the same, whatever their bytes."""
        digest = hashlib.sha256()
        for block in self.blocks:
            page = "" if block.page is None else str(block.page)
            digest.update("\x00".join((block.kind, page, *block.headings, block.text, "\x01")).encode())
        return digest.hexdigest()


class Draft:
    """A document being read: collects headings and blocks in order and keeps the offsets right."""

    def __init__(self, max_chars: int = 5_000_000) -> None:
        self.title = ""
        self._max_chars = max_chars
        self._headings: list[tuple[int, str]] = []
        self._names: list[tuple[str, int | None]] = []
        self._parts: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._warnings: list[str] = []
        self._hidden = HiddenText()

    def heading(self, level: int, text: str, page: int | None = None, *, is_name: bool = True) -> None:
        """Starts a section; `level` 1 is the outermost. The first heading of all is the title where none is known.

        Args:
            page: Where it stands.
            is_name: False for one that nobody wrote, such as `Sheet1`: it is neither a title nor text.
        """
        text = self._clean(text).replace("\n", " ")
        if not text:
            return
        self._headings = [(depth, name) for depth, name in self._headings if depth < level]
        self._headings.append((level, text))
        if is_name:
            self.title = self.title or text
            self._names.append((text, page))
        self._append(text, "\n\n")

    def add(self, text: str, kind: Kind = "text", page: int | None = None) -> None:
        """Adds a paragraph, a list (an item a line) or a table (a row a line, the header first)."""
        text = self._clean(text)
        if not text:
            return
        # What a colon introduces follows on the next line, so that the two are read as one paragraph.
        start = self._append(text, "\n" if self._parts and self._parts[-1].endswith(":") else "\n\n")
        headings = tuple(name for _, name in self._headings)
        self._blocks.append(Block(text=text, headings=headings, page=page, start=start, kind=kind))

    def table(self, rows: Iterable[Sequence[str]], page: int | None = None) -> None:
        """Adds a table; cells are joined by ` | `. A table of one column is a list."""
        cleaned: list[list[str]] = []
        size = self._length
        for row in rows:
            cells = [self._clean(cell).replace("\n", " ") for cell in row]
            if any(cells):
                cleaned.append(cells)
                size += sum(map(len, cells))
                self._check_length(size)  # at once, not when a million rows are cleaned
        if not cleaned:
            return
        if max(len(row) for row in cleaned) == 1:
            self.add("\n".join(f"- {row[0]}" for row in cleaned), "list", page)
        else:
            self.add("\n".join(" | ".join(row) for row in cleaned), "table", page)

    def leave_out(self, technique: str, text: str) -> None:
        """Notes a passage that nobody sees; the reading's report tells of it in one sentence."""
        self._hidden.add(technique, self._clean(text))

    def warn(self, sentence: str) -> None:
        self._warnings.append(sentence)

    def finish(self, *, fallback_title: str) -> Reading:
        """Closes the draft.

        Raises:
            DocumentError: `no_text` when there is nothing to read, `corrupt` when it is not language.
        """
        if not self._blocks:  # a slide or a poster: what looks like headings is the text
            self._parts, self._length, self._headings = [], 0, []
            for name, page in self._names:
                self.add(name, page=page)
        text = "".join(self._parts)
        if not any(any(c.isalnum() for c in block.text) for block in self._blocks):
            raise DocumentError(
                "no_text", "It holds no text. If it is a scan, run text recognition (OCR) over it and try again."
            )
        if unreadable_share(text) > 0.3:
            raise DocumentError(
                "corrupt",
                "Its text cannot be decoded (most characters are unknown). Save it again as UTF-8 or as PDF/A.",
            )
        if told := self._hidden.sentence():
            self.warn(told)
        title = self.title or fallback_title
        return Reading(title=title, text=text, blocks=tuple(self._blocks), warnings=tuple(self._warnings))

    def _clean(self, text: str) -> str:
        self._check_length(len(text) // 2)  # before it is gone through; no more than half of it may be spaces
        cleaned = clean(text)
        self._hidden.count(cleaned.smuggled)
        return cleaned.text

    def _append(self, text: str, separator: str) -> int:
        if self._parts:
            self._parts.append(separator)
            self._length += len(separator)
        start = self._length
        self._parts.append(text)
        self._length = start + len(text)
        self._check_length(self._length)
        return start

    def _check_length(self, length: int) -> None:
        if length > self._max_chars:
            raise too_long(self._max_chars)


def too_long(max_chars: int) -> DocumentError:
    return DocumentError(
        "too_large",
        f"It holds more than {max_chars} characters of text. Split it, or raise TANDEM_INGEST__MAX_TEXT_CHARS.",
    )


class FormatReader(BaseReader):
    """One file format. Subclasses implement `fill`.

    Args:
        limits: What is beyond them is refused, with a reason.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()

    @abstractmethod
    def fill(self, draft: Draft, data: bytes) -> None:
        """Puts headings and blocks of `data` into `draft`, in reading order.

        Raises:
            DocumentError: The file is refused, with its reason.
        """

    def read(self, name: str, data: bytes) -> Reading:
        """Reads one file.

        Args:
            name: Its path or name; the stem is the title when nothing better is known.
            data: Its bytes.

        Raises:
            DocumentError: The file is refused, with its reason.
        """
        draft = Draft(self._limits.max_chars)
        self.fill(draft, data)
        return draft.finish(fallback_title=re.sub(r"[-_]+", " ", Path(name).stem))

    def load_data(self, file: Path, extra_info: dict[str, Any] | None = None) -> list[Document]:
        """LlamaIndex's way in: one document, its blocks as metadata for `ingest.splitter.AnchoredNodeParser`."""
        reading = self.read(str(file), Path(file).read_bytes())
        blocks = [block.model_dump(mode="json") for block in reading.blocks]
        metadata = {**(extra_info or {}), "title": reading.title, "blocks": blocks}
        unseen = ["blocks"]
        return [
            Document(
                text=reading.text,
                metadata=metadata,
                excluded_embed_metadata_keys=unseen,
                excluded_llm_metadata_keys=unseen,
            )
        ]


class TextReader(FormatReader):
    """Plain text: paragraphs between empty lines; lines that were wrapped by hand are joined again."""

    def fill(self, draft: Draft, data: bytes) -> None:
        text = decode(data).replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
        if len(text) > 2 * self._limits.max_chars:  # not even if half of it were spaces
            raise too_long(self._limits.max_chars)
        for paragraph in re.split(r"\n[^\S\n]*\n", text):
            lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
            if len(lines) == 2 and re.fullmatch(r"([=\-~^*#])\1{2,}", lines[1]):
                draft.heading(1 if lines[1][0] in "=*#" else 2, lines[0])
                continue
            lines = [line for line in lines if not re.fullmatch(r"[\W_]+", line)]
            if lines:
                items = [bool(ITEM.match(line)) for line in lines]
                kind: Kind = "list" if items[0] and len(lines) > 1 else "text"
                draft.add(join_lines(lines), kind)


ITEM = re.compile(r"(?:[-*•‣◦▪–]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+")


def join_lines(lines: Sequence[str]) -> str:
    """Joins lines that a fixed width broke; a list item and a line after a short one start anew.

    A hyphen at the end of a line goes when the next line goes on in lower case.
    """
    width = max((len(line) for line in lines), default=0)
    joined = ""
    previous = ""
    for line in lines:
        # A line well short of the widest ended on purpose: an address, a table of two columns, a heading.
        broken = previous and (len(previous) > 0.7 * width or previous[-1] in ",;") and not ITEM.match(line)
        if not joined:
            joined = line
        elif broken and re.fullmatch(r"[^\W\d_]-", joined[-2:]) and line[:1].islower():
            joined = joined[:-1] + line
        elif broken:
            joined += " " + line
        else:
            joined += "\n" + line
        previous = line
    return joined


def decode(data: bytes) -> str:
    """Bytes into text: the byte order mark decides, then UTF-8, then Windows-1252.

    Raises:
        DocumentError: `corrupt` when the bytes are no text at all.
    """
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if b"\x00" in data:
        raise DocumentError(
            "corrupt", "It holds binary data where text is expected. Check that its ending fits its content."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


@dataclass(frozen=True)
class Format:
    """Where a format's reader lives. Readers are imported when first needed: their libraries are heavy."""

    module: str
    reader: str


FORMATS: dict[str, Format] = {
    ".md": Format("ingest.formats.markdown", "MarkdownReader"),
    ".markdown": Format("ingest.formats.markdown", "MarkdownReader"),
    ".html": Format("ingest.formats.html", "HtmlReader"),
    ".htm": Format("ingest.formats.html", "HtmlReader"),
    ".xhtml": Format("ingest.formats.html", "HtmlReader"),
    ".txt": Format("ingest.readers", "TextReader"),
    ".text": Format("ingest.readers", "TextReader"),
    ".pdf": Format("ingest.formats.pdf", "PdfReader"),
    ".docx": Format("ingest.formats.docx", "DocxReader"),
    ".pptx": Format("ingest.formats.pptx", "PptxReader"),
    ".xlsx": Format("ingest.formats.xlsx", "XlsxReader"),
    ".odt": Format("ingest.formats.odt", "OdtReader"),
    ".eml": Format("ingest.formats.eml", "EmlReader"),
}
READABLE = "Markdown, HTML, plain text, PDF, DOCX, PPTX, XLSX, ODT and EML"


def reader_for(name: str, limits: Limits | None = None) -> FormatReader:
    """The reader of a file, by its ending.

    Raises:
        DocumentError: `unsupported`.
    """
    check_supported(name)
    entry = FORMATS[Path(name).suffix.lower()]
    reader: FormatReader = getattr(import_module(entry.module), entry.reader)(limits)
    return reader


def check_supported(name: str) -> None:
    """Raises DocumentError `unsupported` unless a reader exists for the file's ending."""
    suffix = Path(name).suffix.lower()
    if suffix not in FORMATS:
        kind = f"Files ending in {suffix!r}" if suffix else "Files without an ending"
        raise DocumentError("unsupported", f"{kind} cannot be read; {READABLE} can. Convert it to one of these.")
