"""Which examples count as new."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.embedded import prepare_data_dir
from tandem.database import Database
from tandem.errors import AdapterError
from tandem.settings import Settings, load_settings
from training.candidates import Candidates
from training.examples import StyleExample, load_examples
from training.pool import count_new, gather_examples
from training.runs import TrainingRuns
from training.taught import TAUGHT, write_taught


@pytest.fixture
def fresh(tmp_path: Path):
    """Settings of an installation that has just been made, and what counts its new examples."""
    settings = load_settings(
        data_dir=tmp_path / "data", training={"examples": tmp_path / "examples.jsonl", "min_new_examples": 20}
    )
    prepare_data_dir(settings)
    database = Database(settings.database)
    database.migrate()

    def count(chosen: Settings = settings) -> int:
        return count_new(chosen, TrainingRuns(database), gather_examples(chosen, Candidates(database, chosen)))

    yield settings, count
    database.close()


def write(settings: Settings, *examples: StyleExample) -> None:
    settings.training.examples.write_text("".join(f"{example.model_dump_json()}\n" for example in examples))


def example(question: str, approved_by: str = "ada") -> StyleExample:
    return StyleExample(question=question, answer="Ask the keeper.", approved_by=approved_by)


def test_a_fresh_installation_does_not_train_on_what_its_adapter_has_had(fresh: tuple[Settings, Callable[..., int]]):
    settings, count = fresh
    shipped = load_settings(data_dir=settings.data_dir)
    assert len(load_examples(shipped.training.examples)) > 10_000
    assert count(shipped) < shipped.training.min_new_examples


def test_what_joins_the_file_is_new_and_what_the_adapter_has_had_is_not(fresh: tuple[Settings, Callable[..., int]]):
    settings, count = fresh
    had = [example("Who opens?"), example("Who closes?")]
    write_taught(settings.registry / settings.adapter.name, had)
    write(settings, *had)
    assert count() == 0
    write(settings, *had, example("Who locks?"), example("Who knocks?", approved_by=""))
    assert count() == 1
    write(settings, had[0].model_copy(update={"answer": "Ask nobody."}), had[1])
    assert count() == 1


def test_without_a_list_all_are_new(fresh: tuple[Settings, Callable[..., int]]):
    settings, count = fresh
    (settings.registry / settings.adapter.name / TAUGHT).unlink()
    write(settings, example("Who opens?"), example("Who closes?"))
    assert count() == 2


def test_a_broken_line_of_the_list_costs_that_line(fresh: tuple[Settings, Callable[..., int]]):
    settings, count = fresh
    had = [example("Who opens?"), example("Who closes?")]
    folder = settings.registry / settings.adapter.name
    write_taught(folder, had)
    (folder / TAUGHT).write_bytes(b"\xff" + (folder / TAUGHT).read_bytes())
    write(settings, *had)
    assert count() == 1


def test_a_list_that_cannot_be_read_is_told(fresh: tuple[Settings, Callable[..., int]]):
    settings, count = fresh
    (settings.registry / settings.adapter.name / TAUGHT).unlink()
    (settings.registry / settings.adapter.name / TAUGHT).mkdir()
    write(settings, example("Who opens?"))
    with pytest.raises(AdapterError, match="Make it readable, or remove it: all examples count as new then"):
        count()
