"""Markdown (CommonMark with GitHub's tables) into blocks of plain text."""

import hashlib
import html as entities
import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ingest.formats.cleaning import clean, strip_templates
from ingest.formats.html import fill_fragment, tell_hidden, visible_text
from ingest.formats.limits import Limits
from ingest.formats.markup import check_lines
from ingest.metadata import split_front_matter
from ingest.readers import Draft, FormatReader, decode
from tandem.errors import DocumentError

_CALLOUT = re.compile(r"^\[!\w+\]\s*")
_ANCHOR = re.compile(r"\s*\{#[\w:.-]+\}\s*$")


class MarkdownReader(FormatReader):
    """Markdown. Emphasis goes, the text of links stays; images, comments and hidden HTML go."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)
        # What is nested deeper, the parser leaves out without a word; so it is refused below.
        self._nesting = min(self._limits.max_depth, 100)
        options = {"maxNesting": self._nesting}
        self._parser = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])

    def fill(self, draft: Draft, data: bytes) -> None:
        body = split_front_matter(decode(data)).body
        # An unclosed comment would hide the rest in a browser too; only whole ones are taken out here.
        body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
        check_lines(body, self._limits)
        tokens = self._parser.parse(body)
        if any(token.level >= self._nesting - 1 and token.nesting == 1 for token in tokens):
            raise DocumentError(
                "hostile", f"Its quotes and lists are nested {self._nesting} deep. Save it in a simpler form."
            )
        if not any(token.type == "html_block" or _is_marked(token.children or ()) for token in tokens):
            _Renderer(draft).render(tokens)
            return
        styles = "".join(re.findall(r"<style\b.*?</style\s*>", body, flags=re.DOTALL | re.IGNORECASE))
        _Renderer(draft, styles).render(_seen(draft, tokens, body))


class _Renderer:
    """Walks the flat token list once. `styles` are the style sheets in the document, for the HTML in it."""

    def __init__(self, draft: Draft, styles: str = "") -> None:
        self._draft = draft
        self._styles = styles
        self._lists = 0
        self._lines: list[str] = []
        self._fresh_item = False
        self._rows: list[list[str]] | None = None

    def render(self, tokens: Sequence[Token]) -> None:
        heading = 0
        for token in tokens:
            kind = token.type
            if kind == "heading_open":
                heading = int(token.tag[1])
            elif kind == "heading_close":
                heading = 0
            elif kind in ("bullet_list_open", "ordered_list_open"):
                self._lists += 1
            elif kind in ("bullet_list_close", "ordered_list_close"):
                self._close_list()
            elif kind == "list_item_open":
                self._fresh_item = True
            elif kind == "table_open":
                self._rows = []
            elif kind == "tr_open" and self._rows is not None:
                self._rows.append([])
            elif kind == "table_close":
                self._close_table()
            elif kind == "inline":
                self._inline(token, heading)
            elif kind in ("fence", "code_block"):
                self._code(token.content)
            elif kind == "html_block":
                self._html(token.content)

    def _inline(self, token: Token, heading: int) -> None:
        text = inline_text(token.children or (), self._styles)
        if self._rows is not None:
            self._rows[-1].append(text)
        elif heading and not self._lists:
            self._draft.heading(heading, _ANCHOR.sub("", text))
        elif self._lists:
            self._item(text)
        else:
            self._draft.add(_CALLOUT.sub("", text))

    def _item(self, text: str) -> None:
        text = clean(text).text.replace("\n", " ")
        if not text:
            return
        self._lines.append(f"- {text}" if self._fresh_item else text)
        self._fresh_item = False

    def _code(self, content: str) -> None:
        if self._lists:
            self._lines.extend(clean(content).text.splitlines())
        else:
            self._draft.add(content, "code")

    def _html(self, content: str) -> None:
        if self._lists:
            self._item(visible_text(self._styles + strip_templates(content)))
        else:
            fill_fragment(self._draft, self._styles + strip_templates(content))

    def _close_list(self) -> None:
        self._lists -= 1
        if not self._lists:
            lines, self._lines = self._lines, []
            self._draft.add("\n".join(lines), "list")

    def _close_table(self) -> None:
        rows, self._rows = self._rows or [], None
        if self._lists:
            self._lines.extend(" | ".join(row) for row in rows)
        else:
            self._draft.table(rows)


def _seen(draft: Draft, tokens: Sequence[Token], body: str) -> list[Token]:
    """The tokens without those that hidden HTML reaches around, such as paragraphs between two tags.

    The document is written as a page in which a mark stands before each token's text; where the mark is not seen, nor
    is the text. The mark's name is a hash of the document, so that no document can hold it.
    """
    mark = f"m-{hashlib.blake2b(body.encode(errors='replace'), digest_size=8).hexdigest()}"
    page: list[str] = []
    for n, token in enumerate(tokens):
        before, after = (f"<{mark} n='{n}{side}'>x</{mark}>" for side in "ab")
        if token.type == "inline":
            page.append(before + _as_html(token.children or ()))
        elif token.type in ("fence", "code_block"):
            page.append(before + entities.escape(token.content))
        elif token.type == "html_block":
            page.append(before + strip_templates(token.content) + after)
        elif token.tag:
            page.append(f"<{token.tag}>" if token.nesting >= 0 else f"</{token.tag}>")
    shown = {str(tag["n"]) for tag in tell_hidden(draft, "".join(page)).find_all(mark) if tag.get_text().strip()}
    marked = ("inline", "fence", "code_block", "html_block")
    return [
        _emptied(token) if token.type in marked and not {f"{n}a", f"{n}b"} & shown else token
        for n, token in enumerate(tokens)
    ]


def _emptied(token: Token) -> Token:
    return token.copy(content="", children=[])


def _as_html(tokens: Sequence[Token]) -> str:
    parts = [token.content if token.type == "html_inline" else entities.escape(token.content) for token in tokens]
    return "".join(part if token.type != "image" else "" for part, token in zip(parts, tokens, strict=True))


def _is_marked(tokens: Sequence[Token]) -> bool:
    return any(token.type == "html_inline" for token in tokens)


def inline_text(tokens: Sequence[Token], styles: str = "") -> str:
    """The visible text of inline tokens: no emphasis, no images, no markup; the text of links."""
    marked = _is_marked(tokens)
    parts: list[str] = []
    for token in tokens:
        if token.type in ("text", "code_inline"):
            parts.append(entities.escape(token.content) if marked else token.content)
        elif token.type == "softbreak":
            parts.append(" ")
        elif token.type == "hardbreak":
            parts.append("<br>" if marked else "\n")
        elif token.type == "html_inline":
            parts.append(token.content)
    text = "".join(parts)
    # Inline HTML can hide text between its tags, so it is read as HTML and not merely stripped.
    return strip_templates(visible_text(styles + text) if marked else text).strip()
