"""Who holds the ingest lock, as the next one is told."""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, for the sentence that the next one is told.

    Attributes:
        pid, host: Its process.
        since: Seconds since 1970 when it took the lock.
        work: What it does: `run 1a2b3c4d`, `a deletion`.
    """

    pid: int
    host: str
    since: int
    work: str

    @classmethod
    def here(cls, work: str) -> "Holder":
        """This process, from now on."""
        return cls(os.getpid(), socket.gethostname(), int(time.time()), work)

    @classmethod
    def read(cls, note: str) -> "Holder | None":
        """Reads the note in a lock file."""
        try:
            return cls(**json.loads(note))
        except (ValueError, TypeError):
            return None

    @property
    def note(self) -> str:
        """As it stands in a lock file."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def named(cls, name: str) -> "Holder | None":
        """Reads the name of a database connection."""
        parts = name.split("|")
        if len(parts) != 4 or not (parts[0].isdecimal() and parts[1].isdecimal()):
            return None
        return cls(int(parts[0]), parts[3], int(parts[1]), parts[2])

    @property
    def name(self) -> str:
        """As the name of a database connection, which PostgreSQL cuts to 63 bytes of ASCII."""
        return f"{self.pid}|{self.since}|{self.work.replace('|', ' ')[:24]}|{self.host}"[:63]

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC)
        return f"{self.work}, process {self.pid} on {self.host}, since {since:%Y-%m-%d %H:%M:%S} UTC"
