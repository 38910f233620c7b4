"""When training runs by itself: at the times of a cron expression, if there are new examples, one run at a time."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from croniter import CroniterBadCronError, CroniterBadDateError, croniter

from tandem.errors import AdapterError, Busy, ExampleError, SettingsError
from tandem.registry import Registry
from tandem.schemas import Value
from tandem.settings import Settings
from training.examples import StyleExample, data_digest, example_digest, load_examples
from training.job import run_lock
from training.runs import TrainingRuns

log = logging.getLogger(__name__)


class Decision(Value):
    """Whether to train now, and why or why not. `fire` is the time of the schedule that it answers."""

    start: bool
    reason: str
    new_examples: int = 0
    fire: datetime | None = None


class Schedule:
    """Decides when a run starts.

    Args:
        settings: `settings.training.schedule` is read as UTC.
        runs: What was run before.
        since: When the schedule came into force; a time before it was not missed.

    Raises:
        SettingsError: The cron expression is wrong.
    """

    def __init__(self, settings: Settings, runs: TrainingRuns, *, since: datetime) -> None:
        self._settings = settings
        self._runs = runs
        self._since = since
        cron = settings.training.schedule
        try:
            croniter(cron, since).get_next(datetime)
        except (CroniterBadCronError, CroniterBadDateError, ValueError) as exc:
            raise SettingsError(
                f"TANDEM_TRAINING__SCHEDULE is no cron expression: {cron!r} ({exc}). "
                "Write five fields, such as '0 3 * * 0' for Sundays at 03:00 UTC."
            ) from exc

    def next_fire(self, now: datetime) -> datetime:
        """The next time of the schedule after `now`."""
        return _aware(croniter(self._settings.training.schedule, now).get_next(datetime))

    def decide(self, now: datetime, examples: list[StyleExample]) -> Decision:
        """Whether a run is due: however many times were missed, one run makes up for them.

        Args:
            now: In UTC.
            examples: What would be trained on.
        """
        fire = _aware(croniter(self._settings.training.schedule, now).get_prev(datetime))
        last = self._runs.last()
        answered = max([self._since, *([last.started_at] if last is not None else [])])
        if fire <= answered:
            return Decision(start=False, reason=f"The next run is due at {self.next_fire(now):%Y-%m-%d %H:%M} UTC.")
        new = self._new(examples)
        least = self._settings.training.min_new_examples
        if new < least:
            return Decision(start=False, reason=f"{new} new examples, {least} are needed.", new_examples=new, fire=fire)
        try:
            with run_lock(self._settings):
                self._runs.abandon()
        except Busy as exc:
            return Decision(start=False, reason=exc.message, new_examples=new, fire=fire)
        return Decision(start=True, reason=f"{new} new examples.", new_examples=new, fire=fire)

    def _new(self, examples: list[StyleExample]) -> int:
        """Examples that the last finished run, or the adapter that answers, has not seen."""
        done = self._runs.last("done")
        if done is not None:
            return len({example_digest(example) for example in examples} - done.examples)
        registry = Registry(self._settings.registry)
        try:
            active = registry.active(self._settings.adapter.name)
            if active is not None and registry.manifest(active).data_digest == data_digest(examples):
                return 0
        except AdapterError as exc:
            log.warning("the active adapter cannot be compared with: %s", exc.message)
        return len(examples)


def gather_examples(settings: Settings, runs: TrainingRuns) -> list[StyleExample]:
    """The curator's file, and what people approved from feedback.

    Raises:
        ExampleError: The file cannot be read.
    """
    examples = load_examples(settings.training.examples)
    for row in runs.approved_candidates():
        try:
            examples.append(StyleExample.model_validate(row))
        except ValueError as exc:
            log.warning("an approved style candidate is no example and is left out: %s", exc)
    return examples


def write_examples(path: Path, examples: list[StyleExample]) -> None:
    """Writes examples as JSON Lines, for the process that trains.

    Raises:
        ExampleError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(example.model_dump(mode="json"), ensure_ascii=False) for example in examples]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as exc:
        raise ExampleError(f"The examples cannot be written to {str(path)!r}: {exc.strerror}.") from exc


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
