"""The state database: SQLite in WAL mode, or PostgreSQL, by URL."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from tandem.errors import DatabaseUnavailable, SettingsError

MIGRATIONS = Path(__file__).resolve().parent / "migrations"
# Any constant will do, as long as every Tandem process takes the same one while it migrates.
_ADVISORY_LOCK = 0x7A4D
_BUSY_TIMEOUT = 30.0


class Database:
    """Sessions on the state database. Safe to use from several threads; asynchronous callers use `asyncio.to_thread`.

    Args:
        url: SQLAlchemy URL, `sqlite:////folder/tandem.db` or `postgresql+psycopg://...`.

    Raises:
        SettingsError: The URL cannot be read.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
            self._sqlite = self.url.get_backend_name() == "sqlite"
            if self._sqlite:
                # The driver then takes the write lock with the first write of a session and waits for it. A lock that
                # is taken by a read first and raised later fails at once when somebody else has written in between.
                args: dict[str, Any] = {"timeout": _BUSY_TIMEOUT, "isolation_level": "IMMEDIATE"}
                self.engine = create_engine(self.url, connect_args=args)
                event.listen(self.engine, "connect", _configure_sqlite)
            else:
                self.engine = create_engine(self.url, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as exc:
            raise SettingsError(
                f"TANDEM_DATABASE_URL cannot be used: {exc}. "
                "Write it as postgresql+psycopg://USER@HOST/NAME, or leave it unset for SQLite."
            ) from exc
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A session that commits at the end and rolls back on any error.

        Rows stay readable after the session has ended. On SQLite each query of a session sees what is committed when
        it runs; queries that must agree belong into one statement.

        Raises:
            DatabaseUnavailable: The database does not answer, or is locked for more than 30 s.
        """
        with self._mapped(), self._sessions() as session, session.begin():
            yield session

    def migrate(self) -> None:
        """Creates the tables or brings them up to date. Processes that start together take turns.

        Raises:
            DatabaseUnavailable: The database does not answer, or a newer Tandem has written it.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self._migration_lock(), self._mapped(), self.engine.connect() as connection:
            if self._sqlite:
                # Kept in the file, so that it is set here once and not by every connection.
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                connection.rollback()
            with connection.begin():
                if self._sqlite:
                    # The driver begins a transaction with the first row that changes, not with a table that is made: a
                    # kill would leave half of the tables.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
                config.attributes["connection"] = connection
                self._upgrade(config, connection)

    def holds(self, table: str) -> bool:
        """Whether a table is there. Makes nothing, not even the file of SQLite. Raises what `session` raises."""
        if self._sqlite and not Path(self.url.database or "").exists():
            return False  # to look into it would make it
        with self.session() as session:
            return inspect(session.connection()).has_table(table)

    def ping(self) -> None:
        """Raises DatabaseUnavailable unless the database answers."""
        with self.session() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()

    def _upgrade(self, config: Config, connection: Connection) -> None:
        try:
            command.upgrade(config, "head")
        except CommandError as exc:
            raise DatabaseUnavailable(
                f"The state database {self._name} was written by another version of Tandem: {exc}. "
                "Start that version, or restore the backup made before it."
            ) from exc

    @property
    def _name(self) -> str:
        return self.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def _migration_lock(self) -> Iterator[None]:
        if not self._sqlite or not self.url.database:
            yield
            return
        path = Path(self.url.database)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = path.with_name(path.name + ".lock").open("w", encoding="utf-8")
        except OSError as exc:
            raise DatabaseUnavailable(
                f"The state database {str(path)!r} cannot be created: {exc.strerror}. "
                "Choose another folder with --data-dir or TANDEM_DATA_DIR."
            ) from exc
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed
            yield

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, PoolTimeout) as exc:
            # The bare DatabaseError is how SQLite says that a file is no database; its other children, such as
            # IntegrityError, are about the statement and concern whoever wrote it.
            if isinstance(exc, DBAPIError) and not (
                isinstance(exc, OperationalError | InterfaceError) or type(exc) is DatabaseError
            ):
                raise
            cause = exc.orig if isinstance(exc, DBAPIError) else exc
            raise DatabaseUnavailable(
                f"The state database {self._name} does not answer: {' '.join(str(cause).split())}. "
                "Check TANDEM_DATABASE_URL and that it runs, or that the disk is not full."
            ) from exc


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys=ON")
    # In WAL mode this loses no consistency, at worst the last commits before a power cut.
    connection.execute("PRAGMA synchronous=NORMAL")
