"""The data directory opened by a command, where no server runs."""

from types import TracebackType

from ingest.run import Ingestor
from services.chat.library import Library
from services.embedded import prepare_data_dir
from services.model.weights import ensure_models
from tandem.bootstrap import open_generations
from tandem.database import Database
from tandem.settings import Settings
from tandem.sparse import SparseEncoder


class Local:
    """Database, index and ingestor of a data directory, for the length of one command.

    Raises:
        IndexUnavailable: Another process holds the folder; its message says so.
    """

    def __init__(self, settings: Settings) -> None:
        prepare_data_dir(settings)
        ensure_models(settings, base=False)
        self.database = Database(settings.database)
        self.database.migrate()
        self._generations = open_generations(settings, self.database)
        self.ingestor = Ingestor(self.database, self._generations, SparseEncoder(), settings)
        self.library = Library(self.database)

    def __enter__(self) -> "Local":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ingestor.close()
        self._generations.close()
        self.database.close()
