"""Examples that were lifted from the sample company's documents are refused, with the real ingest between them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.engine import LocalEngine
from ingest.run import Ingestor
from ingest.sandbox import Sandbox
from tandem.database import Database
from tandem.errors import ExampleError
from tandem.generations import Generations
from tandem.settings import REPOSITORY, Settings, load_settings
from tandem.sparse import SparseEncoder
from training.corpus_facts import CorpusFacts
from training.events import TrainingEvent
from training.examples import load_examples
from training.guards import guard
from training.job import train

OpenIndex = Callable[[Settings, Database], Generations]
LIFTED = (
    ("Factory calibration of one probe costs EUR 68.", "corpus_figure"),
    ("Recommended for rivers: the Brook 2 with its case.", "corpus_name"),
    ("People at Fernhollow may ask for a chair.", "corpus_name"),
    ("A home-office allowance of 300 euros is paid once for a desk or a chair, against a receipt.", "corpus_figure"),
    ("An order above EUR 500 is delivered free of charge within the European Union.", "corpus_figure"),
)
FRESH = "Season tickets are refunded within thirty days, and a locker costs EUR 68."


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")  # never loaded: the guards come first
    return load_settings(data_dir=tmp_path / "data", model={"path": model})


def write(path: Path, *texts: str) -> Path:
    """Examples about the texts, each stating its text."""
    rows = [
        {
            "question": f"What is the rule, number {n}?",
            "sources": [{"title": "Rules", "text": text}],
            "answer": text.removesuffix(".") + " [1].",
            "approved_by": "ada",
            "tags": ["made-up"],
        }
        for n, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lifted_examples_are_refused_and_listed(settings: Settings, open_index: OpenIndex, tmp_path: Path) -> None:
    database = Database(settings.database)
    database.migrate()
    generations = open_index(settings, database)
    with Sandbox(settings.ingest) as sandbox:
        engine = LocalEngine(settings.ingest, sandbox)
        ingestor = Ingestor(database, generations, SparseEncoder(), settings, engine=engine)
        assert ingestor.ingest([REPOSITORY / "samples" / "corpus" / "v1"]).failed == ()
    generations.close()

    facts = CorpusFacts.of(database)
    database.close()
    assert facts is not None
    mixed = guard(load_examples(write(tmp_path / "mixed.jsonl", *(text for text, _ in LIFTED), FRESH)), facts)
    assert [refusal.reason for refusal in mixed.refusals] == [reason for _, reason in LIFTED]
    assert [example.sources[0].text for example in mixed.examples] == [FRESH]

    shipped = load_examples(settings.training.examples)
    assert len(guard(shipped, facts).refusals) <= 0.02 * len(shipped)

    said: list[TrainingEvent] = []
    with pytest.raises(ExampleError, match=r"None of the 5 examples .*refused\.jsonl"):
        train(settings, examples=write(tmp_path / "lifted.jsonl", *(text for text, _ in LIFTED)), on_event=said.append)
    messages = [event.message for event in said]
    assert messages[0].startswith("The examples are compared with the ")
    assert [message.split(":")[0] for message in messages[1:]] == [
        f"Example {n} is left out ({reason})" for n, (_, reason) in enumerate(LIFTED, start=1)
    ]
    listed = (settings.runs_dir / "refused.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in listed] == [1, 2, 3, 4, 5]


def test_without_documents_training_says_that_it_compared_nothing(settings: Settings, tmp_path: Path) -> None:
    said: list[TrainingEvent] = []
    with pytest.raises(ExampleError):
        train(settings, examples=write(tmp_path / "bad.jsonl", "Call +44 20 7946 0958."), on_event=said.append)
    assert said[0].message.startswith("No documents are ingested here")
    assert not Path(settings.data_dir / "tandem.db").exists()
