"""`/v1/training`, `/v1/examples` and feedback about tone: shapes, statuses, rights."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tandem.registry import NONE_ACTIVE, Gate, Manifest
from tests.contract.test_http_contract import House, build, error_of, house, keyed, migrated  # noqa: F401
from training.events import TrainingEvent
from training.examples import StyleExample
from training.result import Result
from training.runs import TrainingRuns
from training.schedule import Schedule

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def trained(build: Callable[..., House], tmp_path: Path) -> House:  # noqa: F811
    """A house with one example, a trainer that looked just now, and a finished run."""
    file = tmp_path / "examples.jsonl"
    file.write_text(StyleExample(question="Q?", answer="A.", approved_by="ada").model_dump_json() + "\n")
    training = {"examples": file, "schedule": "0 3 * * 0", "time_zone": "Europe/Berlin", "min_new_examples": 7}
    found = build(training=training)
    schedule = Schedule(found.settings, found.database)
    schedule.due(datetime.now(UTC))
    schedule.looked(datetime.now(UTC), "1 new example.")
    runs = TrainingRuns(found.database)
    with found.database.session() as session:
        id = runs.want(session, "schedule", "house-style", "schedule", at=NOW, due_at=NOW)
    attempt = runs.start(id, [], at=NOW)
    for step in (5, 10):
        data = {"step": step, "steps": 10, "loss": 1.5, "tokens_per_second": 400, "seconds_left": 60}
        runs.log(id, TrainingEvent(stage="train", message=f"step {step} of 10", data=data), at=NOW)
    gate = Gate(passed=False, reasons=("It cites less.",), metrics={})
    digests = {"digest": "a" * 64, "base_digest": "b", "data_digest": "d"}
    manifest = Manifest(name="house-style", base_model="m", prompt_version="p", created_at=NOW, gate=gate, **digests)
    runs.finish(
        id, attempt, Result(manifest=manifest, expected=NONE_ACTIVE, promoted=False), at=NOW + timedelta(hours=1)
    )
    return found


async def test_the_status_tells_what_is_due_and_what_came_of_the_last(trained: House):
    async with trained.client() as client:
        status = (await client.get("/v1/training")).json()
    assert status["schedule"]["expression"] == "0 3 * * 0"
    assert status["schedule"]["zone"] == "Europe/Berlin"
    assert datetime.fromisoformat(status["schedule"]["next"]) > datetime.now(UTC)
    assert status["schedule"]["note"] == "1 new example."
    assert (status["trainer"], status["new_examples"], status["min_new_examples"]) == (True, 1, 7)
    assert (status["candidates"], status["current"]) == (0, None)
    last = status["last"]
    assert (last["state"], last["promoted"], last["reasons"]) == ("done", False, ["It cites less."])
    assert last["adapter"] == f"house-style@{'a' * 12}"


async def test_runs_and_their_logs(trained: House):
    async with trained.client() as client:
        (run,) = (await client.get("/v1/training/runs")).json()["data"]
        assert (await client.get(f"/v1/training/runs/{run['id'][:8]}")).json() == run
        log = (await client.get(f"/v1/training/runs/{run['id']}/log")).json()["data"]
        assert [line["message"] for line in log] == ["step 5 of 10", "step 10 of 10"]
        assert log[0]["data"]["tokens_per_second"] == 400
        rest = await client.get(f"/v1/training/runs/{run['id']}/log", params={"after": log[0]["id"]})
        assert rest.json()["data"] == log[1:]
        for path in ("", "/log"):
            missing = await client.get(f"/v1/training/runs/nobody-knows{path}")
            assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
        assert (await client.get("/v1/training/runs", params={"limit": 0})).status_code == 400
        assert (await client.get(f"/v1/training/runs/{run['id']}/log", params={"after": -1})).status_code == 400


async def test_a_run_is_asked_for_once_and_only_where_a_trainer_runs(trained: House):
    async with trained.client() as client:
        asked = await client.post("/v1/training/runs", json={})
        assert (asked.status_code, asked.json()["state"], asked.json()["user"]) == (202, "waiting", "local")
        again = await client.post("/v1/training/runs")
        assert (again.status_code, error_of(again)["code"]) == (429, "busy")
        assert (await client.get("/v1/training")).json()["current"]["id"] == asked.json()["id"]
        unknown = await client.post("/v1/training/runs", json={"examples": "/etc/passwd"})
        assert error_of(unknown)["code"] == "unknown_parameter"
        Schedule(trained.settings, trained.database).looked(datetime.now(UTC) - timedelta(hours=1))
        gone = await client.post("/v1/training/runs")
    assert gone.status_code == 503
    assert "No trainer service is running" in error_of(gone)["message"]


async def test_a_run_is_cancelled_once_and_makes_room_for_another(trained: House):
    async with trained.client() as client:
        asked = (await client.post("/v1/training/runs", json={})).json()
        ended = await client.post(f"/v1/training/runs/{asked['id'][:8]}/cancel")
        assert (ended.status_code, ended.json()["state"]) == (202, "failed")
        assert ended.json()["message"] == "It was cancelled by local."
        again = await client.post(f"/v1/training/runs/{asked['id']}/cancel")
        assert (again.status_code, error_of(again)["code"]) == (400, "invalid_request")
        assert (await client.post("/v1/training/runs/nobody-knows/cancel")).status_code == 404
        assert (await client.post("/v1/training/runs")).status_code == 202


async def ask_and_rate(client: httpx.AsyncClient, **feedback: Any) -> dict[str, Any]:
    body = {"model": "tandem", "messages": [{"role": "user", "content": "How many days?"}]}
    asked = await client.post("/v1/chat/completions", json=body)
    rated = {"answer_id": asked.json()["tandem"]["answer_id"], "rating": "down", "about": "tone", **feedback}
    response = await client.post("/v1/feedback", json=rated)
    assert response.status_code == 201, response.text
    return {"answer_id": rated["answer_id"], **response.json()}


@pytest.fixture
def published(keyed: House) -> House:  # noqa: F811
    """With the document that the assistant's double quotes, so that its answers may be read."""
    from tests.contract.test_http_contract import add_versions

    add_versions(keyed.database, "hr/leave.md", {"groups": ["everyone"]})
    return keyed


async def test_a_thumb_down_about_tone_is_a_candidate_that_an_admin_decides_on(published: House):
    async with published.client("key-ada") as ada, published.client("key-root") as root:
        rated = await ask_and_rate(ada, comment="Too curt.")
        (row,) = (await root.get("/v1/examples", params={"state": "open"})).json()["data"]
        assert row["id"] == rated["example_id"]
        assert (row["user"], row["comment"], row["document_ids"]) == ("ada", "Too curt.", ["hr/leave.md"])
        assert row["example"]["answer"] == "You have 28 days. [1]"
        assert row["example"]["sources"] == [{"title": "Leave", "heading": "", "text": "28 days."}]
        detail = (await root.get(f"/v1/examples/{row['id'][:8]}")).json()
        assert "28" not in detail["made_up"]["answer"]
        refused = await root.post(f"/v1/examples/{row['id']}/approve", json={"answer": "Ask a@acme.com. [1]"})
        assert (refused.status_code, error_of(refused)["code"]) == (422, "example_refused")
        assert "e-mail" in error_of(refused)["message"]
        draft = {name: detail["made_up"][name] for name in ("question", "sources", "answer")}
        approved = await root.post(f"/v1/examples/{row['id']}/approve", json=draft)
        assert approved.status_code == 200
        assert (approved.json()["state"], approved.json()["decided_by"]) == ("approved", "root")
        assert approved.json()["example"]["approved_by"] == "root"
        assert "made-up" not in approved.json()["example"]["tags"]
        vouched = await root.post(f"/v1/examples/{row['id']}/approve", json={"invented_people": True})
        assert "made-up" in vouched.json()["example"]["tags"]
        assert (await root.get("/v1/examples", params={"state": "open"})).json()["data"] == []
        assert (await root.post(f"/v1/examples/{row['id']}/refuse")).json()["state"] == "refused"
        for missing in (
            await root.get("/v1/examples/nobody"),
            await root.post("/v1/examples/nobody/approve"),
            await root.post("/v1/examples/nobody/refuse"),
        ):
            assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")


async def test_which_feedback_makes_a_candidate(published: House):
    async with published.client("key-ada") as ada, published.client("key-root") as root:
        assert (await ask_and_rate(ada, about="facts"))["example_id"] is None
        assert (await ask_and_rate(ada, about=""))["example_id"] is None
        assert (await ask_and_rate(ada, rating="up"))["example_id"] is None
        better = await ask_and_rate(ada, rating="up", suggestion="You get 28 days. [1]")
        (row,) = (await root.get("/v1/examples")).json()["data"]
        assert row["id"] == better["example_id"]
        assert row["example"]["answer"] == "You get 28 days. [1]"
        # Who thinks again takes it back.
        body = {"answer_id": better["answer_id"], "rating": "up", "about": "facts"}
        await ada.post("/v1/feedback", json=body)
        assert (await root.get("/v1/examples")).json()["data"] == []
        wrong = await ada.post("/v1/feedback", json=body | {"suggestion": "It is 30 days."})
        assert (wrong.status_code, error_of(wrong)["param"]) == (400, "suggestion")
        others = await root.post("/v1/feedback", json=body | {"answer_id": "ans_0", "about": "tone", "rating": "down"})
        assert others.status_code == 404


async def test_only_admins_see_and_decide(published: House):
    async with published.client("key-ada") as ada, published.client() as nobody:
        for method, path in (
            ("GET", "/v1/training"),
            ("GET", "/v1/training/runs"),
            ("POST", "/v1/training/runs"),
            ("GET", "/v1/training/runs/x"),
            ("GET", "/v1/training/runs/x/log"),
            ("POST", "/v1/training/runs/x/cancel"),
            ("GET", "/v1/examples"),
            ("GET", "/v1/examples/x"),
            ("POST", "/v1/examples/x/approve"),
            ("POST", "/v1/examples/x/refuse"),
        ):
            refused = await ada.request(method, path)
            assert (refused.status_code, error_of(refused)["type"]) == (403, "permission_error"), path
            assert (await nobody.request(method, path)).status_code == 401, path


async def test_openapi_has_the_routes_with_examples(house: House):  # noqa: F811
    async with house.client() as client:
        document = (await client.get("/openapi.json")).json()
    paths = document["paths"]
    assert {"/v1/training", "/v1/training/runs/{run_id}/log", "/v1/examples/{example_id}/approve"} <= set(paths)
    for name in ("ApproveRequest", "FeedbackRequest"):
        assert document["components"]["schemas"][name]["examples"]
    for path, methods in paths.items():
        if path.startswith(("/v1/training", "/v1/examples")):
            assert all(method.get("description") for method in methods.values()), path
