import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import IntegrityError

from tandem.database import MIGRATIONS, Database
from tandem.errors import DatabaseUnavailable, SettingsError
from tandem.tables import AuditRow, ChunkRow, DocumentRow, EmbeddingRow, GenerationRow, Table, VersionRow

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def audit(action: str) -> AuditRow:
    return AuditRow(user="ada", action=action, subject="s", detail=None, created_at=NOW)


def test_migrations_make_exactly_the_tables(database: Database):
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_migrating_again_changes_nothing(database: Database):
    with database.session() as session:
        session.add(audit("before"))
    database.migrate()
    with database.session() as session:
        assert session.scalars(select(AuditRow.action)).all() == ["before"]


def test_processes_that_start_together_take_turns(url: str):
    failures: list[BaseException] = []

    def start() -> None:
        database = Database(url)
        try:
            database.migrate()
        except BaseException as exc:
            failures.append(exc)
        finally:
            database.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_session_commits_and_its_rows_stay_readable(database: Database):
    with database.session() as session:
        row = audit("kept")
        session.add(row)
    assert row.action == "kept"
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(AuditRow)) == 1


def test_a_session_rolls_back_on_any_error(database: Database):
    def fail_half_way() -> None:
        with database.session() as session:
            session.add(audit("lost"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with database.session() as session:
        assert session.scalars(select(AuditRow)).all() == []


def test_foreign_keys_hold_and_cascade(database: Database):
    version = {
        "state": "published", "groups": ["everyone"], "content_hash": "c", "metadata_hash": "m",
        "reader": "1", "text": "t", "created_at": NOW,
    }  # fmt: skip
    with pytest.raises(IntegrityError), database.session() as session:
        session.add(VersionRow(id="v0", document_id="nobody", seq=1, **version))
    with database.session() as session:
        session.add(DocumentRow(id="d", created_at=NOW))
        session.flush()
        session.add(VersionRow(id="v1", document_id="d", seq=1, **version))
    with database.session() as session:
        session.delete(session.get_one(DocumentRow, "d"))
    with database.session() as session:
        assert session.get(VersionRow, "v1") is None


def test_writers_in_several_threads_wait_for_each_other(database: Database):
    # Each reads before it writes: with a lock raised from read to write, SQLite would refuse most of these at once.
    def count_up() -> None:
        for _ in range(10):
            with database.session() as session:
                number = session.scalar(select(func.count()).select_from(EmbeddingRow))
                session.add(EmbeddingRow(key=f"{number}-{uuid.uuid4().hex}", vector=b""))

    threads = [threading.Thread(target=count_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(EmbeddingRow)) == 60


def test_a_reader_does_not_wait_for_a_writer(database: Database):
    with database.session() as writer:
        writer.add(audit("open"))
        writer.flush()
        with database.session() as reader:
            assert reader.scalars(select(AuditRow)).all() == []


def test_sqlite_runs_in_wal_mode(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'tandem.db'}")
    database.migrate()
    with database.session() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
    database.close()


def test_a_database_that_is_down_is_named_without_its_password():
    database = Database("postgresql+psycopg://ada:secret@127.0.0.1:1/x?connect_timeout=2")
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1/x\S* does not answer") as caught:
        database.ping()
    assert "secret" not in caught.value.message


def test_a_file_that_is_no_database_is_told(tmp_path: Path):
    (tmp_path / "tandem.db").write_bytes(b"not a database, certainly not" * 100)
    database = Database(f"sqlite:///{tmp_path / 'tandem.db'}")
    with pytest.raises(DatabaseUnavailable, match="not a database"):
        database.migrate()
    database.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    database = Database(f"sqlite:///{tmp_path / 'file' / 'tandem.db'}")
    with pytest.raises(DatabaseUnavailable, match="--data-dir"):
        database.migrate()


def test_a_database_of_a_newer_tandem_is_refused(database: Database):
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnavailable, match="another version of Tandem"):
        database.migrate()


def test_a_url_that_cannot_be_read_is_a_settings_error():
    for url in ("nonsense", "oracle9://x/y"):
        with pytest.raises(SettingsError, match="TANDEM_DATABASE_URL"):
            Database(url)


def test_what_was_ingested_before_there_were_generations_is_the_live_one(database: Database):
    with database.engine.begin() as connection:
        migrate_to(connection, "0001")
        connection.exec_driver_sql("INSERT INTO documents VALUES ('d', '', '2026-01-01 00:00:00')")
        connection.exec_driver_sql(
            "INSERT INTO versions (id, document_id, seq, state, indexed, title, owner, label, source_url, trust, "
            "source_hash, content_hash, metadata_hash, splitter, text, chunk_count, created_at) VALUES "
            "('v', 'd', 1, 'published', true, '', '', '', '', '', 's', 'c', 'm', '1.1.90.160.mini-0123', 't', 1, "
            "'2026-01-01 00:00:00')"
        )
        connection.exec_driver_sql(
            'INSERT INTO chunks (id, version_id, ordinal, key, text, heading, start, "end") '
            "VALUES ('x', 'v', 0, 'k', 't', '', 0, 1)"
        )
    database.migrate()
    with database.session() as session:
        (generation,) = session.scalars(select(GenerationRow)).all()
        assert (generation.state, generation.model_id, generation.splitter) == ("live", "mini-0123", "1.90.160")
        assert session.get_one(ChunkRow, "x").generation_id == generation.id
        assert session.get_one(VersionRow, "v").text == "t"


def migrate_to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.downgrade(config, revision)
