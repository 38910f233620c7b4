"""A made-up handbook of some 2,000 passages, the same each time, and the ways in which people change such a thing.

Each paragraph, list item and table row is one line of its file and unlike every other, so that what a change made new
can be counted in the files alone, without asking any splitter.
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_ROLES = (
    "site manager, duty officer, payroll clerk, line manager, welfare adviser, fleet supervisor, stock controller, "
    "records officer, shift lead, safety delegate, travel desk, training partner, night warden, procurement lead"
).split(", ")
_DEEDS = (
    "signs, reviews, files, confirms, returns, counts, publishes, forwards, approves, archives, compares, schedules, "
    "withdraws, renews"
).split(", ")
_THINGS = (
    "the mileage log, the visitor list, the overtime sheet, the key register, the first-aid record, "
    "the tool inventory, the cold-store reading, the contractor permit, the leave balance, the parking voucher, "
    "the meter report, the induction checklist, the hotel invoice, the waste ticket"
).split(", ")
_OCCASIONS = (
    "a delivery at the north gate, the quarterly stock-take, an unplanned absence, a change of supplier, a fire drill, "
    "a complaint by a tenant, the handover between shifts, a repair in the workshop, the arrival of a new colleague, "
    "a storm warning, the yearly audit, a lost badge"
).split(", ")
_TAILS = (
    "unless the regional office has agreed otherwise in writing; and keeps a copy for the works council; "
    "and tells everybody on the rota; before the ledger of that week is closed; without waiting for a reminder; "
    "as long as the budget line is open; in the presence of a second person"
).split("; ")
_TOPICS = (
    "Allowances, Badges, Cleaning, Deliveries, Equipment, First aid, Guests, Heating, Invoices, Keys, Leave, Mileage, "
    "Night work, Overtime, Parking, Quality, Repairs, Stock, Training, Uniforms, Vehicles, Waste"
).split(", ")
_FOLDERS = ("people", "sites", "finance", "transport", "safety")
LONG_DOCUMENTS = 4
_LONG_SECTIONS = 36
_SHORT_DOCUMENTS = 120
_SHORT_SECTIONS = 6


@dataclass(frozen=True)
class Change:
    """A way in which the folder changes. `name`: as the table calls it."""

    name: str
    apply: Callable[[Path], None]


def write_handbook(root: Path) -> None:
    """Writes the whole handbook: a few long documents, many short ones, with headings, lists and tables."""
    draw = random.Random(2_000)
    for number in range(LONG_DOCUMENTS + _SHORT_DOCUMENTS):
        long = number < LONG_DOCUMENTS
        name = f"{'manual' if long else 'rules'}-{number:02}"
        path = root / _FOLDERS[number % len(_FOLDERS)] / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        front = f"---\ntitle: {name.capitalize()}\nowner: office {number % 7}\ngroups: [everyone]\n---\n"
        sections = [_section(draw, number, n) for n in range(_LONG_SECTIONS if long else _SHORT_SECTIONS)]
        path.write_text("\n".join([front, f"# {name.capitalize()}", "", *sections]), encoding="utf-8")


def lines(root: Path) -> set[str]:
    """Every paragraph, list item and table row in the folder."""
    return {line for path in root.rglob("*.md") for _, line in _body(path.read_text(encoding="utf-8").splitlines())}


def first_long(root: Path) -> Path:
    """One of the long documents."""
    return min(root.rglob("manual-*.md"))


def touch(root: Path) -> None:
    for path in root.rglob("*.md"):
        os.utime(path)


def edit(root: Path, lines_to_edit: int, seed: int) -> None:
    """Changes a figure and adds a word in lines all over the handbook, no two of them in one section."""
    draw = random.Random(seed)
    places: list[tuple[Path, int]] = []
    for path in sorted(root.rglob("*.md")):
        text = path.read_text(encoding="utf-8").splitlines()
        starts = [n for n, line in enumerate(text) if line.startswith("## ")]
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            places.append((path, draw.choice([n for n, _ in _body(text) if start < n < end])))
    for path, number in draw.sample(places, lines_to_edit):
        text = path.read_text(encoding="utf-8").splitlines(keepends=True)
        text[number] = text[number].replace("within ", f"by rule {seed}.{number} within ", 1)
        path.write_text("".join(text), encoding="utf-8")


def insert_at_head(root: Path) -> None:
    path = first_long(root)
    head, title, rest = path.read_text(encoding="utf-8").partition("\n## ")
    path.write_text(
        f"{head}\nThis manual was read again by the whole office this spring, and it holds from now on.\n{title}{rest}",
        encoding="utf-8",
    )


def insert_in_section(root: Path) -> None:
    """A new first paragraph in the longest section of a long document: everything behind it in the section moves."""
    path = first_long(root)
    sections = path.read_text(encoding="utf-8").split("\n## ")
    longest = max(range(len(sections)), key=lambda n: len(sections[n]))
    title, _, rest = sections[longest].partition("\n")
    sections[longest] = f"{title}\n\nWhoever reads this section for the first time begins with its last line.\n{rest}"
    path.write_text("\n## ".join(sections), encoding="utf-8")


def rename(root: Path) -> None:
    for path in sorted(root.rglob("*.md"))[:3]:
        path.rename(path.with_name(f"new-{path.name}"))


def move_folder(root: Path) -> None:
    (root / _FOLDERS[1]).rename(root / "places")


def front_matter_of_one(root: Path) -> None:
    path = first_long(root)
    path.write_text(path.read_text(encoding="utf-8").replace("owner: ", "owner: the new ", 1), encoding="utf-8")


def front_matter_of_all(root: Path) -> None:
    for path in root.rglob("*.md"):
        path.write_text(path.read_text(encoding="utf-8").replace("owner: ", "owner: the ", 1), encoding="utf-8")


def move_section_within(root: Path) -> None:
    path = first_long(root)
    sections = path.read_text(encoding="utf-8").rstrip("\n").split("\n## ")
    sections.append(sections.pop(5))
    path.write_text("\n## ".join(sections) + "\n", encoding="utf-8")


def move_section_across(root: Path) -> None:
    giver, taker = sorted(root.rglob("manual-*.md"))[:2]
    sections = giver.read_text(encoding="utf-8").rstrip("\n").split("\n## ")
    moved = sections.pop(9)
    giver.write_text("\n## ".join(sections) + "\n", encoding="utf-8")
    taker.write_text(taker.read_text(encoding="utf-8").rstrip("\n") + f"\n\n## {moved.strip()}\n", encoding="utf-8")


def _body(text: list[str]) -> Iterator[tuple[int, str]]:
    """The lines that say something of their own, with their numbers: no front matter, headings, heads of tables."""
    for n, line in enumerate(text):
        if n > 4 and line.strip() and not line.startswith(("#", "|---", "| Case", "In these cases")):
            yield n, line


def _section(draw: random.Random, document: int, number: int) -> str:
    """A section of one to six passages."""
    parts = [f"## {draw.choice(_TOPICS)} {document}.{number}", ""]
    for _ in range(draw.choice((1, 1, 2, 3, 4, 6))):
        kind = draw.random()
        if kind < 0.15:
            parts += ["In these cases nothing is to be paid back:", ""]
            parts += [f"- {_sentence(draw)}" for _ in range(draw.randint(3, 6))]
        elif kind < 0.25:
            parts += ["| Case | Limit | Who |", "|---|---|---|"]
            for _ in range(draw.randint(4, 12)):
                row = f"{draw.choice(_OCCASIONS)}, case {draw.randint(100, 99_999)}"
                parts.append(f"| {row} | within {draw.randint(2, 400)} days | {draw.choice(_ROLES)} |")
        else:
            parts.append(" ".join(_sentence(draw) for _ in range(draw.randint(2, 5))))
        parts.append("")
    return "\n".join(parts)


def _sentence(draw: random.Random) -> str:
    return (
        f"After {draw.choice(_OCCASIONS)} the {draw.choice(_ROLES)} {draw.choice(_DEEDS)} {draw.choice(_THINGS)} "
        f"number {draw.randint(100, 99_999)} within {draw.randint(2, 90)} hours {draw.choice(_TAILS)}."
    )
