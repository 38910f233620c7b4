"""Whose turn it is to train: one process at a time on a state database, on whichever host it runs.

The data directory has a lock of its own (`training.job.run_lock`), for two commands on one folder. This one is held by
whoever starts a run and writes it down, so that its holder knows of every run in the database that it has ended.
"""

import contextlib
import fcntl
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tandem.database import Database
from tandem.errors import Busy, DatabaseUnavailable

# A pair of numbers: this one, and the schema, since several Tandems may share one database.
_TURN = 0x7A50
_TAKE = f"SELECT pg_try_advisory_lock({_TURN}, hashtext(current_schema()))"
# The server would notice only after hours that the host of a lock has lost its power.
_SETTINGS = (
    "tcp_keepalives_idle = 30",
    "tcp_keepalives_interval = 10",
    "tcp_keepalives_count = 3",
    "statement_timeout = '20s'",
)
# And this host, that it is cut off from the server, which has given the lock to another by then. In seconds, but for
# `tcp_user_timeout`.
_PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 20_000}
_PATIENCE |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class Turn:
    """The turn, for the length of a `with` block. The system and the database let it go when the process ends.

    Args:
        database: What the turn is for.

    Raises:
        Busy: Another process has it.
        DatabaseUnavailable: The database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._file: TextIOWrapper | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Turn":
        if not self._take():
            raise Busy(
                "A training run is under way on this state database: wait for it, `tandem training history` shows it."
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()

    def kept(self) -> bool:
        """Whether it is still ours. A connection that was lost is made anew, and the turn taken again if it is free.

        Raises:
            DatabaseUnavailable: The database does not answer, so nobody knows.
        """
        if self._connection is None:  # a file's lock cannot be lost; a connection was, and the server was away
            return self._take() if self._postgres else True
        try:
            self._connection.exec_driver_sql("SELECT 1")
        except DBAPIError:
            self._let_go()
            return self._take()
        return True

    @property
    def _postgres(self) -> bool:
        return self._database.engine.dialect.name == "postgresql"

    def _take(self) -> bool:
        if self._postgres:
            return self._take_in_database()
        if not self._database.url.database:
            return True  # in memory: nobody else sees it
        path = Path(self._database.url.database)
        file = path.with_name(f"{path.name}.training.lock").open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def _take_in_database(self) -> bool:
        # Without a pool, closing the connection ends it, and the server frees the lock.
        engine = create_engine(
            self._database.url, connect_args=_PATIENCE, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        try:
            self._connection = engine.connect()
            for setting in _SETTINGS:
                self._connection.exec_driver_sql(f"SET {setting}")
            if self._connection.exec_driver_sql(_TAKE).scalar_one():
                return True
        except DBAPIError as exc:
            self._let_go()
            raise DatabaseUnavailable(
                f"The turn to train cannot be taken: the state database said {' '.join(str(exc.orig).split())}."
            ) from exc
        self._let_go()
        return False

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._connection is not None:
            with contextlib.suppress(DBAPIError):
                self._connection.close()
        self._file = self._connection = None
