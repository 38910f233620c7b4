"""The main job through HTTP, every part real: ingest, ask in four arms, replace the documents, ask again."""

import json
import threading

import httpx
import pytest
from openai import NotFoundError, OpenAI

from tandem.schemas import MODEL_NAMES
from tandem.settings import REPOSITORY

pytestmark = pytest.mark.model

ALLOWANCE = "How much is the daily meal allowance for domestic trips?"


@pytest.fixture
def client(up) -> OpenAI:
    return OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0)


def ask(client: OpenAI, question: str, model: str = "tandem", **extra):
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=60, extra_body=extra
    )


def test_the_four_arms_are_models(client):
    assert [model.id for model in client.models.list()] == list(MODEL_NAMES)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_each_arm_answers_and_says_what_it_used(client, up, model_server, model):
    completion = ask(client, ALLOWANCE, model)
    receipt = completion.tandem
    assert completion.choices[0].message.content
    assert receipt["degraded"] is None
    assert bool(receipt["passages"]) == (model in ("tandem", "tandem-rag"))
    assert bool(receipt["adapter"]) == (model in ("tandem", "tandem-style"))
    stored = httpx.get(f"{up.url}/v1/answers/{receipt['answer_id']}").json()
    assert stored["text"] == completion.choices[0].message.content


def test_a_citation_resolves_to_the_exact_passage(client, up):
    receipt = ask(client, ALLOWANCE).tandem
    for passage in receipt["passages"]:
        document = httpx.get(f"{up.url}/v1/documents/{passage['document_id']}").json()
        text = " ".join(document["text"].split())
        for line in passage["quote"].splitlines():
            assert " ".join(line.split()) in text


def test_a_stream_carries_the_receipt_with_the_finish_reason(client):
    whole = ask(client, ALLOWANCE).choices[0].message.content
    pieces, last = [], None
    stream = client.chat.completions.create(
        model="tandem",
        messages=[{"role": "user", "content": ALLOWANCE}],
        max_tokens=60,
        stream=True,
        stream_options={"include_usage": True},
    )
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            if choice.finish_reason:
                assert last is None
                last = chunk
    assert "".join(pieces) == whole
    assert last is not None
    assert last.tandem["passages"]
    assert usage.completion_tokens > 0


def test_two_clients_at_once_get_the_answers_that_each_gets_alone(client):
    questions = [ALLOWANCE, "How long is the warranty period for Brook 2 meters and Weir L loggers?"]
    alone = [ask(client, question, "tandem-rag").tandem["passages"] for question in questions]
    together: dict[str, object] = {}

    def one(question: str) -> None:
        together[question] = ask(client, question, "tandem-rag").tandem["passages"]

    threads = [threading.Thread(target=one, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [together[question] for question in questions] == alone


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"nonsense", 400),
        (b"{}", 400),
        (b"[]", 400),
        (json.dumps({"model": "tandem", "messages": []}).encode(), 400),
        (json.dumps({"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]}).encode(), 404),
        (json.dumps({"model": "tandem", "messages": [{"role": "user", "content": "x"}], "n": 3}).encode(), 400),
        (b'{"model": "tandem", "messages": "\xff"}', 400),
    ],
)
def test_nonsense_gets_one_sentence_in_openai_shape(up, body, status):
    response = httpx.post(f"{up.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    error = response.json()["error"]
    assert error["message"].rstrip().endswith((".", "!", "?"))
    assert {"message", "type", "param", "code"} <= set(error)


def test_an_unknown_model_is_a_not_found_error_of_the_client(client):
    with pytest.raises(NotFoundError):
        ask(client, "x", "tandem-unknown")


def test_cli_asks_and_lists(up):
    answer = json.loads(up.cli("ask", ALLOWANCE, "--arm", "rag", "--json").stdout)
    assert {"answer", "citations", "arm", "adapter", "answer_id", "degraded"} == set(answer)
    documents = json.loads(up.cli("documents", "list", "--json").stdout)
    assert "finance/travel.md" in {row["id"] for row in documents}
    diagnosis = up.cli("diagnose", answer["answer_id"], "--json", timeout=300)
    assert json.loads(diagnosis.stdout)[0]["subject"] == answer["answer_id"], diagnosis.stderr


def test_zz_a_replaced_document_answers_and_the_old_one_is_gone(client, up):
    # Runs last in this module: it replaces the corpus.
    before = ask(client, ALLOWANCE, "tandem-rag").tandem["passages"]
    assert any("EUR 45" in passage["quote"] for passage in before)
    run = up.cli("ingest", str(REPOSITORY / "samples/corpus/v2"), "--json")
    report = json.loads(run.stdout)
    assert all(report[kind] for kind in ("added", "updated", "unchanged", "deleted")), run.stderr
    assert not report["failed"]
    assert 0 < report["chunks_embedded"] < report["chunks_reused"]
    after = ask(client, ALLOWANCE, "tandem-rag").tandem["passages"]
    assert any("EUR 52" in passage["quote"] for passage in after)
    assert not any("EUR 45" in passage["quote"] for passage in after)
    again = json.loads(up.cli("ingest", str(REPOSITORY / "samples/corpus/v2"), "--json").stdout)
    assert again["chunks_embedded"] == 0
    assert [again[kind] for kind in ("added", "updated", "deleted")] == [[], [], []]
