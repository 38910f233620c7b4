"""What one file may ask of its reader, before it is refused."""

from tandem.schemas import Value
from tandem.settings import IngestSettings


class Limits(Value):
    """Bounds on one document. They hold before a library opens the file, or while it is read.

    Attributes:
        max_chars: Characters of text; more is `too_large`.
        max_elements: Tags of a page or a package, rows of a Markdown table; more is `too_large`.
        max_expansion: How many times its size a compressed file may grow to; more is `hostile`.
        max_depth: Elements inside one another; deeper is `hostile`.
        max_nesting: Packages in packages, messages in messages; deeper is `hostile`.
    """

    max_chars: int = 5_000_000
    max_elements: int = 1_000_000
    max_expansion: int = 200
    max_depth: int = 200
    max_nesting: int = 3


def limits_of(settings: IngestSettings) -> Limits:
    return Limits(
        max_chars=settings.max_text_chars,
        max_elements=settings.max_elements,
        max_expansion=settings.max_expansion,
        max_depth=settings.max_depth,
        max_nesting=settings.max_nesting,
    )
