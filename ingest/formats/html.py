"""HTML into blocks: the main text with headings, lists and tables; nothing that a browser would not show."""

import re
import warnings
from collections.abc import Iterator

from bs4 import BeautifulSoup
from bs4.element import Comment, NavigableString, PageElement, PreformattedString, Tag

from ingest.formats.cleaning import clean
from ingest.formats.markup import check_markup
from ingest.formats.visibility import Removed, remove_hidden
from ingest.readers import Draft, FormatReader
from tandem.errors import DocumentError

_UNSEEN = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "head",
        "title",
        "meta",
        "link",
        "iframe",
        "object",
        "embed",
        "applet",
        "svg",
        "math",
        "canvas",
        "audio",
        "video",
        "map",
        "datalist",
        "select",
        "option",
        "textarea",
        "input",
        "button",
        "dialog",
    ]
)
# Around the text rather than in it; taken out only when text remains without them.
_FURNITURE = frozenset(["nav", "footer", "aside", "form"])
_BLOCK = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hgroup",
        "hr",
        "html",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "ul",
        "caption",
    ]
)
_HEADING = re.compile(r"h[1-6]$")
_MAX_DEPTH = 200


class HtmlReader(FormatReader):
    """HTML pages. The page's `main` or only `article` is read where it has one, else the body without its furniture."""

    def fill(self, draft: Draft, data: bytes) -> None:
        if not data.strip():
            return
        check_markup(data, self._limits)
        soup = parse(data)
        for element in soup.find_all("title", limit=1):
            draft.title = clean(element.get_text(" ")).text.replace("\n", " ")
        hidden = remove_hidden(soup)
        root = _main(soup)
        _tell(draft, hidden, root)
        _Walker(draft, skip=_FURNITURE).walk(root)


def parse(data: bytes | str) -> BeautifulSoup:
    """Parses HTML, however broken.

    Raises:
        DocumentError: `corrupt`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XHTML and texts that look like file names: remarks for programmers
        try:
            return BeautifulSoup(data, "lxml")
        except (RecursionError, ValueError, AssertionError) as exc:
            raise DocumentError(
                "corrupt", f"Its HTML cannot be parsed ({type(exc).__name__}). Save the page again."
            ) from exc


def fill_fragment(draft: Draft, html: str) -> None:
    """Adds the visible text of an HTML fragment, such as Markdown carries."""
    if "<" in html:
        soup = parse(html)
        remove_hidden(soup)
        _Walker(draft, skip=frozenset()).walk(soup)
    else:
        draft.add(html)


def visible_text(html: str) -> str:
    """The visible text of inline HTML as one line."""
    soup = parse(html)
    remove_hidden(soup)
    return _inline_text(soup, 0)


def tell_hidden(draft: Draft, html: str) -> BeautifulSoup:
    """Tells `draft` of what is hidden in a page, and gives back the page without it."""
    soup = parse(html)
    _tell(draft, remove_hidden(soup), soup)
    return soup


def _tell(draft: Draft, hidden: Removed, root: Tag) -> None:
    """Tells of what was hidden in the text itself; what is hidden in a menu would not have been read anyway."""
    if hidden.cut_short:
        draft.warn("its style sheets are too long to be looked through, so hidden text may have stayed in it.")
    for passage in hidden.passages:
        around = [passage.parent, *passage.parent.parents]
        names = {tag.name for tag in around}
        if any(tag is root for tag in around) and not names & (_UNSEEN | _FURNITURE):
            draft.leave_out(passage.technique, passage.text)


def _main(soup: BeautifulSoup) -> Tag:
    for selector in ("main", "[role=main]", "article"):
        found = soup.select(selector)
        if len(found) == 1 and len(found[0].get_text(strip=True)) > 0:
            return found[0]
    return soup.body or soup


class _Walker:
    """Goes through the elements once, collecting loose text into paragraphs until a block element ends them."""

    def __init__(self, draft: Draft, skip: frozenset[str]) -> None:
        self._draft = draft
        self._skip = skip
        self._loose: list[str] = []

    def walk(self, root: Tag) -> None:
        self._children(root, 0)
        self._flush()

    def _children(self, element: Tag, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise DocumentError(
                "hostile", f"Its elements are nested more than {_MAX_DEPTH} deep. Save the page as plain text."
            )
        for child in element.children:
            if isinstance(child, Tag):
                self._element(child, depth + 1)
            else:
                self._loose.append(_string(child))

    def _element(self, element: Tag, depth: int) -> None:
        name = element.name
        if name in _UNSEEN or name in self._skip:
            return
        if name == "br":
            self._loose.append("\n")
        elif _HEADING.match(name):
            self._flush()
            self._draft.heading(int(name[1]), _inline_text(element, depth))
        elif name in ("ul", "ol", "dl"):
            self._flush()
            self._draft.add("\n".join(_items(element, depth)), "list")
        elif name == "table":
            self._flush()
            self._table(element, depth)
        elif name == "pre":
            self._flush()
            self._draft.add(element.get_text(), "code")
        elif name in _BLOCK:
            self._flush()
            self._children(element, depth)
            self._flush()
        elif element.find(lambda tag: tag.name in _BLOCK or bool(_HEADING.match(tag.name))) is not None:
            self._children(element, depth)  # an inline element around blocks, which browsers allow
        else:
            self._loose.append(_inline_text(element, depth, strip=False))

    def _table(self, element: Tag, depth: int) -> None:
        rows = [row for row in element.find_all("tr") if row.find_parent("table") is element]
        cells = [row.find_all(["td", "th"], recursive=False) for row in rows]
        nested = element.find(["table", "p", "ul", "ol", "h1", "h2", "h3"]) is not None
        if nested and max((len(row) for row in cells), default=0) <= 2 and element.find("th") is None:
            for row in cells:  # a table for layout: its cells are the page's columns
                for cell in row:
                    self._children(cell, depth + 1)
                    self._flush()
            return
        caption = element.find("caption")
        if isinstance(caption, Tag):
            self._draft.add(_inline_text(caption, depth))
        self._draft.table([[_inline_text(cell, depth) for cell in row] for row in cells])

    def _flush(self) -> None:
        text, self._loose = "".join(self._loose), []
        self._draft.add(text)


def _items(element: Tag, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise DocumentError(
            "hostile", f"Its lists are nested more than {_MAX_DEPTH} deep. Save the page as plain text."
        )
    for item in element.find_all(True, recursive=False):
        if item.name in _UNSEEN:
            continue
        if item.name in ("ul", "ol", "dl"):
            yield from _items(item, depth + 1)
            continue
        inner = [sub for sub in item.find_all(["ul", "ol", "dl"]) if sub.find_parent(["ul", "ol", "dl"]) is element]
        text = clean(_inline_text(item, depth, without=inner)).text.replace("\n", " ")
        if text:
            yield f"- {text}"
        for sub in inner:
            yield from _items(sub, depth + 1)


def _inline_text(element: Tag, depth: int, *, strip: bool = True, without: list[Tag] | None = None) -> str:
    """Visible text below `element`, without recursion; block elements inside are set off by spaces."""
    out: list[str] = []
    barred = {id(tag) for tag in without or ()}
    stack: list[PageElement | str] = list(reversed(list(element.children)))
    while stack:
        node = stack.pop()
        if isinstance(node, str) and not isinstance(node, NavigableString):
            out.append(node)
        elif isinstance(node, Tag):
            if id(node) in barred or node.name in _UNSEEN:
                continue
            if node.name == "br":
                out.append("\n")
            block = node.name in _BLOCK
            stack.extend([" "] if block else [])
            stack.extend(reversed(list(node.children)))
            if block:
                out.append(" ")
        else:
            out.append(_string(node))
    text = "".join(out)
    return text.strip() if strip else text


def _string(node: PageElement) -> str:
    if not isinstance(node, NavigableString) or isinstance(node, (Comment, PreformattedString)):
        return ""  # comments, doctypes, processing instructions
    return re.sub(r"\s+", " ", str(node))
