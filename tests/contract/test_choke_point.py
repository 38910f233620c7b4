"""Searches go through one door: `Retriever.authorised_search`. Read from the source, so that no path is missed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("tandem", "ingest", "training", "eval", "services")
QDRANT_FILES = ("tandem/qdrant.py", "tandem/vectors.py")
# Ways of QdrantClient to read points, under names that mean nothing else: to mention one is to search.
ENGINE_CALLS = {
    "query_points", "query_points_groups", "query_batch_points", "scroll", "facet",
    "search_matrix_pairs", "search_matrix_offsets",
    # No longer in the client, but in the server's older ones.
    "recommend", "recommend_groups", "recommend_batch", "discover", "discover_batch", "search_batch", "search_groups",
    "query_batch",
}  # fmt: skip
# Those under common names: what they are called on tells.
COMMON_CALLS = {"search", "retrieve", "query", "count"}
# What is left of the client writes, or speaks of collections, not of points.
HARMLESS = re.compile(
    r"(create|delete|update|upsert|upload|set|overwrite|clear|batch_update|recover|get|list|collection|cluster|"
    r"remove|recreate|wait|cloud)_.*|upsert|delete|close|info|http|grpc_.*|init_options|migrate|lock_storage|"
    r"unlock_storage|rest|local_inference_batch_size|cluster_.*"
)


def violations(path: str, source: str) -> Iterator[str]:
    """Sentences about what `source`, standing at `path`, must not do."""
    for node in ast.walk(ast.parse(source)):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from _imports(path, where, [alias.name for alias in node.names])
        elif isinstance(node, ast.ImportFrom):
            yield from _imports(path, where, [node.module or ""])
        elif isinstance(node, ast.Attribute):  # called at once, or kept under another name for later
            yield from _mention(path, where, ast.unparse(node.value).lower(), node.attr)
        elif isinstance(node, ast.Name) and node.id in ENGINE_CALLS and path not in QDRANT_FILES:
            yield f"{where} names {node.id}"
        elif isinstance(node, ast.Call):
            yield from _by_text(path, where, node)


def _imports(path: str, where: str, modules: list[str]) -> Iterator[str]:
    for module in modules:
        if module.split(".")[0] == "qdrant_client" and path not in QDRANT_FILES:
            yield f"{where} imports {module}; only {' and '.join(QDRANT_FILES)} speak to Qdrant"


def _mention(path: str, where: str, owner: str, name: str) -> Iterator[str]:
    if path in QDRANT_FILES:
        return
    # By the name of what it belongs to: an SQLAlchemy session may have a `query` as well.
    engine = "qdrant" in owner or owner.endswith("client")
    index = "index" in owner
    if name in ENGINE_CALLS or (name in COMMON_CALLS and engine):
        yield f"{where} uses {owner}.{name}"
    if name == "_client" and index:
        yield f"{where} reaches through {owner} to Qdrant"
    if name == "query" and (index or owner == "vectorindex") and path != "tandem/retriever.py":
        yield f"{where} uses {owner}.query; only tandem/retriever.py searches, since it checks every hit"


def _by_text(path: str, where: str, call: ast.Call) -> Iterator[str]:
    """Names given as text: `getattr(client, "scroll")`, `import_module("qdrant_client")`."""
    called = ast.unparse(call.func).rsplit(".", 1)[-1]
    texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if called in ("import_module", "__import__"):
        yield from _imports(path, where, texts)
    if called in ("getattr", "attrgetter", "methodcaller"):
        owner = ast.unparse(call.args[0]).lower() if called == "getattr" else "index client"
        for text in texts:
            yield from _mention(path, where, owner, text)


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py"))


def test_only_the_retriever_searches():
    files = sources()
    assert REPOSITORY / "tandem" / "retriever.py" in files
    found = [
        sentence
        for path in files
        for sentence in violations(path.relative_to(REPOSITORY).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_lint_knows_every_way_to_read_points():
    """A new version of the client may bring a new one."""
    public = {name for name in dir(QdrantClient) if name[0] != "_" and callable(getattr(QdrantClient, name))}
    assert {name for name in public - ENGINE_CALLS - COMMON_CALLS if not HARMLESS.fullmatch(name)} == set()


def test_the_index_searches_in_one_place():
    tree = ast.parse((REPOSITORY / "tandem" / "vectors.py").read_text(encoding="utf-8"))
    searching = {
        method.name
        for owner in tree.body
        if isinstance(owner, ast.ClassDef)
        for method in owner.body
        if isinstance(method, ast.FunctionDef)
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and node.attr in ENGINE_CALLS - {"facet"}
    }
    assert searching == {"query"}


def test_the_retriever_searches_in_one_place():
    source = (REPOSITORY / "tandem" / "retriever.py").read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    searching = [function.name for function in functions if ".index.query(" in ast.unparse(function)]
    assert searching == ["authorised_search"]


@pytest.mark.parametrize(
    "source",
    [
        "from qdrant_client import QdrantClient",
        "import qdrant_client.models as m",
        "self.index.query(vector, sparse, scope, candidates=4)",
        "container.vector_index.query(v)",
        "index._client.query_points('tandem')",
        "client.search('x')",
        "qdrant.retrieve('x', [1])",
        "client.scroll('tandem', with_vectors=True)",
        "find = container.index.query",
        "find = self._client.query_points",
        "VectorIndex.query(index, v)",
        "partial(index.query, v)",
        "getattr(index, 'query')(v)",
        "getattr(index._client, 'sc' 'roll')",
        "qdrant = index._client",
        "operator.methodcaller('query_points', 'tandem')(x)",
        "index._client.count('tandem')",
        "importlib.import_module('qdrant_client.local')",
        "__import__('qdrant_client')",
        "def f(query_points=query_points): ...",
    ],
)
def test_the_lint_sees(source: str):
    assert list(violations("services/chat/app.py", source))


@pytest.mark.parametrize(
    "source", ["re.search('a', 'b')", "retriever.retrieve(q)", "session.query(Row)", "x = index", "index.count(v)"]
)
def test_the_lint_lets_pass(source: str):
    assert not list(violations("services/chat/app.py", source))
