"""Zip packages (DOCX, PPTX, XLSX, ODT) looked through before a library opens them: bombs, locks and tricks.

The declared size of an entry bounds what can be read of it (`zipfile` stops there), so the sum is known before
anything is unpacked. Then each XML part is run through a parser that builds nothing: that is where its depth and its
tags are counted, and a document type, the home of entity bombs and of references to other files, is found in
whatever encoding.
"""

import contextlib
import io
import stat
import zipfile
import zlib
from xml.parsers import expat

from lxml import etree  # type: ignore[import-untyped]

from ingest.formats.limits import Limits
from tandem.errors import DocumentError

_MAX_ENTRIES = 5_000
_MAX_EXPANDED = 200_000_000
_MAX_XML = 40_000_000
# Small files may grow many times: an empty spreadsheet is mostly zeros.
_HARMLESS = 10_000_000
_STRICT = b"http://purl.oclc.org/ooxml/"
_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_BINARY_OFFICE = tuple(name.encode("utf-16-le") for name in ("WordDocument", "Workbook", "PowerPoint Document"))
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, KeyError)
_BOMB = "It expands from {size} to {expanded} bytes, like a zip bomb. Save it again from its source."


def open_package(data: bytes, kind: str, limits: Limits, weight: int = 1) -> "Package":
    """Looks a package through.

    Args:
        data: The file.
        kind: What it is called, such as `DOCX`.
        limits: What it may grow to.
        weight: How much longer than usual its reader takes for an element.

    Raises:
        DocumentError: `encrypted`, `unsupported`, `corrupt`, `too_large` or `hostile`.
    """
    _check_container(data, kind)
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except _BROKEN as exc:
        raise _corrupt(kind, exc) from exc
    survey = _Survey(len(data), limits)
    survey.add(archive.infolist(), 0)
    scan = _XmlScan(limits, weight)
    for entry in archive.infolist():
        with contextlib.suppress(*_BROKEN):  # a part that nobody needs may be broken; one that is needed is found out
            _look_into(archive, entry, survey, scan)
    package = Package(archive, kind)
    if "_rels/.rels" in package and _STRICT in package.read("_rels/.rels"):
        raise DocumentError("unsupported", f"It is saved as Strict Open XML. Save it as an ordinary {kind}.")
    return package


class Package:
    """A package that was looked through: its parts.

    Args:
        archive: The open archive.
        kind: What it is called, such as `DOCX`.
    """

    def __init__(self, archive: zipfile.ZipFile, kind: str) -> None:
        self._archive = archive
        self._kind = kind

    def read(self, name: str) -> bytes:
        """The bytes of a part.

        Raises:
            DocumentError: `corrupt` when it is missing or broken.
        """
        try:
            return self._archive.read(name)
        except _BROKEN as exc:
            raise _corrupt(self._kind, exc) from exc

    def xml(self, name: str) -> etree._Element:
        """The root element of a part. Entities stay unresolved, nothing is fetched."""
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
        try:
            return etree.fromstring(self.read(name), parser)
        except etree.XMLSyntaxError as exc:
            raise _corrupt(self._kind, exc) from exc

    def __contains__(self, name: str) -> bool:
        return name in self._archive.NameToInfo


def _look_into(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, survey: "_Survey", scan: "_XmlScan") -> None:
    with archive.open(entry) as part:
        head = part.read(64)
        if head.startswith(_ZIP):
            survey.nested(head + part.read(), 1)
        elif _is_xml(head) and not _is_picture(entry.filename):
            scan.check_size(entry.file_size)
            scan.add(entry.filename, head + part.read())


def _corrupt(kind: str, exc: Exception) -> DocumentError:
    return DocumentError(
        "corrupt", f"It cannot be read as {kind} ({type(exc).__name__}). Open it in its program and save it again."
    )


class _Survey:
    """Adds up what a package, and the packages in it, would expand to."""

    def __init__(self, size: int, limits: Limits) -> None:
        self._size = size
        self._limits = limits
        self._entries = 0
        self._expanded = 0

    def add(self, entries: list[zipfile.ZipInfo], depth: int) -> None:
        self._entries += len(entries)
        self._expanded += sum(entry.file_size for entry in entries)
        most = min(_MAX_EXPANDED, max(self._limits.max_expansion * self._size, _HARMLESS))
        if self._entries > _MAX_ENTRIES:
            raise _too_many_parts()
        if self._expanded > most:
            raise DocumentError("hostile", _BOMB.format(size=self._size, expanded=self._expanded))
        if sum(entry.compress_size for entry in entries) > self._size and depth == 0:
            raise DocumentError("hostile", "Its parts overlap, like a zip bomb's. Save it again from its source.")
        for entry in entries:
            if ".." in entry.filename.replace("\\", "/").split("/") or stat.S_ISLNK(entry.external_attr >> 16):
                name = entry.filename[:80]
                raise DocumentError("hostile", f"Its part {name!r} points outside. Save it again from its source.")
            if entry.flag_bits & 1 and depth == 0:
                raise DocumentError("encrypted", "It is encrypted. Save it without a password and ingest it again.")

    def nested(self, data: bytes, depth: int) -> None:
        """Looks into a package that is a part of a package; what is none after all is left alone."""
        if depth > self._limits.max_nesting:
            raise DocumentError(
                "hostile",
                f"Packages are nested in it more than {depth - 1} deep. Take the embedded files out and save it again.",
            )
        _check_entries(data)
        try:
            inner = zipfile.ZipFile(io.BytesIO(data))
        except _BROKEN:
            return
        with inner:
            self.add(inner.infolist(), depth)
            for entry in inner.infolist():
                try:
                    content = _packed(inner, entry)
                except _BROKEN:
                    continue
                if content:
                    self.nested(content, depth + 1)


class _XmlScan:
    """Counts the tags of all parts, and their depth in each."""

    def __init__(self, limits: Limits, weight: int) -> None:
        self._limits = limits
        self._most = limits.max_elements // weight
        self._elements = 0
        self._size = 0
        self._depth = 0
        self._name = ""

    def check_size(self, size: int) -> None:
        self._size += size
        if self._size > _MAX_XML:
            raise self._too_large(f"takes more than {_MAX_XML} bytes")

    def add(self, name: str, data: bytes) -> None:
        """Looks through a part; one that is broken to where it breaks, which its reader will find out too."""
        self._name = name
        self._depth = 0
        if data.count(b"<") > 2 * self._most:  # a start and an end; this is far sooner known than the exact number
            raise self._too_many()
        parser = expat.ParserCreate()
        parser.ordered_attributes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._doctype
        with contextlib.suppress(expat.ExpatError):
            parser.Parse(data, True)

    def _start(self, _name: str, _attributes: list[str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > self._limits.max_depth:
            raise DocumentError(
                "hostile",
                f"Its elements are nested more than {self._limits.max_depth} deep. Save it in a simpler form.",
            )
        if self._elements > self._most:
            raise self._too_many()

    def _end(self, _name: str) -> None:
        self._depth -= 1

    def _doctype(self, _name: str, system: str | None, _public: str | None, internal: int) -> None:
        # Old writers name a document type in the manifest; it declares nothing, and nothing fetches it.
        if internal or not self._name.startswith("META-INF/"):
            raise DocumentError(
                "hostile",
                f"Its part {self._name[:80]!r} declares a document type, which can hide entities that expand or fetch "
                "other files. Save it again from its source.",
            )

    def _too_many(self) -> DocumentError:
        return self._too_large(f"has more than {self._most} elements (rows, cells, paragraphs)")

    @staticmethod
    def _too_large(what: str) -> DocumentError:
        return DocumentError("too_large", f"Its text alone {what}. Split it into several documents.")


def _check_container(data: bytes, kind: str) -> None:
    if data.startswith(_OLE):
        if any(name in data for name in _BINARY_OFFICE) and "EncryptedPackage".encode("utf-16-le") not in data:
            raise DocumentError("unsupported", f"It is an old binary Office file under a new name. Save it as {kind}.")
        raise DocumentError("encrypted", f"It is encrypted. Save it as {kind} without a password and ingest it again.")
    _check_entries(data)


def _check_entries(data: bytes) -> None:
    # Reading the directory of a package with a million entries takes seconds, so they are counted first; four times
    # the limit, because packages inside count here too.
    if data.count(b"PK\x01\x02") > 4 * _MAX_ENTRIES:
        raise _too_many_parts()


def _too_many_parts() -> DocumentError:
    return DocumentError("hostile", f"It has more than {_MAX_ENTRIES} parts. Save it again from its source.")


def _packed(package: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """A part that is a package itself; empty for any other."""
    with package.open(entry) as part:
        head = part.read(4)
        return head + part.read() if head == _ZIP else b""


def _is_xml(head: bytes) -> bool:
    # With its byte order mark and every second byte of UTF-16 out of the way.
    return head[:64].lstrip(b"\xef\xbb\xbf\xfe\xff\x00 \t\r\n").startswith(b"<")


def _is_picture(name: str) -> bool:
    # Drawing programs declare entities in SVG; nobody parses pictures here.
    return name.lower().endswith(".svg") and ("media/" in name or "Pictures/" in name)
