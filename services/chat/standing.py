"""What became of the versions that an answer was made from."""

from datetime import date
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from tandem.tables import VersionRow

Standing = Literal["live", "replaced", "gone"]


def with_standing(session: Session, receipt: dict[str, Any], today: date) -> dict[str, Any]:
    """The receipt with a `status` at each passage. The quote stays in the receipt, whatever became of the version.

    `live`: its version is in force today. `replaced`: it is kept, and another is in force, or none. `gone`: it is not
    kept any more; what the document says today is another version.
    """
    lists = {name: receipt.get(name) or [] for name in ("passages", "citations")}
    wanted = {str(passage.get("version_id")) for passages in lists.values() for passage in passages}
    columns = (VersionRow.id, VersionRow.state, VersionRow.live_from, VersionRow.live_until)
    rows = session.execute(select(*columns).where(VersionRow.id.in_(wanted))) if wanted else ()
    found = {id: _standing(state, start, end, today) for id, state, start, end in rows}
    marked = {
        name: [{**passage, "status": found.get(passage.get("version_id"), "gone")} for passage in passages]
        for name, passages in lists.items()
    }
    return {**receipt, **marked}


def _standing(state: str, live_from: date | None, live_until: date | None, today: date) -> Standing:
    started = live_from is None or live_from <= today
    ended = live_until is not None and live_until <= today
    return "live" if state == "published" and started and not ended else "replaced"
