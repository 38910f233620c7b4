"""What is said about a document: front matter, the sidecar `NAME.meta.yaml`, the folders' `_folder.yaml`.

It decides who may read a document, so whatever cannot be understood refuses the document rather than being passed over.
"""

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tandem.errors import DocumentError
from tandem.schemas import Metadata

FOLDER_FILE = "_folder.yaml"
SIDECAR_ENDING = ".meta.yaml"
FIELDS = frozenset(Metadata.model_fields)
# A folder speaks for many documents, and a title names one.
FOLDER_FIELDS = FIELDS - {"title"}
# A misspelt one of these would open a document, or put it into force on the wrong day, without a word.
_SENSITIVE = ("groups", "effective_from", "effective_until")
_MAX_YAML_CHARS = 65_536
_GROUP = re.compile(r"[\w.@:/+ -]{1,128}")
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n|\A)(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)

Declared = Mapping[str, Any]


@dataclass(frozen=True)
class FrontMatter:
    """The YAML between the two `---` lines at the head of a Markdown file (empty where there is none), and the rest."""

    yaml: str
    body: str


def split_front_matter(text: str) -> FrontMatter:
    """Splits the front matter from the body. A file that only opens with a ruler has none."""
    if not text.lstrip("\ufeff").startswith("---"):
        return FrontMatter("", text)
    text = text.lstrip("\ufeff")
    if re.match(r"---[ \t]*\r?\n---[ \t]*(?:\r?\n|\Z)", text):
        return FrontMatter("", text.split("\n", 2)[2] if text.count("\n") > 1 else "")
    match = _FRONT.match(text)
    if match is None or not re.search(r"^[\w-]+[ \t]*:", match.group(1), re.MULTILINE):
        return FrontMatter("", text)
    return FrontMatter(match.group(1), text[match.end() :])


def front_matter_of(name: str, data: bytes) -> Declared:
    """The fields in the front matter of a Markdown file; nothing for other formats.

    Raises:
        DocumentError: `metadata`.
    """
    if (
        PurePosixPath(name).suffix.lower() not in (".md", ".markdown")
        or not data[:3].strip(b"\xef\xbb\xbf") + data[3:4]
    ):
        return {}
    front = split_front_matter(data.decode("utf-8", errors="replace"))
    return _fields(front.yaml, f"the front matter of {PurePosixPath(name).name!r}", FIELDS) if front.yaml else {}


class FolderMetadata:
    """The metadata files of one ingested root. Each is read once.

    Args:
        root: The folder whose documents' ids are relative to it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Path, Declared] = {}

    def declared(self, file: Path) -> tuple[Declared, Declared]:
        """What the sidecar of `file` says, and what its folders say, the nearest winning field by field.

        Raises:
            DocumentError: `metadata`.
        """
        return self._sidecar(file), self._folder(file.parent)

    def _sidecar(self, file: Path) -> Declared:
        return _read_fields(file.with_name(file.name + SIDECAR_ENDING), FIELDS)

    def _folder(self, folder: Path) -> Declared:
        if folder not in self._folders:
            inside = folder != self._root and folder.is_relative_to(self._root)
            outer = self._folder(folder.parent) if inside else {}
            self._folders[folder] = {**outer, **_read_fields(folder / FOLDER_FILE, FOLDER_FIELDS)}
        return self._folders[folder]


def resolve(
    name: str, front: Declared, sidecar: Declared, folder: Declared, default_groups: tuple[str, ...] | None
) -> Metadata:
    """Puts together what front matter, sidecar and folders declare.

    Args:
        name: The document, for the sentence of an error.
        front: Fields of the front matter.
        sidecar: Fields of the sidecar; front matter and sidecar may not contradict each other.
        folder: Inherited fields, for what neither says.
        default_groups: Groups where nobody names any; None leaves the document to admins.

    Raises:
        DocumentError: `metadata`.
    """
    for field in front.keys() & sidecar.keys():
        if front[field] != sidecar[field]:
            raise DocumentError(
                "metadata",
                f"The front matter of {name!r} says {field}: {_show(front[field])}, its {SIDECAR_ENDING} file says "
                f"{_show(sidecar[field])}. Keep one of them.",
            )
    merged: dict[str, Any] = {**folder, **sidecar, **front}
    if merged.get("groups") is None:
        merged["groups"] = default_groups
    start, end = merged.get("effective_from"), merged.get("effective_until")
    if start and end and end <= start:
        raise DocumentError(
            "metadata",
            f"{name!r} ends on {end} before it begins on {start}: effective_until must be later than effective_from.",
        )
    return Metadata(**merged)


def metadata_hash(metadata: Metadata) -> str:
    """SHA-256 over the declared metadata."""
    return hashlib.sha256(metadata.model_dump_json().encode()).hexdigest()


def _read_fields(path: Path, allowed: frozenset[str]) -> Declared:
    try:
        if not path.exists() and not path.is_symlink():
            return {}
        if not path.is_file() or path.is_symlink():
            raise DocumentError(
                "metadata", f"{path.name!r} in {path.parent.name!r} is not a plain file. Replace it by one."
            )
        if path.stat().st_size > _MAX_YAML_CHARS:
            raise DocumentError(
                "metadata", f"{path.name!r} is larger than 64 KiB. Metadata are a few lines; shorten it."
            )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DocumentError(
            "metadata", f"{path.name!r} cannot be read ({exc.__class__.__name__}). Make it readable, UTF-8 YAML."
        ) from exc
    return _fields(text, repr(path.name), allowed)


class _PlainLoader(yaml.CSafeLoader):
    """Safe YAML without repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated is not None:
            raise yaml.YAMLError(f"it names {repeated!r} twice")
        return super().construct_mapping(node, deep)


def _fields(text: str, where: str, allowed: frozenset[str]) -> Declared:
    if len(text) > _MAX_YAML_CHARS:
        raise DocumentError("metadata", f"{_start(where)} is larger than 64 KiB. Metadata are a few lines; shorten it.")
    try:
        # A few aliases can expand to gigabytes.
        if any(isinstance(event, yaml.events.AliasEvent) for event in yaml.parse(text, Loader=yaml.CSafeLoader)):
            raise yaml.YAMLError("it uses an alias (*name), which metadata may not")
        # Subclass of CSafeLoader: constructs plain values only.
        found = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        problem = str(getattr(exc, "problem", None) or exc).splitlines()[0]
        mark = getattr(exc, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise DocumentError("metadata", f"{_start(where)} is not YAML{line}: {problem}. Correct it there.") from exc
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise DocumentError("metadata", f"{_start(where)} must hold lines such as `groups: [everyone]`.")
    for key in found:
        _check_spelling(str(key), where)
    return {key: _value(key, found[key], where) for key in found if key in allowed and found[key] is not None}


def _check_spelling(key: str, where: str) -> None:
    folded = unicodedata.normalize("NFKC", key).casefold().replace("-", "_").replace(" ", "_")
    near = difflib.get_close_matches(folded, _SENSITIVE, n=1, cutoff=0.8)
    if key not in _SENSITIVE and near:
        raise DocumentError("metadata", f"{_start(where)} says {key!r}; write {near[0]!r}.")


def _value(key: str, value: Any, where: str) -> Any:
    if key == "groups":
        return _groups(value, where)
    if key in ("effective_from", "effective_until"):
        return _date(key, value, where)
    if isinstance(value, (dict, list)):
        raise DocumentError("metadata", f"{_start(where)} says {key}: {_show(value)}; write one line of text.")
    return " ".join(str(value).split())


def _groups(value: Any, where: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and _GROUP.fullmatch(name) for name in names):
        raise DocumentError(
            "metadata",
            f"{_start(where)} says groups: {_show(value)}; write a list of names such as [everyone] or [hr].",
        )
    return tuple(sorted(set(names)))


def _date(key: str, value: Any, where: str) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value).strip())
    except ValueError as exc:
        raise DocumentError(
            "metadata", f"{_start(where)} says {key}: {_show(value)}; write a day such as 2026-03-01."
        ) from exc


def _show(value: Any) -> str:
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _start(where: str) -> str:
    return where[0].upper() + where[1:]
