"""Puts the parts together: one function for production, tests and the embedded process."""

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.adapters import ActiveAdapter
from tandem.assistant import Assistant
from tandem.completions import Completions
from tandem.cross_encoder import CrossEncoder
from tandem.database import Database
from tandem.embedder import Embedder
from tandem.errors import ModelUnavailable
from tandem.evidence import EvidenceSelector
from tandem.generations import Generations, live_recipe
from tandem.qdrant import open_qdrant
from tandem.registry import Registry
from tandem.replicas import Replicas
from tandem.retriever import Retriever
from tandem.settings import Settings
from tandem.sparse import SparseEncoder
from tandem.style import StyleGuide, load_style
from tandem.weights import cross_encoder_dir, embedder_name, model_dir, models_dir


@dataclass(frozen=True)
class Container:
    """Every long-lived part, made once and passed on."""

    settings: Settings
    database: Database
    generations: Generations
    embedder: Embedder
    sparse: SparseEncoder
    retriever: Retriever
    registry: Registry
    completions: Replicas
    adapters: ActiveAdapter
    assistant: Assistant
    style: StyleGuide

    async def aclose(self) -> None:
        """Releases connections and the index's folder."""
        await self.completions.aclose()
        self.generations.close()
        self.database.close()


def bootstrap(settings: Settings, *, model_url: str | Sequence[str]) -> Container:
    """Builds every part from the settings; opens the database and the index.

    Args:
        settings: The configuration, read once by the caller.
        model_url: OpenAI-compatible endpoint, ending in /v1, or several with the same base model; they need not answer
            yet.

    Raises:
        ModelUnavailable: The embedding model was not prepared.
        DatabaseUnavailable: The state database does not answer.
        IndexUnavailable: Qdrant does not answer, or another process holds its folder.
    """
    database = Database(settings.database)
    database.migrate()
    generations = open_generations(settings, database)
    embedder = generations.embedder
    sparse = SparseEncoder()
    retriever = Retriever(database, generations, sparse, settings.retrieval)
    registry = Registry.open(settings)
    key = settings.model.api_key.get_secret_value() if settings.model.api_key else None
    urls = (model_url,) if isinstance(model_url, str) else model_url
    completions = Replicas([Completions(url, key, settings.model.timeout) for url in urls])
    adapters = ActiveAdapter(registry, completions, settings.adapter.name)
    style = load_style(settings.style)
    prepared = cross_encoder_dir(settings)
    cross_encoder = CrossEncoder(prepared, settings.embedding.threads) if prepared is not None else None
    evidence = EvidenceSelector(embedder, sparse, settings.retrieval, cross_encoder)
    assistant = Assistant(retriever, evidence, completions, adapters, database, style, settings)
    return Container(
        settings, database, generations, embedder, sparse, retriever, registry, completions, adapters, assistant, style
    )


def open_generations(settings: Settings, database: Database) -> Generations:
    """Opens the index and the embedding model that the settings name.

    Raises:
        ModelUnavailable: The model was not prepared.
        IndexUnavailable: Another process holds the index's folder, or it is broken.
    """

    def open_embedder(model_id: str) -> Embedder:
        try:
            return Embedder(models_dir(settings) / model_id, settings.embedding)
        except ModelUnavailable as exc:
            name = model_id.rsplit("-", 1)[0]
            raise ModelUnavailable(
                f"The index was made by {model_id}, which cannot be opened here: {exc.message} Set "
                f"TANDEM_EMBEDDING__MODEL={name} and run `tandem models`, or name another model there and ingest, "
                "which builds the index anew."
            ) from exc

    made_by = live_recipe(database)
    if settings.embedding.model == "auto" and made_by is not None:
        # Else two machines that share an index, of which one is quicker in int8, would build it anew in turns.
        embedder = open_embedder(made_by.model_id)
    else:
        embedder = Embedder(model_dir(settings, embedder_name(settings)), settings.embedding)
    return Generations(database, open_qdrant(settings), embedder, open_embedder)
