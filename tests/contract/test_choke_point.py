"""Searches go through one door: `Retriever.authorised_search`. Read from the source, so that no path is missed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("tandem", "ingest", "training", "eval", "services")
QDRANT_FILES = ("tandem/qdrant.py", "tandem/vectors.py")
ENGINE_CALLS = {
    "query_points", "query_points_groups", "query_batch_points", "scroll", "recommend",
    "recommend_groups", "recommend_batch", "discover", "discover_batch", "search_batch", "search_groups",
    "search_matrix_pairs", "search_matrix_offsets", "facet",
}  # fmt: skip


def violations(path: str, source: str) -> Iterator[str]:
    """Sentences about what `source`, standing at `path`, must not do."""
    for node in ast.walk(ast.parse(source)):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            yield from _call_violations(path, where, node.func)
        for module in modules:
            if module.split(".")[0] == "qdrant_client" and path not in QDRANT_FILES:
                yield f"{where} imports {module}; only {' and '.join(QDRANT_FILES)} speak to Qdrant"


def _call_violations(path: str, where: str, called: ast.expr) -> Iterator[str]:
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    owner = ast.unparse(called.value).lower() if isinstance(called, ast.Attribute) else ""
    if name in ENGINE_CALLS and path not in QDRANT_FILES:
        yield f"{where} calls {name}"
    if name in {"search", "retrieve"} and ("client" in owner or "qdrant" in owner) and path not in QDRANT_FILES:
        yield f"{where} calls {owner}.{name}"
    # By the name of what it is called on: an SQLAlchemy session may have a `query` as well.
    if name == "query" and "index" in owner and path != "tandem/retriever.py":
        yield f"{where} calls {owner}.query; only tandem/retriever.py searches, since it checks every hit"


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
    ],
)
def test_the_lint_sees(source: str):
    assert list(violations("services/chat/app.py", source))


@pytest.mark.parametrize("source", ["re.search('a', 'b')", "retriever.retrieve(q)", "session.query(Row)", "x = index"])
def test_the_lint_lets_pass(source: str):
    assert not list(violations("services/chat/app.py", source))
