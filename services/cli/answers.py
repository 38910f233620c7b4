"""`tandem ask` and `tandem signals`: what a running server says."""

from typing import Annotated, Any

import typer
from rich.table import Table

from services.cli.options import AsJson, DataDir, err, out, server, show
from tandem.errors import InputError
from tandem.schemas import MODEL_NAMES

_MODELS = {arm: model for model, arm in MODEL_NAMES.items()}


def register(app: typer.Typer) -> None:
    app.command("ask")(ask)
    app.command("signals")(signals)


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    arm: Annotated[str, typer.Option(help="tandem, rag, style or base.")] = "tandem",
    as_of: Annotated[str | None, typer.Option(help="Answer as of this day, YYYY-MM-DD.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and print the answer with its citations."""
    if arm not in _MODELS:
        raise InputError(f"There is no arm {arm!r}. The arms are {', '.join(_MODELS)}.")
    if not question.strip():
        raise InputError('The question is empty. Write it in quotes: tandem ask "How many days of leave do I have?"')
    body: dict[str, Any] = {"model": _MODELS[arm], "messages": [{"role": "user", "content": question}]}
    if as_of:
        body["tandem"] = {"as_of": as_of}
    speaker = server(data_dir, "ask")
    if as_json:
        completion = speaker.post("/v1/chat/completions", body)
        show(_result(completion["choices"][0]["message"]["content"], completion["tandem"]), True, lambda _: None)
        return
    receipt: dict[str, Any] = {}
    for chunk in speaker.stream("/v1/chat/completions", body | {"stream": True}):
        for choice in chunk["choices"]:
            out.print(choice["delta"].get("content") or "", end="", markup=False)
        receipt = chunk.get("tandem") or receipt
    out.print()
    _sources(_result("", receipt))


def signals(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print early signs of failure, each with its threshold and what to do."""
    found = server(data_dir, "signals").get("/v1/signals")

    def table(result: dict[str, Any]) -> None:
        grid = Table("signal", "value", "threshold", "", "what to do")
        for row in result["data"]:
            state = "[red]firing[/red]" if row["firing"] else "ok"
            grid.add_row(
                row["name"], str(row["value"]), str(row["threshold"]), state, row["action"] if row["firing"] else ""
            )
        out.print(grid)

    show(found, as_json, table)


def _result(text: str, receipt: dict[str, Any]) -> dict[str, Any]:
    fields = ("arm", "adapter", "answer_id", "degraded")
    return {"answer": text, "citations": receipt.get("citations", []), **{name: receipt.get(name) for name in fields}}


def _sources(result: dict[str, Any]) -> None:
    for source in result["citations"]:
        place = " > ".join(part for part in (source["title"], source["heading"]) if part)
        page = f", page {source['page']}" if source["page"] else ""
        out.print(f"[{source['n']}] {place}{page} ({source['document_id']})", markup=False, style="dim")
    adapter = f" with {result['adapter']}" if result["adapter"] else ""
    note = f", degraded: {result['degraded']}" if result["degraded"] else ""
    err.print(f"{result['arm']}{adapter}{note}; receipt {result['answer_id']}", markup=False, style="dim")
