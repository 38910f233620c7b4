"""Changes and time lines, as pure functions."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ingest.diff import Known, Span, is_untouched, judge, starts_on, timeline
from ingest.metadata import metadata_hash
from tandem.schemas import Metadata, ParsedDocument

TODAY = date(2026, 6, 1)
METADATA = Metadata(groups=("everyone",))
DOCUMENT = ParsedDocument(id="a", path="a", text="t", blocks=(), metadata=METADATA, content_hash="c", source_hash="s")


def known(**changes) -> Known:
    fields = {
        "version_id": "v",
        "root": "/r",
        "source_hash": "s",
        "content_hash": "c",
        "metadata_hash": metadata_hash(METADATA),
        "reader": "1",
        "chunk_count": 1,
        "live_from": date(2025, 1, 1),
        "seq": 1,
    }
    return Known(**(fields | changes))


def test_untouched_needs_the_same_bytes_metadata_and_splitter() -> None:
    assert is_untouched(known(), "s", METADATA, "1")
    assert not is_untouched(None, "s", METADATA, "1")
    assert not is_untouched(known(), "other", METADATA, "1")
    assert not is_untouched(known(), "s", Metadata(), "1")
    assert not is_untouched(known(), "s", METADATA, "2")


def test_verdicts() -> None:
    declared = metadata_hash(METADATA)
    assert judge(None, DOCUMENT, declared) == "added"
    assert judge(known(source_hash="other bytes"), DOCUMENT, declared) == "unchanged"
    assert judge(known(content_hash="x"), DOCUMENT, declared) == "updated"
    assert judge(known(metadata_hash="x"), DOCUMENT, declared) == "updated"


def test_first_day_of_a_version() -> None:
    dated = Metadata(effective_from=date(2026, 9, 1))
    assert starts_on(dated, None, False, TODAY) == date(2026, 9, 1)
    assert starts_on(Metadata(), None, False, TODAY) is None
    assert starts_on(Metadata(), known(), False, TODAY) == TODAY
    assert starts_on(Metadata(), known(), True, TODAY) == date(2025, 1, 1)  # only metadata changed
    assert starts_on(Metadata(), known(live_from=None), True, TODAY) is None


def span(id: str, live_from: date | None, live_until: date | None = None, until: date | None = None) -> Span:
    return Span(id, live_from, live_until, until)


def test_the_old_version_ends_where_the_new_one_begins() -> None:
    line = timeline([span("old", None)], TODAY, TODAY)
    assert (line.live_until, line.retired) == ({"old": TODAY}, ())


def test_a_correction_with_the_same_first_day_replaces_the_old_version() -> None:
    assert timeline([span("old", None)], None, TODAY).retired == ("old",)
    assert timeline([span("old", TODAY)], TODAY, TODAY).retired == ("old",)


def test_a_future_version_leaves_the_old_one_in_force_until_its_day() -> None:
    later = TODAY + timedelta(30)
    assert timeline([span("old", None)], later, TODAY).live_until == {"old": later}


def test_a_future_version_that_is_put_off_never_comes_into_force() -> None:
    soon, later = TODAY + timedelta(30), TODAY + timedelta(60)
    line = timeline([span("old", None, soon), span("draft", soon)], later, TODAY)
    assert line.retired == ("draft",)
    assert line.live_until == {"old": later}


def test_an_end_that_was_declared_is_kept() -> None:
    end = date(2026, 1, 1)
    assert timeline([span("old", None, end, end)], TODAY, TODAY).live_until == {"old": end}


days = st.none() | st.integers(-400, 400).map(lambda n: TODAY + timedelta(n))


# Two published versions of a document never share a first day: the later one has retired the earlier.
@given(st.lists(days, max_size=6, unique=True), days)
def test_on_no_day_are_two_versions_in_force(starts: list[date | None], new: date | None) -> None:
    line = timeline([span(str(n), start) for n, start in enumerate(starts)], new, TODAY)
    alive = [(start, line.live_until[str(n)]) for n, start in enumerate(starts) if str(n) not in line.retired]
    alive.append((new, None))
    for day in (TODAY + timedelta(n) for n in range(-410, 410, 7)):
        in_force = [a for a in alive if (a[0] is None or a[0] <= day) and (a[1] is None or day < a[1])]
        assert len(in_force) <= 1
        if new is None or new <= day:
            assert in_force
