"""State databases of both kinds, each of a test's own."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tandem.database import Database

POSTGRES = "postgresql+psycopg://127.0.0.1/test"


def postgres_url() -> Iterator[str]:
    """A schema of its own on the local PostgreSQL; skips where none answers."""
    admin = create_engine(POSTGRES, connect_args={"connect_timeout": 2})
    schema = f"tandem_{uuid.uuid4().hex[:12]}"
    try:
        with admin.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
    except OperationalError:
        admin.dispose()
        pytest.skip("no PostgreSQL answers on 127.0.0.1")
    yield f"{POSTGRES}?options=-csearch_path%3D{schema}"
    with admin.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'new 100%' / 'tandem.db'}"
    else:
        yield from postgres_url()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    database.migrate()
    yield database
    database.close()
