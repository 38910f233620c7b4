"""The ingest lock in PostgreSQL, for hosts that share a database and no folder."""

import contextlib
import threading
from types import TracebackType

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ingest.holder import Holder
from tandem.database import Database
from tandem.errors import DatabaseUnavailable

# Each lock is a pair of numbers: one of these, and the schema, since several Tandems may share one database.
_HELD = 0x7A4E
_COMMITTING = 0x7A4F
_SCHEMA = "hashtext(current_schema())"
_MINE = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND pid = {pid} "
    f"AND classid = {_HELD} AND objid::bigint = {_SCHEMA}::bigint & 4294967295 "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_HOLDER = (
    "SELECT application_name FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' "
    f"AND granted AND objsubid = 2 AND classid = {_HELD} AND objid::bigint = {_SCHEMA}::bigint & 4294967295 "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)
# The server would notice only after hours that the host of a lock has lost its power; through a socket they are 0.
_SETTINGS = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 10", "tcp_keepalives_count = 3")


class DatabaseLock:
    """An advisory lock on a connection of its own; the server frees it when that connection ends.

    A holder that has lost it must not commit any more. So each of its commits takes a second lock, shared, and then
    looks whether the first is still its own; a new holder takes the second one alone for a moment before it begins.
    A commit therefore comes before everything that the new holder reads, or fails.

    Args:
        database: On PostgreSQL.
    """

    def __init__(self, database: Database) -> None:
        self.where = database.engine.url.render_as_string(hide_password=True)
        self._database = database
        # Without a pool, closing the connection ends it, and the server frees the lock.
        self._engine = create_engine(
            database.engine.url, poolclass=NullPool, pool_reset_on_return=None, isolation_level="AUTOCOMMIT"
        )
        self._thread = threading.get_ident()
        self._connection: Connection | None = None
        self._pid = 0
        self._held = False

    def __enter__(self) -> "DatabaseLock":
        self._database.ping()  # one that does not answer says so in its own words
        try:
            connection = self._engine.connect()
            for setting in _SETTINGS:
                connection.exec_driver_sql(f"SET {setting}")
            self._pid = int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        except DBAPIError as exc:
            raise self._lost(exc) from exc
        self._connection = connection
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            event.remove(self._database.engine, "commit", self._check)
        if self._connection is not None:
            self._connection.close()

    def take(self, holder: Holder) -> bool:
        """Takes the lock if it is free."""
        if not self._try(f"SELECT pg_try_advisory_lock({_HELD}, {_SCHEMA})"):
            return False
        # Somebody who lost the lock may be in the middle of a commit, which is checked already and cannot be stopped.
        if not self._try(f"SELECT pg_try_advisory_lock({_COMMITTING}, {_SCHEMA})"):
            self._try(f"SELECT pg_advisory_unlock({_HELD}, {_SCHEMA})")
            return False
        self._try(f"SELECT pg_advisory_unlock({_COMMITTING}, {_SCHEMA})")
        self._try("SELECT set_config('application_name', %s, false)", (holder.name,))
        self._held = True
        event.listen(self._database.engine, "commit", self._check)
        return True

    def holder(self) -> Holder | None:
        """Who holds it."""
        if self._connection is None:
            return None
        with contextlib.suppress(DBAPIError):
            for name in self._connection.exec_driver_sql(_HOLDER).scalars():
                return Holder.named(name or "")
        return None

    def _try(self, statement: str, values: tuple[str, ...] | None = None) -> bool:
        if self._connection is None:
            raise RuntimeError("The lock is used outside its `with` block.")
        try:
            return bool(self._connection.exec_driver_sql(statement, values).scalar_one())
        except DBAPIError as exc:
            raise self._lost(exc) from exc

    def _check(self, connection: Connection) -> None:
        """Called before each commit. Of other threads' commits nothing hangs on the lock."""
        if threading.get_ident() != self._thread:
            return
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({_COMMITTING}, {_SCHEMA})")
        if not connection.exec_driver_sql(_MINE.format(pid=self._pid)).scalar_one():
            raise self._lost(None)

    def _lost(self, cause: DBAPIError | None) -> DatabaseUnavailable:
        why = " ".join(str(cause.orig).split()) if cause else "the connection that held it has ended"
        return DatabaseUnavailable(
            f"The ingest lock in the state database {self.where} is lost: {why}. What was committed stays, nothing "
            "was committed after. Check that the database runs, then run the ingest again."
        )
