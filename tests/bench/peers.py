"""LlamaIndex's `IngestionPipeline` and LangChain's `index()` over the same files, with the same embedder.

Both keep what they store in memory, which costs them no disk; Tandem writes to its folder as always. Front matter goes
into the metadata, where it belongs with both, and is kept out of what is embedded. Chunks are about as long as
Tandem's, without overlap.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from ingest.metadata import front_matter_of, split_front_matter
from tests.bench.counting import CountingEmbedder

_CHUNK_TOKENS = 160
_CHUNK_CHARS = 620
# Runs over the folder and returns the number of chunks it then holds.
Run = Callable[[Path], int]


def peers(embedder: CountingEmbedder) -> dict[str, Run | str]:
    """Those that are installed, and a sentence for one that is not."""
    found: dict[str, Run | str] = {"LlamaIndex": _llama_index(embedder)}
    if importlib.util.find_spec("langchain_core") and importlib.util.find_spec("langchain_text_splitters"):
        found["LangChain"] = _langchain(embedder)
    else:
        found["LangChain"] = "LangChain is left out: it is not installed here (`make bench` installs it)."
    return found


def _files(root: Path) -> list[tuple[str, str, dict[str, str]]]:
    """Id, body and metadata of each file."""
    files = []
    for path in sorted(root.rglob("*.md")):
        data, id = path.read_bytes(), path.relative_to(root).as_posix()
        declared = {key: str(value) for key, value in front_matter_of(id, data).items()}
        files.append((id, split_front_matter(data.decode()).body, {"source": id, **declared}))
    return files


def _llama_index(embedder: CountingEmbedder) -> Run:
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import Document
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.core.vector_stores import SimpleVectorStore

    class Shared(BaseEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return [vector.tolist() for vector in embedder.embed(texts)]

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    store = SimpleVectorStore()
    pipeline = IngestionPipeline(
        transformations=[
            SentenceSplitter(chunk_size=_CHUNK_TOKENS, chunk_overlap=0, include_metadata=False, tokenizer=str.split),
            Shared(model_name="shared", embed_batch_size=256),
        ],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        vector_store=store,
    )

    def run(root: Path) -> int:
        documents = []
        for id, body, metadata in _files(root):
            keys = list(metadata)
            document = Document(id_=id, text=body, metadata=metadata, excluded_embed_metadata_keys=keys)
            documents.append(document)
        pipeline.run(documents=documents, show_progress=False)
        return len(store.data.embedding_dict)

    return run


def _langchain(embedder: CountingEmbedder) -> Run:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.indexing import InMemoryRecordManager, index
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    class Shared(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vector.tolist() for vector in embedder.embed(texts)]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    records = InMemoryRecordManager(namespace="handbook")
    records.create_schema()
    store = InMemoryVectorStore(Shared())
    splitter = RecursiveCharacterTextSplitter(chunk_size=_CHUNK_CHARS, chunk_overlap=0)

    def run(root: Path) -> int:
        documents = [Document(page_content=body, metadata=metadata) for _, body, metadata in _files(root)]
        chunks = splitter.split_documents(documents)
        index(chunks, records, store, cleanup="full", source_id_key="source", key_encoder="blake2b", batch_size=256)
        return len(store.store)

    return run
