"""What an adapter has had, and how much of that is drawn again."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.embedded import prepare_data_dir
from tandem.database import Database
from tandem.registry import AdapterRef, Registry
from tandem.settings import Settings, load_settings
from tests.adapter_files import add_adapter, manifest_for
from training.examples import ExampleSource, StyleExample
from training.material import read_material
from training.result import Result
from training.runs import TrainingRuns
from training.taught import Taught, drawn_again, read_taught, taught_to, write_taught

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NOTHING = Taught(frozenset())


def example(place: int, number: int) -> StyleExample:
    source = ExampleSource(title=f"Hall {place}", text=f"Visitors of hall {place} wait at door {number}.")
    return StyleExample(
        question=f"Where do visitors of hall {place} wait, the {number}th time?",
        answer=f"Visitors of hall {place} wait at the door [1].",
        sources=(source.model_copy(update={"text": f"Visitors of hall {place} wait at the door."}),),
        topic=f"hall {place}",
        approved_by="ada",
    )


EXAMPLES = [example(place, number) for number in range(3) for place in range(10)]


def had(*examples: StyleExample, folder: Path) -> Taught:
    """What the list in a folder says of these."""
    folder.mkdir(parents=True, exist_ok=True)
    write_taught(folder, examples)
    return Taught(read_taught(folder))


def test_what_is_new_is_drawn_with_its_group_and_a_share_of_the_rest(tmp_path: Path):
    new = {example(2, 1), example(7, 0)}
    taught = had(*(each for each in EXAMPLES if each not in new), folder=tmp_path)
    drawn = drawn_again(EXAMPLES, taught, 0.25, seed=1)
    halls = {each.topic for each in drawn}
    assert {"hall 2", "hall 7"} < halls
    assert len(halls) == 2 + 2  # a quarter of the eight that hold nothing new
    assert drawn == tuple(each for each in EXAMPLES if each.topic in halls)


def test_the_same_groups_are_drawn_for_the_same_seed_and_others_for_another(tmp_path: Path):
    taught = had(*EXAMPLES, folder=tmp_path)
    assert drawn_again(EXAMPLES, taught, 0.5, seed=1) == drawn_again(EXAMPLES, taught, 0.5, seed=1)
    assert len({drawn_again(EXAMPLES, taught, 0.5, seed=seed) for seed in range(8)}) > 1


def test_where_all_or_nothing_is_new_something_is_drawn(tmp_path: Path):
    assert drawn_again(EXAMPLES, NOTHING, 0.1, seed=1) == tuple(EXAMPLES)
    assert len(drawn_again(EXAMPLES, had(*EXAMPLES, folder=tmp_path), 0.001, seed=1)) == 3


class Line:
    """An adapter that a run made of some examples, and another that went on from it."""

    def __init__(self, settings: Settings, database: Database, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self.runs = TrainingRuns(database)
        self.database = database

    def made(self, seed: int, *examples: StyleExample, start: AdapterRef | None = None) -> AdapterRef:
        training = {"start_from": start.served} if start else {}
        ref = add_adapter(Registry(self._settings.registry), self._folder / str(seed), seed, training=training)
        with self.database.session() as session:
            id = self.runs.want(session, "manual", "house-style", "ada", at=NOW)
        attempt = self.runs.start(id, examples, at=NOW)
        manifest = manifest_for(ref.digest, training=training)
        assert self.runs.finish(id, attempt, Result(manifest=manifest, expected=""), at=NOW)
        return ref


@pytest.fixture
def line(tmp_path: Path):
    settings = load_settings(data_dir=tmp_path / "data", adapter={"shipped": None})
    prepare_data_dir(settings)
    database = Database(settings.database)
    database.migrate()
    yield settings, Line(settings, database, tmp_path)
    database.close()


def test_an_adapter_has_had_what_it_and_those_before_it_were_given_and_no_more(line: tuple[Settings, Line]):
    settings, made = line
    first = made.made(1, EXAMPLES[0])
    second = made.made(2, EXAMPLES[1], start=first)
    made.made(3, EXAMPLES[2], start=first)  # a sister, perhaps one that the gate refused
    taught = taught_to(settings, second.served)
    assert [each in taught for each in EXAMPLES[:4]] == [True, True, False, False]
    write_taught(settings.registry / "house-style", EXAMPLES[3:4])
    taught = taught_to(settings, second.served)
    assert [each in taught for each in EXAMPLES[:5]] == [True, True, False, True, False]


def test_a_run_draws_a_share_of_what_its_start_has_had_and_says_so(line: tuple[Settings, Line], tmp_path: Path):
    settings, made = line
    start = made.made(1, *EXAMPLES[:27])
    file = tmp_path / "examples.jsonl"
    file.write_text("".join(f"{each.model_dump_json()}\n" for each in EXAMPLES))
    settings.runs_dir.mkdir(parents=True, exist_ok=True)

    def read(**training: object) -> tuple[int, int, str]:
        said: list[str] = []
        changed = settings.training.model_copy(update={"heldout": file, **training})
        material = read_material(
            settings.model_copy(update={"training": changed}), file, lambda stage, message: said.append(message)
        )
        return len(material.trained), material.rested, " ".join(said)

    trained, rested, said = read(start_from=start.served, replay=0.3)
    assert (trained, rested) == (9 + 6, 15)  # the three halls with something new; two of the seven others
    assert f"{start.served} has had 27 of them; 15 are drawn from, all new ones with them." in said
    assert read(start_from=start.served)[:2] == (30, 0)
    trained, rested, said = read(replay=0.3)
    assert (trained, rested) == (30, 0)
    assert "TANDEM_TRAINING__REPLAY has no effect" in said
