"""A small corpus in two versions, in two folders, with every kind of change that an update can bring."""

from datetime import timedelta
from pathlib import Path

from tests.crash.calendar import TODAY

FOLDERS = ("travel", "offices")
# One of each in each folder: first version, second version; None where there is no such file.
_SECTIONS = 2


def _page(name: str, *, groups: str = "everyone", year: int = 1, head: str = "", sections: int = _SECTIONS) -> str:
    parts = [f"---\ngroups: [{groups}]\n{head}---\n# {name}\n"]
    parts += [f"## Part {n}\n\nThe {name} costs EUR {n * 7 + year} in part {n}.\n" for n in range(1, sections + 1)]
    return "\n".join(parts)


def _versions(folder: str) -> dict[str, tuple[str | None, str | None]]:
    soon = f"effective_from: {TODAY + timedelta(days=30)}\n"
    pages: dict[str, tuple[str | None, str | None]] = {}
    for n in range(1):
        same, edited, gone, new = (f"{folder} {kind} {n}" for kind in ("same", "edited", "gone", "new"))
        pages[same] = (_page(same), _page(same))
        pages[edited] = (_page(edited), _page(edited).replace("EUR 8 ", "EUR 9 "))
        pages[gone] = (_page(gone), None)
        pages[new] = (None, _page(new))
    closed, opened, owned, late, touched, long, moved = (
        f"{folder} {kind}" for kind in ("closed", "opened", "owned", "late", "touched", "long", "moved")
    )
    pages[closed] = (_page(closed), _page(closed, groups="hr"))
    pages[opened] = (_page(opened, groups="hr"), _page(opened, groups="everyone, hr"))
    pages[owned] = (_page(owned), _page(owned, head="owner: finance\ntitle: Owned by finance\n"))
    pages[late] = (_page(late), _page(late, head=soon, year=2))
    pages[touched] = (_page(touched), _page(touched) + "\n\n\n<!-- a remark -->\n")
    body = _page(long, sections=5)
    pages[long] = (body, body.replace("## Part 1\n", "## Preface\n\nThis page was revised.\n\n## Part 1\n"))
    pages[moved] = (_page(moved), None)
    pages[f"moved/{folder}"] = (None, _page(moved))
    return pages


def write_corpus(root: Path, version: int) -> list[Path]:
    """Writes version 1 or 2 of all folders, takes away what that version lacks, and returns the folders."""
    for folder in FOLDERS:
        for name, texts in _versions(folder).items():
            path = root / folder / f"{name.replace(' ', '-')}.md"
            text = texts[version - 1]
            if text is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    return [root / folder for folder in FOLDERS]
