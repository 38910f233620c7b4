"""The real embedder, loaded once for all integration tests."""

from pathlib import Path

import pytest

from services.model.weights import ensure_models
from tandem.embedder import Embedder
from tandem.settings import load_settings


@pytest.fixture(scope="session")
def embedder_dir() -> Path:
    return ensure_models(load_settings(), embedder=True, base=False).embedder


@pytest.fixture(scope="session")
def embedder(embedder_dir: Path) -> Embedder:
    return Embedder(embedder_dir, load_settings().embedding)
