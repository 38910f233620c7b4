"""The blocks of a document as the database keeps them: where they lie in its text, not the text again."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tandem.schemas import Block


def pack(blocks: Sequence[Block]) -> dict[str, Any]:
    """Blocks without their text, by section: small, and the same for the same blocks."""
    sections = [
        [list(headings), [[block.start, len(block.text), block.kind, block.page] for block in section]]
        for headings, section in groupby(blocks, key=lambda block: block.headings)
    ]
    return {"sections": sections}


def unpack(text: str, packed: dict[str, Any] | None) -> list[Block]:
    """The blocks again.

    Args:
        text: The document's text.
        packed: As `pack` made it; None for a version that was ingested before blocks were kept, which is then one
            block.
    """
    if packed is None:
        return [Block(text=text)]
    return [
        Block(text=text[start : start + length], headings=tuple(headings), page=page, start=start, kind=kind)
        for headings, section in packed["sections"]
        for start, length, kind, page in section
    ]
