"""The index over a data directory of a test's own."""

from collections.abc import Callable

import pytest

from tandem.database import Database
from tandem.embedder import Embedder
from tandem.generations import Generations
from tandem.qdrant import open_qdrant
from tandem.settings import EmbeddingSettings, Settings, load_settings
from tandem.weights import models_dir


@pytest.fixture(scope="session")
def open_index(embedder: Embedder) -> Callable[[Settings, Database], Generations]:
    """Opens the index in a data directory, with the embedder that is loaded already."""

    def other(model_id: str) -> Embedder:
        return Embedder(models_dir(load_settings()) / model_id, EmbeddingSettings())

    return lambda settings, database: Generations(database, open_qdrant(settings), embedder, other)
