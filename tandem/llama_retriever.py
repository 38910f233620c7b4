"""Tandem's retrieval as a LlamaIndex retriever, for query engines and postprocessors written for LlamaIndex."""

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from tandem.retriever import Retriever
from tandem.schemas import Passage, Principal


def _today() -> date:
    return datetime.now(UTC).date()


class TandemRetriever(BaseRetriever):
    """Retrieves for one principal, through the same choke point as the assistant.

    Args:
        retriever: Tandem's retriever.
        principal: On whose behalf it searches; a new principal needs a new adapter.
        today: Gives the day whose documents are asked for.
        top_k: Passages at most; None takes the setting.
    """

    def __init__(
        self,
        retriever: Retriever,
        principal: Principal,
        *,
        today: Callable[[], date] = _today,
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        self._retriever = retriever
        self._principal = principal
        self._today = today
        self._top_k = top_k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        passages = self._retriever.retrieve(query_bundle.query_str, self._principal, self._today(), self._top_k)
        return [_node(passage) for passage in passages]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node(passage: Passage) -> NodeWithScore:
    metadata = passage.public()
    del metadata["quote"]
    return NodeWithScore(
        node=TextNode(
            id_=passage.chunk_id,
            text=passage.text,
            metadata=metadata,
            # What the model is shown of it; the rest is for whoever renders the citation.
            excluded_llm_metadata_keys=[key for key in metadata if key not in ("title", "heading")],
            excluded_embed_metadata_keys=list(metadata),
        ),
        score=passage.score,
    )
