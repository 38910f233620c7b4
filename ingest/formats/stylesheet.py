"""The declarations of a page's own style sheets that decide whether text is seen, matched to its elements."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cssselect2
import soupsieve
import tinycss2
from bs4 import BeautifulSoup
from bs4.element import Tag
from tinycss2.color4 import parse_color

# What can hide text, or shows it again.
_DECIDING = frozenset(
    """display visibility opacity filter color -webkit-text-fill-color background background-color background-image
    font font-size position left right top bottom text-indent margin-left margin-top clip clip-path width height
    max-width max-height overflow overflow-x overflow-y transform content-visibility""".split()
)
_MEDIA = frozenset(["", "all", "screen", "only screen", "all, screen", "screen, print", "print, screen"])
_MAX_DEPTH = 10
_MAX_CSS = 3_000_000
# Beyond so many tries, no page of text but an attack on the reader: the rules left are not looked at, and it is said.
_MAX_MATCHES = 120_000
_Weight = tuple[bool, bool, tuple[int, int, int], int]
Declarations = dict[str, str]


@dataclass(frozen=True)
class _Rule:
    """One selector and the declarations it brings."""

    selector: str
    specificity: tuple[int, int, int]
    key: tuple[str, str]
    declarations: tuple[tuple[str, str, bool], ...]


class Styles:
    """What each element of a page is told by its style sheets and its own `style`, as far as it decides on sight.

    Attributes:
        cut_short: The sheets hold more rules than are looked at.
    """

    def __init__(self, soup: BeautifulSoup) -> None:
        self._found: dict[int, dict[str, tuple[_Weight, str]]] = defaultdict(dict)
        sheets = soup.find_all("style")
        self.cut_short = any(len(sheet.string or "") > _MAX_CSS for sheet in sheets)
        rules = [rule for sheet in sheets for rule in _sheet_rules(sheet)]
        if rules:
            self._match(soup, rules)

    def of(self, element: Tag) -> Declarations:
        """Values by property, in lower case."""
        own = str(element.get("style", ""))
        found = self._found.get(id(element))
        if not own:
            return {name: value for name, (_, value) in found.items()} if found else {}
        merged = dict(found or {})
        for n, (name, value, important) in enumerate(_declarations(tinycss2.parse_blocks_contents(own))):
            _put(merged, name, value, (important, True, (0, 0, 0), n))
        return {name: value for name, (_, value) in merged.items()}

    def _match(self, soup: BeautifulSoup, rules: list[_Rule]) -> None:
        index: dict[tuple[str, str], list[Tag]] = defaultdict(list)
        for element in soup.find_all(True):
            index["", ""].append(element)
            index["tag", element.name].append(element)
            index["id", str(element.get("id", ""))].append(element)
            for name in element.get_attribute_list("class"):
                index["class", str(name)].append(element)
        left = _MAX_MATCHES
        for n, rule in enumerate(rules):
            candidates = index.get(rule.key, [])
            left -= len(candidates)
            self.cut_short = self.cut_short or left < 0
            if not candidates or left < 0:
                continue
            with contextlib.suppress(soupsieve.SelectorSyntaxError, ValueError, RecursionError):
                selector = soupsieve.compile(rule.selector)
                for element in candidates:
                    if selector.match(element):
                        for name, value, important in rule.declarations:
                            _put(self._found[id(element)], name, value, (important, False, rule.specificity, n))


def _put(found: dict[str, tuple[_Weight, str]], name: str, value: str, weight: _Weight) -> None:
    if name not in found or found[name][0] <= weight:
        found[name] = (weight, value)


def _sheet_rules(sheet: Tag) -> Iterator[_Rule]:
    text = sheet.string or ""
    if str(sheet.get("media", "")).strip().lower() in _MEDIA and len(text) <= _MAX_CSS:
        yield from _rules(tinycss2.parse_stylesheet(text, skip_comments=True, skip_whitespace=True), 0)


def _rules(nodes: list[Any], depth: int) -> Iterator[_Rule]:
    for node in nodes if depth < _MAX_DEPTH else ():
        if node.type == "qualified-rule":
            yield from _qualified(node)
        elif node.type == "at-rule" and node.content is not None:
            condition = tinycss2.serialize(node.prelude).strip().lower()
            if node.lower_at_keyword in ("layer", "supports") or (
                node.lower_at_keyword == "media" and condition in _MEDIA
            ):
                yield from _rules(tinycss2.parse_rule_list(node.content, True, True), depth + 1)


def _qualified(rule: Any) -> Iterator[_Rule]:
    declarations = tuple(_declarations(tinycss2.parse_blocks_contents(rule.content)))
    if not declarations:
        return
    for tokens in _parted(rule.prelude):
        with contextlib.suppress(cssselect2.SelectorError):
            for compiled in cssselect2.compile_selector_list(tokens):
                if compiled.pseudo_element is None and not compiled.never_matches:
                    yield _Rule(tinycss2.serialize(tokens).strip(), compiled.specificity, _key(compiled), declarations)


def _parted(prelude: list[Any]) -> Iterator[list[Any]]:
    """The selectors of a list, at its commas."""
    part: list[Any] = []
    for token in prelude:
        if token == ",":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def _key(selector: Any) -> tuple[str, str]:
    if selector.id:
        return "id", selector.id
    if selector.class_name:
        return "class", selector.class_name
    return ("tag", selector.lower_local_name) if selector.local_name else ("", "")


def _declarations(nodes: list[Any]) -> Iterator[tuple[str, str, bool]]:
    for node in nodes:
        if node.type != "declaration" or node.lower_name not in _DECIDING:
            continue
        if node.lower_name == "background":
            image = any(token.type in ("url", "function") and not parse_color(token) for token in node.value)
            colours = [token for token in node.value if parse_color(token)]
            yield "background-image", "url" if image else "none", node.important
            yield "background-color", _text(colours[:1]) or "transparent", node.important
        elif node.lower_name == "font":
            sizes = [token for token in node.value if token.type in ("dimension", "percentage", "number")]
            # A weight such as 700 stands before the size, which has a unit or is naught.
            sizes = [token for token in sizes if token.type != "number" or token.value == 0]
            if sizes:
                yield "font-size", _text(sizes[:1]), node.important
        else:
            yield node.lower_name, _text(node.value), node.important


def _text(tokens: list[Any]) -> str:
    return str(tinycss2.serialize(tokens)).strip().lower()
