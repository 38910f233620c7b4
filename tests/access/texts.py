"""Made-up documents and questions: near duplicates, tables, several passages each, titles that tell by themselves."""

from dataclasses import dataclass
from datetime import date, timedelta

START = date(2026, 3, 1)

_LEAVE = """# Annual leave

Every employee has {days} days of annual leave a year, counted from the first of January.

## Carrying over

Up to {carry} unused days of annual leave may be carried over into the next year, until the end of March.

## Booking

Leave is booked in the calendar two weeks ahead, and the team lead agrees or says why not.
"""
_BANDS = """# Pay bands

| Grade | Salary in euro | Bonus |
|---|---|---|
| 5 | {five} | 4% |
| 6 | {six} | 6% |
| 7 | {seven} | 9% |

A rise between two bands is decided by the board once a year, in October.
"""
_CLOSING = """# Closing of the Graz office

The office in Graz is to be closed on the last day of June, and {posts} posts are moved to Linz.

## Announcement

Nobody outside the board speaks of the closing before the fifth of May.
"""
_TRAVEL = """# Travel

Travel by train is booked in second class. A night in a hotel may cost {night} euro.

Meals on a journey are paid up to {meals} euro a day, against receipts.
"""
_PARKING = "Visitors park in the yard behind the office. The barrier opens with the code that the reception gives out."

BODIES = (
    _LEAVE.format(days=28, carry=5),
    _LEAVE.format(days=30, carry=5),
    _LEAVE.format(days=28, carry=8),
    _BANDS.format(five=48_000, six=57_000, seven=69_000),
    _BANDS.format(five=50_000, six=57_000, seven=69_000),
    _CLOSING.format(posts=40),
    _TRAVEL.format(night=110, meals=34),
    _TRAVEL.format(night=140, meals=34) + "\n" + _PARKING,
    _PARKING,
)
TITLES = ("", "Annual leave", "Plan to close the Graz office", "Pay of the board")
QUESTIONS = (
    "How many days of annual leave does every employee have in a year?",
    "How many unused days of annual leave may be carried over into the next year?",
    "What is the salary of somebody in grade 7, and what is the bonus?",
    "When is the office in Graz to be closed, and how many posts are moved?",
    "What may a night in a hotel cost on a journey that the company pays?",
    "Where do visitors park, and how does the barrier open?",
    "Which wine goes with a roast duck when guests come for dinner?",
)
# The question that each of BODIES answers.
QUESTION_ON = tuple(QUESTIONS[n] for n in (0, 0, 1, 2, 2, 3, 4, 4, 5))
FOLLOW_UPS = ("And in grade 6?", "What about that in the next year?", "Who decides it, and when?", "Is it still so?")

IN_FOLDER = ("a.md", "aa.md", "hr/bands.md", "hr/bands-2.md", "plans/graz.md")
UPLOADED = ("a-1.md", "hr.md", "plans/graz-2.txt", "Über uns.md")
NEVER = "plans/none.md"
FOLDERS = ("", "hr", "plans")
# Always in the folder, so that it is never empty; it says nothing of its readers.
ANCHOR = ("zz/anchor.txt", b"The anchor lies at the bottom.\n")


@dataclass(frozen=True)
class Paper:
    """A document as somebody wrote it.

    Attributes:
        groups: Who may read it; None: it does not say.
        beside: Its metadata stand in a sidecar, not in its front matter.
        since: Days from the start of the story to its first day of force.
        broken: Its metadata cannot be read, so that it is refused.
    """

    body: int
    title: str = ""
    groups: tuple[str, ...] | None = None
    since: int | None = None
    beside: bool = False
    broken: bool = False

    def files(self, name: str) -> list[tuple[str, bytes]]:
        """The document's file, and its sidecar where it has one."""
        lines = [f"title: {self.title}"] if self.title else []
        if self.broken:
            lines.append("groups: {everyone: 1}")
        elif self.groups is not None:
            lines.append(f"groups: [{', '.join(self.groups)}]")
        if self.since is not None:
            lines.append(f"effective_from: {START + timedelta(self.since)}")
        text, meta = BODIES[self.body], "\n".join(lines)
        if not lines:
            return [(name, text.encode())]
        if self.beside:
            return [(name, text.encode()), (f"{name}.meta.yaml", meta.encode())]
        return [(name, f"---\n{meta}\n---\n{text}".encode())]

    def fields(self) -> tuple[tuple[str, str], ...]:
        """What is sent beside an upload of its bare text."""
        fields = {"title": self.title, "groups": ",".join(self.groups or ())}
        if self.since is not None:
            fields["effective_from"] = str(START + timedelta(self.since))
        return tuple((name, value) for name, value in fields.items() if value)


def folder_file(groups: tuple[str, ...]) -> bytes:
    """A `_folder.yaml`."""
    return f"groups: [{', '.join(groups)}]\n".encode()
