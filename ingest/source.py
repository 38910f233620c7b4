"""Where documents come from: the files under a path, their ids, their bytes."""

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ingest.metadata import FOLDER_FILE, SIDECAR_ENDING
from ingest.readers import READABLE
from tandem.errors import DocumentError, InputError

_MAX_ID = 1024


@dataclass(frozen=True)
class Found:
    """A file that should be a document; `refused` when that is known already."""

    id: str
    path: Path
    refused: DocumentError | None = None


@dataclass(frozen=True)
class Source:
    """A path that is ingested.

    Attributes:
        root: What its documents are stored under: the ingested folder, or the file itself.
        base: The folder that metadata are inherited from and that no link may leave.
        within: What it covers of the root: an id prefix ending in `/`, or empty for all.
        is_folder: A folder is synced: what is gone from it is deleted. A file is only added or updated.
        files: In the order of their ids.
        unseen: Id prefixes of folders that could not be listed; nothing below them counts as gone.
    """

    root: str
    base: Path
    within: str
    is_folder: bool
    files: tuple[Found, ...]
    unseen: tuple[str, ...] = ()


def locate(path: Path, known_roots: Iterable[str]) -> Source:
    """Finds the documents at a path.

    Args:
        path: A folder or a file.
        known_roots: Roots ingested before; a path inside one of them belongs to it.

    Raises:
        InputError: It does not exist, or holds no file at all.
    """
    try:
        path = path.expanduser().resolve(strict=True)
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as exc:
        raise InputError(f"{str(path)!r} does not exist or cannot be opened. Check the path.", param="path") from exc
    enclosing = [Path(root) for root in known_roots if root and Path(root) != path and path.is_relative_to(root)]
    base = min((root for root in enclosing if root.is_dir()), key=lambda root: len(root.parts), default=None)
    if not is_folder:
        folder = base or path.parent
        found = _found(path, folder)
        return Source(str(base or path), folder, "", False, (found,))
    if base is not None and any(part.startswith(".") for part in path.relative_to(base).parts):
        base = None  # hidden folders are no part of the root around them
    root = base or path
    within = "" if root == path else path.relative_to(root).as_posix() + "/"
    unseen: list[str] = []
    files = tuple(sorted(_walk(path, root, unseen), key=lambda found: found.id))
    if not files:
        raise InputError(
            f"The folder {str(path)!r} holds no documents. Put {READABLE} files into it; "
            "to remove documents that were in it, use `tandem documents delete`.",
            param="path",
        )
    return Source(str(root), root, within, True, files, tuple(unseen))


def outermost(paths: Iterable[Path]) -> list[Path]:
    """The paths without those named twice, and without those that a folder among them covers anyway."""
    chosen = list(dict.fromkeys(path.expanduser().resolve() for path in paths))
    return [path for path in chosen if not any(_covers(folder, path) for folder in chosen)]


def _covers(folder: Path, path: Path) -> bool:
    if folder == path or not path.is_relative_to(folder):
        return False
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def read_bytes(found: Found, base: Path, max_bytes: int) -> bytes:
    """The bytes of a file, if it is one, is inside `base` and is not too large.

    Raises:
        DocumentError: `hostile` for links that lead out of `base`, `unreadable`, `too_large`.
    """
    try:
        path, base = found.path.resolve(strict=True), base.resolve()
        if not path.is_relative_to(base):
            raise DocumentError(
                "hostile", f"It is a link that leads out of {base.name!r}. Put a copy of the file in its place."
            )
        handle = _open_below(base, path.relative_to(base).parts)
    except (OSError, RuntimeError) as exc:
        why = getattr(exc, "strerror", None) or "a link in it leads in a circle"
        raise DocumentError("unreadable", f"It cannot be opened ({why}). Check its permissions.") from exc
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError("unreadable", "It is not a plain file. Remove it from the folder.")
        if status.st_size > max_bytes:
            raise DocumentError(
                "too_large",
                f"It has {status.st_size} bytes; the limit is {max_bytes}. "
                f"Split it, or raise TANDEM_INGEST__MAX_FILE_BYTES.",
            )
        with os.fdopen(handle, "rb", closefd=False) as stream:
            return stream.read(max_bytes + 1)[:max_bytes]
    except OSError as exc:
        raise DocumentError("unreadable", f"It cannot be read ({exc.strerror}). Check the disk.") from exc
    finally:
        os.close(handle)


def _open_below(base: Path, parts: Sequence[str]) -> int:
    """Opens a file folder by folder and follows no link: one may have been put there since the path was resolved."""
    # Without O_NONBLOCK a named pipe would wait for a writer for ever.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(base, flags | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, flags | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)


def upload_id(name: str) -> str:
    """The id of an uploaded document, from the name it is uploaded under.

    Raises:
        InputError: The name is a path out of where it belongs, hidden, or no name.
    """
    name = unicodedata.normalize("NFC", name)
    parts = name.split("/")
    bad = (
        not name
        or len(name) > _MAX_ID
        or "\\" in name
        or any(not part or part.startswith(".") or part != part.strip() for part in parts)
        or any(unicodedata.category(c).startswith("C") for c in name)
    )
    if bad:
        raise InputError(
            f"A document cannot be named {name[:80]!r}. Use a relative name such as policies/travel.md.", param="name"
        )
    return name


def is_document(name: str) -> bool:
    """Whether a file of this name is meant to be a document: not hidden, not metadata."""
    # Word processors leave lock files that begin with ~$ beside an open document.
    return not name.startswith((".", "~$")) and name != FOLDER_FILE and not name.endswith(SIDECAR_ENDING)


def _walk(folder: Path, base: Path, unseen: list[str]) -> Iterator[Found]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as exc:
        if folder == base:
            raise InputError(f"The folder {str(folder)!r} cannot be listed: {exc.strerror}.", param="path") from exc
        unseen.append(folder.relative_to(base).as_posix() + "/")
        refusal = DocumentError("unreadable", f"The folder cannot be listed ({exc.strerror}). Check its permissions.")
        yield Found(_id(folder, base), folder, refusal)
        return
    for entry in entries:
        path = folder / entry.name
        if not is_document(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path, base, unseen)
        elif entry.is_symlink() and path.is_dir():
            if not path.resolve().is_relative_to(base.resolve()):
                refusal = DocumentError(
                    "hostile", "It is a link to a folder outside. Ingest that folder by its own path."
                )
                yield Found(_id(path, base), path, refusal)
            # A link to a folder inside shows documents that are there already.
        else:
            yield _found(path, base)


def _found(path: Path, base: Path) -> Found:
    id = _id(path, base)
    if len(id) > _MAX_ID or any(unicodedata.category(c) in ("Cc", "Cs") for c in id):
        shown = id.encode("utf-8", "backslashreplace").decode()[:200]
        refusal = DocumentError("unreadable", "Its name holds unprintable characters or is too long. Rename it.")
        return Found("".join(c if c.isprintable() else "?" for c in shown), path, refusal)
    return Found(id, path)


def _id(path: Path, base: Path) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(path.relative_to(base)).as_posix())
