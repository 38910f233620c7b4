"""When training starts by itself, and that a year of clocks, restarts and pauses neither doubles nor loses a time."""

import bisect
import contextlib
import itertools
import os
import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tandem.database import Database
from tandem.errors import Busy, DatabaseUnavailable, SettingsError
from tandem.settings import Settings, load_settings
from training.cron import Cron
from training.runs import TrainingRuns
from training.schedule import TOLERANCE, Schedule
from training.turn import Turn

MINUTE, HOUR, DAY, WEEK = (timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days", "weeks"))
MONDAY = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def at(text: str) -> datetime:
    """A moment with its offset."""
    return datetime.fromisoformat(text).astimezone(UTC)


def configured(expression: str = "0 3 * * 0", zone: str = "UTC") -> Settings:
    return load_settings(training={"schedule": expression, "time_zone": zone})


class Host:
    """A trainer as far as the clock goes: what it answers becomes a run, in one commit."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self.restart()

    def restart(self) -> None:
        self._schedule = Schedule(self._settings, self._database)

    def due(self, now: datetime) -> datetime | None:
        return self._schedule.due(now)

    def answer(self, fire: datetime, now: datetime) -> bool:
        with self._database.session() as session:
            if not self._schedule.answer(session, fire):
                return False
            TrainingRuns(self._database).want(session, "schedule", "house-style", "schedule", at=now, due_at=fire)
            return True

    def look(self, now: datetime) -> datetime | None:
        fire = self.due(now)
        return fire if fire is not None and self.answer(fire, now) else None


# ------------------------------------------------------------------------------------------------ the expression


def walked(hour: int, minute: int, zone: str, start: datetime, end: datetime, weekday: int | None) -> list[datetime]:
    """The times of a daily or weekly schedule, found by walking through the minutes, without any library's rules.

    A wall clock that skips the time has it when it jumps; one that shows it twice has it the first time.
    """
    where, found = ZoneInfo(zone), []
    moment, before = start, start.astimezone(where).replace(tzinfo=None)
    while moment < end:
        moment += MINUTE
        wall = moment.astimezone(where).replace(tzinfo=None)
        label = wall.replace(hour=hour, minute=minute)
        first = not found or found[-1] <= moment - 3 * HOUR
        if before < label <= wall and weekday in (None, label.weekday()) and first:
            found.append(moment)
        before = wall
    return found


@pytest.mark.parametrize(
    ("zone", "expression", "times"),
    [
        # The clock jumps from 2 to 3: half past two falls on the jump.
        ("Europe/Berlin", "30 2 * * *", ["03-28T02:30+01:00", "03-29T03:00+02:00", "03-30T02:30+02:00"]),
        ("America/New_York", "30 2 * * *", ["03-07T02:30-05:00", "03-08T03:00-04:00", "03-09T02:30-04:00"]),
        # Half past two, and half past one, come twice: the first one counts.
        ("Europe/Berlin", "30 2 * * *", ["10-24T02:30+02:00", "10-25T02:30+02:00", "10-26T02:30+01:00"]),
        ("America/New_York", "30 1 * * *", ["10-31T01:30-04:00", "11-01T01:30-04:00", "11-02T01:30-05:00"]),
        # What runs every hour runs in each hour that passes.
        ("Europe/Berlin", "30 * * * *", ["10-25T02:30+02:00", "10-25T02:30+01:00", "10-25T03:30+01:00"]),
        ("Europe/Berlin", "30 * * * *", ["03-29T01:30+01:00", "03-29T03:30+02:00", "03-29T04:30+02:00"]),
        ("UTC", "0 3 * * 0", ["03-08T03:00+00:00", "03-15T03:00+00:00", "03-22T03:00+00:00"]),
    ],
)
def test_daylight_saving_in_both_directions(zone: str, expression: str, times: list[str]):
    cron = Cron(expression, zone)
    for earlier, later in itertools.pairwise(f"2026-{time}" for time in times):
        for now in (at(earlier), at(earlier) + timedelta(seconds=0.5), at(later) - timedelta(seconds=0.5)):
            assert cron.latest(now) == Cron(expression, zone).latest(now) == at(earlier)
            assert cron.next(now) == at(later)


@pytest.mark.parametrize(
    ("training", "named"),
    [
        ({"schedule": "every sunday"}, r"TANDEM_TRAINING__SCHEDULE.*'every sunday'"),
        ({"schedule": "0 3 31 2 *"}, r"TANDEM_TRAINING__SCHEDULE.*'0 3 31 2 \*'"),
        ({"schedule": "0 0 3 * * 0"}, "it has 6 fields"),
        ({"time_zone": "Mars/Olympus"}, "TANDEM_TRAINING__TIME_ZONE.*'Mars/Olympus'"),
        ({"time_zone": "../etc/passwd"}, "TANDEM_TRAINING__TIME_ZONE"),
    ],
)
def test_a_wrong_schedule_is_named(training: dict[str, str], named: str, tmp_path: Path):
    with pytest.raises(SettingsError, match=named):
        Schedule(load_settings(training=training), Database(f"sqlite:///{tmp_path / 'tandem.db'}"))


# ---------------------------------------------------------------------------------------------- the simulated year


class Clock:
    """A clock that people and batteries set wrong. `shown` is what it says at a minute that really passes."""

    def __init__(self, rng: random.Random, start: datetime) -> None:
        self._rng, self.real, self._wrong = rng, start, timedelta()

    def tick(self) -> datetime:
        self.real += MINUTE
        if self._rng.random() < 1 / (5 * 24 * 60):  # about every five days it is set wrong, or right again
            hours = self._rng.choice((-26, -3, -1, -0.5, 0, 0, 0.5, 1, 3, 26))
            self._wrong = timedelta(hours=hours, seconds=self._rng.randrange(60))
        return self.real + self._wrong


@pytest.mark.parametrize(
    ("zone", "hour", "minute", "weekday"),
    [("Europe/Berlin", 2, 30, None), ("America/New_York", 2, 30, None), ("Europe/Berlin", 2, 30, 6)],
)
def test_a_year_of_minutes_with_wrong_clocks_restarts_and_pauses(
    tmp_path: Path, zone: str, hour: int, minute: int, weekday: int | None
):
    seed = int(os.environ.get("TANDEM_TEST_SEED") or random.randrange(2**32))
    rng = random.Random(seed)
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    expected = walked(hour, minute, zone, start - 3 * DAY, end + 3 * DAY, weekday)
    expression = f"{minute} {hour} * * {'*' if weekday is None else (weekday + 1) % 7}"
    database = Database(f"sqlite:///{tmp_path / 'tandem.db'}")
    database.migrate()
    hosts = [Host(database, configured(expression, zone)) for _ in range(2)]  # two machines, one database
    clock = Clock(rng, start)
    seen = clock.tick()
    assert [host.look(seen) for host in hosts] == [None, None]
    covered = bisect.bisect_right(expected, seen)  # of the expected times, those that need no run any more
    runs: list[datetime] = []
    owed: list[datetime] = []
    down_until = start
    while clock.real < end:
        shown = clock.tick()
        if clock.real < down_until:
            continue
        if rng.random() < 1 / 1440:
            rng.choice(hosts).restart()
        if rng.random() < 1 / (10 * 1440):
            down_until = clock.real + rng.choice((MINUTE, 5 * HOUR, 30 * HOUR, 16 * DAY)) * rng.random()
        come = bisect.bisect_right(expected, shown)
        if come > covered:  # one run for all that came since the last one, however many
            owed.append(expected[come - 1])
            covered = come
        asked = [(host, host.due(shown)) for host in hosts]  # both, before either answers
        runs += [fire for host, fire in asked if fire is not None and host.answer(fire, shown)]
    assert runs == owed, f"TANDEM_TEST_SEED={seed}"
    assert len(set(runs)) == len(runs)
    stored = TrainingRuns(database).latest(1000)
    assert sorted(run.due_at for run in stored if run.due_at) == sorted(runs)
    assert len(runs) > (250 if weekday is None else 35)
    database.close()


def test_without_faults_a_year_has_each_time_once(tmp_path: Path):
    expected = walked(2, 30, "Europe/Berlin", datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), None)
    database = Database(f"sqlite:///{tmp_path / 'tandem.db'}")
    database.migrate()
    host = Host(database, configured("30 2 * * *", "Europe/Berlin"))
    now, runs = datetime(2026, 1, 1, tzinfo=UTC), []
    while now < datetime(2027, 1, 1, tzinfo=UTC):
        runs.append(host.look(now))
        now += 7 * MINUTE
    assert [fire for fire in runs if fire is not None] == expected
    assert len(expected) == 365
    database.close()


# ------------------------------------------------------------------------------------------------------ its state


def test_nothing_was_missed_before_the_schedule_came_into_force(database: Database):
    host = Host(database, configured())
    assert host.look(MONDAY) is None
    assert host.look(at("2026-03-08T02:59:59+00:00")) is None
    assert host.look(at("2026-03-08T03:00+00:00")) == at("2026-03-08T03:00+00:00")
    assert host.look(at("2026-03-08T03:00+00:00")) is None


def test_however_many_were_missed_one_makes_up_for_them(database: Database):
    Host(database, configured()).look(MONDAY)
    host = Host(database, configured())  # after five weeks off
    assert host.look(MONDAY + 5 * WEEK) == at("2026-04-05T03:00+00:00")
    assert host.look(MONDAY + 5 * WEEK + HOUR) is None
    assert host.look(MONDAY + 6 * WEEK) == at("2026-04-12T03:00+00:00")


def test_another_schedule_has_missed_nothing_and_the_same_one_goes_on(database: Database):
    Host(database, configured()).look(MONDAY)
    other = Host(database, configured("0 4 * * *"))
    assert other.look(MONDAY + DAY) is None
    assert other.look(MONDAY + 2 * DAY) == at("2026-03-04T04:00+00:00")
    moved = Host(database, configured("0 4 * * *", "Europe/Berlin"))
    assert moved.look(MONDAY + 3 * DAY) is None
    assert moved.look(MONDAY + 4 * DAY) == at("2026-03-06T03:00+00:00")


def test_a_clock_that_was_years_ahead_does_not_stop_the_schedule_until_then(database: Database):
    host = Host(database, configured())
    host.look(MONDAY)
    assert host.look(MONDAY.replace(year=2036)) is not None
    assert host.look(MONDAY + HOUR) is None
    assert host.look(MONDAY + WEEK) == at("2026-03-08T03:00+00:00")
    assert host.look(MONDAY + 2 * WEEK) == at("2026-03-15T03:00+00:00")


def test_a_clock_set_back_a_little_shows_times_that_were_answered(database: Database):
    host = Host(database, configured("0 3 * * *"))
    host.look(MONDAY)
    answered = host.look(MONDAY + DAY)
    assert answered is not None
    for back in (HOUR, 20 * HOUR, TOLERANCE - DAY):
        assert host.look(MONDAY + DAY - back) is None
        host.restart()
        assert host.look(MONDAY + DAY - back) is None
    assert host.look(MONDAY + 2 * DAY) == answered + DAY


def test_of_many_who_look_at_once_one_answers(database: Database):
    hosts = [Host(database, configured()) for _ in range(8)]
    hosts[0].look(MONDAY)
    answers: list[bool] = []
    barrier = threading.Barrier(len(hosts))

    def race(host: Host) -> None:
        fire = host.due(MONDAY + WEEK)
        assert fire is not None
        barrier.wait()
        answers.append(host.answer(fire, MONDAY + WEEK))

    threads = [threading.Thread(target=race, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]
    assert len(TrainingRuns(database).latest(10)) == 1


def test_what_a_commit_does_not_reach_is_still_due(database: Database):
    host = Host(database, configured())
    host.look(MONDAY)

    def answer_in_a_power_cut() -> None:
        with database.session() as session:
            assert Schedule(configured(), database).answer(session, at("2026-03-08T03:00+00:00"))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        answer_in_a_power_cut()
    assert host.look(MONDAY + WEEK) == at("2026-03-08T03:00+00:00")


def test_the_standing_tells_when_it_is_due_and_when_somebody_looked(database: Database):
    schedule = Schedule(configured("0 3 * * 0", "Europe/Berlin"), database)
    assert schedule.standing(MONDAY).looked_at is None
    schedule.due(MONDAY)
    schedule.looked(MONDAY, "3 new examples.")
    schedule.looked(MONDAY + HOUR)
    standing = Schedule(configured("0 3 * * 0", "Europe/Berlin"), database).standing(MONDAY)
    assert standing.next == at("2026-03-08T03:00+01:00")
    assert (standing.looked_at, standing.note) == (MONDAY + HOUR, "3 new examples.")


# ------------------------------------------------------------------------------------------------------- the turn


def test_one_has_the_turn_at_a_time_on_a_database(database: Database):
    other = Database(database.engine.url.render_as_string(hide_password=False))
    with Turn(database) as turn:
        assert turn.kept()
        with pytest.raises(Busy, match="under way"), Turn(other):
            pass
    with Turn(other):
        pass
    other.close()


END_OF_THE_TURNS_CONNECTION = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 31312 "
    "AND objid::bigint = hashtext(current_schema())::bigint & 4294967295"
)


def break_the_connection(database: Database) -> None:
    if database.engine.dialect.name != "postgresql":
        pytest.skip("a file's lock cannot be lost")
    with database.session() as session:
        assert session.connection().exec_driver_sql(END_OF_THE_TURNS_CONNECTION).rowcount == 1


def test_a_turn_whose_connection_broke_is_taken_again_or_known_to_be_lost(database: Database):
    with Turn(database) as turn:
        break_the_connection(database)
        assert turn.kept()
        break_the_connection(database)
        with Turn(database):
            assert not turn.kept()


@pytest.mark.parametrize("taken", [False, True])
def test_a_turn_outlasts_a_database_that_is_away_for_several_pulses(database: Database, *, taken: bool):
    url = database.url
    with Turn(database) as turn, contextlib.ExitStack() as other:
        break_the_connection(database)
        database.url = url.set(port=1)  # where nothing listens
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable, match="cannot be taken"):
                turn.kept()
        database.url = url
        if taken:
            other.enter_context(Turn(database))
        assert turn.kept() is not taken
        assert turn.kept() is not taken


def test_who_holds_a_turn_notices_in_time_that_the_server_is_out_of_reach(database: Database):
    if database.engine.dialect.name != "postgresql":
        pytest.skip("a file has no network")
    with Turn(database) as turn:
        connection = turn._connection
        assert connection is not None
        told = connection.connection.driver_connection.info.get_parameters()
        assert int(told["tcp_user_timeout"]) + 1000 * int(told["connect_timeout"]) <= 60_000  # when the server gives up
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "20s"
