"""Documents into chunks whose boundaries hang on the text around them, not on what stands before.

A chunk never reaches over a heading. Within a section, boundaries fall where the text itself says so (the paragraph
whose hash is the smallest in its neighbourhood), so a paragraph put in at the head moves the boundaries next to it and
leaves all others, and their embeddings, alone.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from llama_index.core.node_parser import NodeParser
from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, TextNode
from pydantic import Field

from tandem.schemas import Block, Chunk
from tandem.settings import SplitterSettings

# Raised whenever the same blocks begin to give other chunks: documents are then split, and embedded, again.
SPLITTER_VERSION = "2"
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-Þ])")
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|etc|vs|cf|nos?|art|sec|mrs?|ms|dr|st|inc|ltd|corp?|approx|fig|pp?|[A-Z])\.$", re.IGNORECASE
)
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
_RUN_WORDS = 3
# A "word" longer than this is no word: encoded data, or a script that does not part words.
_MAX_WORD_CHARS = 400


@dataclass(frozen=True)
class _Unit:
    """What is never cut: a sentence of a long paragraph, a short paragraph, a list item, a table row.

    Attributes:
        start, end: Span in the document's text.
        weight: Its length in words.
        glued: Belongs to the unit before it (the first row to its header, a list to the line that introduces it).
        header: The table's header row, for a chunk that begins with a later row.
        page: Where it stands.
    """

    start: int
    end: int
    weight: float
    digest: int
    glued: bool
    header: str
    page: int | None


def recipe(settings: SplitterSettings) -> str:
    """What makes the same blocks into the same chunks: version and sizes."""
    return f"{SPLITTER_VERSION}.{settings.target_words}.{settings.max_words}"


def sizes(recipe: str) -> SplitterSettings:
    """The sizes that a recipe names. Its version is only this module's own: chunks are always made by the newest."""
    _, target, most = recipe.split(".")
    return SplitterSettings(target_words=int(target), max_words=int(most))


def split(text: str, blocks: Sequence[Block], settings: SplitterSettings, model_id: str) -> list[Chunk]:
    """Splits a document.

    Args:
        text: Its text; `blocks` lie in it at their `start`.
        blocks: In reading order.
        settings: The length that chunks aim at, and the one they do not exceed, in words.
        model_id: The embedding model, part of each chunk's key.

    Returns:
        Chunks in reading order, ordinals from 0. A chunk's text is `text[start:end]`, below the header row where it
        begins in the middle of a table.
    """
    chunks: list[Chunk] = []
    for headings, section in groupby(blocks, key=lambda block: block.headings):
        units = list(_units(text, list(section), settings.max_words))
        for run in _runs(units, settings):
            start, end = run[0].start, run[-1].end
            body = text[start:end]
            if run[0].header:
                body = f"{run[0].header}\n{body}"
            heading = " > ".join(headings)
            chunks.append(
                Chunk(
                    ordinal=len(chunks),
                    key=chunk_key(headings[-1] if headings else "", body, model_id),
                    text=body,
                    heading=heading,
                    page=run[0].page,
                    start=start,
                    end=end,
                )
            )
    return chunks


def chunk_key(leaf: str, text: str, model_id: str) -> str:
    """What an embedding is stored under: SHA-256 of all that goes into it, and nothing else."""
    return hashlib.sha256("\x00".join((leaf, text, model_id, SPLITTER_VERSION)).encode()).hexdigest()


def weigh(text: str) -> float:
    """The length of a text in words. Scripts without spaces, and data that is no words, count by their characters."""
    return max(len(text.split()) + 0.6 * len(_WIDE.findall(text)), len(text) / 12)


def _units(text: str, section: Sequence[Block], max_words: int) -> Iterator[_Unit]:
    introduced = False
    for block in section:
        header = ""
        for n, (start, end) in enumerate(_spans(block, max_words)):
            piece = text[start:end]
            row = block.kind == "table" and n > 0
            header = header if row else (piece if block.kind == "table" else "")
            yield _Unit(
                start=start,
                end=end,
                weight=weigh(piece),
                digest=_digest(piece),
                glued=introduced if n == 0 else (block.kind == "table" and n == 1),
                header=header if row else "",
                page=block.page,
            )
        introduced = block.text.rstrip().endswith(":")


def _digest(text: str) -> int:
    """The smallest hash of three words in a row: a word changed here or there mostly leaves it as it was.

    With a hash of the whole unit each edit would move the boundaries around it, and more than the edit be embedded.
    """
    words = text.split()
    runs = (" ".join(words[n : n + _RUN_WORDS]) for n in range(max(1, len(words) - _RUN_WORDS + 1)))
    return min(int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs)


def _spans(block: Block, max_words: int) -> Iterator[tuple[int, int]]:
    """Spans of a block's units in the document's text."""
    by_line = block.kind != "text" or weigh(block.text) > max_words
    for start, end in _lines(block.text) if by_line else [(0, len(block.text))]:
        line = block.text[start:end]
        whole = block.kind == "table" or weigh(line) <= max_words
        for a, b in [(0, len(line))] if whole else _sentences(line):
            for c, d in _cut(line[a:b], max_words):
                yield block.start + start + a + c, block.start + start + a + d


def _lines(text: str) -> Iterator[tuple[int, int]]:
    for match in re.finditer(r"[^\n]+", text):
        yield match.span()


def _sentences(line: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in _SENTENCE_END.finditer(line):
        end = match.end() - (len(match.group()) - len(match.group().rstrip()))
        if _ABBREVIATION.search(line[start : match.start()]):
            continue
        yield start, end
        start = match.end()
    if start < len(line):
        yield start, len(line)


def _cut(text: str, max_words: int) -> Iterator[tuple[int, int]]:
    """Cuts what is no sentence any more: data, lists without points, text without spaces."""
    if weigh(text) <= 2 * max_words:
        yield 0, len(text)
        return
    start = end = 0
    weight = 0.0
    for match in re.finditer(rf"\S{{1,{_MAX_WORD_CHARS}}}", text):
        word = weigh(match.group())
        if weight and weight + word > max_words:
            yield start, end
            start, weight = match.start(), 0.0
        end = match.end()
        weight += word
    yield start, len(text.rstrip())


def _runs(units: Sequence[_Unit], settings: SplitterSettings) -> Iterator[list[_Unit]]:
    """Groups the units of a section into chunks."""
    if units and sum(unit.weight for unit in units) <= settings.max_words:
        yield list(units)
        return
    reach = settings.target_words / 2
    anchors = _anchors(units, reach)
    run: list[_Unit] = []
    weight = 0.0
    for unit, anchor in zip(units, anchors, strict=True):
        full = weight + unit.weight > settings.max_words
        # Without an anchor for long, a run is closed where it has reached its length.
        if run and not (unit.glued and not full) and (anchor or full or weight >= settings.target_words):
            yield run
            run, weight = [], 0.0
        run.append(unit)
        weight += unit.weight
    if run:
        yield run


def _anchors(units: Sequence[_Unit], reach: float) -> list[bool]:
    """Where a chunk starts whatever came before: at units whose hash is the smallest within `reach` words around."""
    offsets: list[float] = []
    total = 0.0
    for unit in units:
        offsets.append(total)
        total += unit.weight
    found: list[bool] = []
    left = 0
    for n, unit in enumerate(units):
        while offsets[n] - offsets[left] > reach:
            left += 1
        right = n
        while right + 1 < len(units) and offsets[right + 1] - offsets[n] <= reach:
            right += 1
        around = [other.digest for m, other in enumerate(units[left : right + 1], start=left) if m != n]
        # The head of a section is a boundary anyway; next to it none is needed.
        found.append(offsets[n] > reach and not unit.glued and all(unit.digest < digest for digest in around))
    return found


class AnchoredNodeParser(NodeParser):
    """The same splitting as a LlamaIndex node parser, for documents of `ingest.readers` (or any others).

    Attributes:
        target_words, max_words: See `tandem.settings.SplitterSettings`.
    """

    target_words: int = Field(default=90)
    max_words: int = Field(default=160)

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
        settings = SplitterSettings(target_words=self.target_words, max_words=self.max_words)
        found: list[BaseNode] = []
        for node in nodes:
            text = node.get_content(metadata_mode=MetadataMode.NONE)
            blocks = [Block.model_validate(block) for block in node.metadata.get("blocks") or _paragraphs(text)]
            metadata = {key: value for key, value in node.metadata.items() if key != "blocks"}
            for chunk in split(text, blocks, settings, model_id=""):
                child = TextNode(text=chunk.text, metadata={**metadata, "heading": chunk.heading, "page": chunk.page})
                child.start_char_idx, child.end_char_idx = chunk.start, chunk.end
                child.relationships[NodeRelationship.SOURCE] = node.as_related_node_info()
                found.append(child)
        return found

    def _postprocess_parsed_nodes(self, nodes: list[BaseNode], parent_doc_map: dict[str, Any]) -> list[BaseNode]:
        # The inherited step copies the document's metadata, all its blocks included, into every node.
        return nodes


def _paragraphs(text: str) -> list[dict[str, Any]]:
    return [{"text": match.group(), "start": match.start()} for match in re.finditer(r"\S(?:.|\n(?!\s*\n))*", text)]
