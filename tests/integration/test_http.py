"""The API from outside, with real workers behind it."""

import json
import uuid
from collections.abc import Callable

import httpx
import pytest

from pipeline.contracts.stages import Stage
from pipeline.models.folder import ModelStore
from pipeline.samples.credit_data import read_applications, split
from pipeline.stack.local import LocalStack
from tasks.child import load_stage
from tests.conftest import eventually

APPLICATION = split(read_applications()).held_out[0].features
STATUS_KEYS = {
    "request_id", "state", "model", "model_version", "result", "error", "degraded", "scored_by", "cached", "joined",
    "anomalies", "attempts", "generation", "priority", "position", "eta_s", "submitted_at", "finished_at", "timings",
}  # fmt: skip


def submit(http: httpx.Client, *, wait: float = 30, **fields: object) -> httpx.Response:
    body = {"model": "credit-default", "features": APPLICATION, **fields}
    return http.post("/v1/scores", json=body, params={"wait": wait} if wait else {})


def test_a_request_is_accepted_and_can_be_polled_until_it_has_its_result(http: httpx.Client) -> None:
    accepted = submit(http, wait=0)
    assert accepted.status_code == 202
    document = accepted.json()
    assert set(document) == STATUS_KEYS
    assert document["state"] == "queued"
    assert accepted.headers["Location"] == f"/v1/scores/{document['request_id']}"
    assert uuid.UUID(document["request_id"]).version == 7

    ended = eventually(lambda: (d := http.get(accepted.headers["Location"]).json())["finished_at"] and d)
    assert ended["state"] == "succeeded"
    assert set(ended) == STATUS_KEYS
    assert set(ended["result"]) == {"score", "decision", "raw"}
    assert 0 < ended["result"]["score"] < 1
    assert ended["model_version"] == "1"
    assert ended["scored_by"] == "credit-default@1"
    assert ended["attempts"] == 1
    assert list(ended["timings"]) == ["preprocess", "scoring", "postprocess"]


def test_wait_answers_with_the_end(http: httpx.Client) -> None:
    answer = submit(http)
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    again = http.get(f"/v1/scores/{answer.json()['request_id']}", params={"wait": 30})
    assert again.json() == answer.json()


def test_the_score_is_what_the_model_gives_offline(http: httpx.Client, stack: LocalStack) -> None:
    ref = next(a.ref for a in ModelStore(stack.settings.model_store).all() if a.ref.name == "credit-default")
    offline = [APPLICATION]
    for stage in Stage:
        offline = [answer.body for answer in load_stage(stage, stack.settings).perform(ref, offline)]
    online = submit(http).json()["result"]
    assert online["score"] == pytest.approx(offline[0]["score"], abs=1e-6)
    assert online["decision"] == offline[0]["decision"]


@pytest.mark.parametrize(
    ("change", "named", "said"),
    [
        ({"Income": ...}, "Income", "is missing"),
        ({"Shoe": 43}, "Shoe", "is not a feature"),
        ({"Income": "much"}, "Income", "was 'much'; allowed: a number from 0 to 1e+06, or null"),
        ({"Income": True}, "Income", "was True"),
        ({"Income": -1}, "Income", "was -1"),
        ({"Home": "tent"}, "Home", "was 'tent'; allowed: 'ignore', "),
        ({"Income": float("nan")}, "Income", "was nan"),
        ({"Income": float("inf")}, "Income", "was inf"),
        ({"Income": 10**40}, "Income", "was 1e+40"),
        ({"Income": {"a": [1]}}, "Income", "was dict"),
        ({"Seniority": None}, "Seniority", "was None; allowed: a number from 0 to 80"),
    ],
)
def test_a_bad_feature_ends_the_request_as_invalid_and_is_named(
    http: httpx.Client, change: dict, named: str, said: str
) -> None:
    features = {name: value for name, value in (APPLICATION | change).items() if value is not ...}
    body = json.dumps({"model": "credit-default", "features": features})
    answer = http.post("/v1/scores", content=body, params={"wait": 30})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["state"] == "invalid"
    assert document["error"]["category"] == "input"
    assert document["error"]["stage"] == "preprocess"
    assert document["error"]["retryable"] is False
    assert document["error"]["message"].startswith(f"{named}: {said}")


def test_values_far_outside_training_are_scored_and_marked(http: httpx.Client) -> None:
    document = submit(http, features=APPLICATION | {"Amount": 900_000}).json()
    assert document["state"] == "succeeded"
    assert {
        "feature": "Amount",
        "value": 900_000,
        "kind": "out_of_range",
        "expected": {"min": 100.0, "max": 5000.0},
    } in (document["anomalies"])


@pytest.mark.parametrize(
    ("body", "status", "slug", "pointers"),
    [
        (b"{", 400, "malformed-json", None),
        (b"\xff\xfe", 400, "malformed-json", None),
        (b"[" * 100_000, 400, "malformed-json", None),
        (b"[]", 422, "invalid-request", [""]),
        (b'{"model": "credit-default"}', 422, "invalid-request", ["/features"]),
        (b'{"model": "credit-default", "features": []}', 422, "invalid-request", ["/features"]),
        (b'{"model": "Credit Default", "features": {}}', 422, "invalid-request", ["/model"]),
        (b'{"model": "credit-default", "features": {}, "priority": "urgent"}', 422, "invalid-request", ["/priority"]),
        (b'{"model": "credit-default", "features": {}, "timeout_s": 0}', 422, "invalid-request", ["/timeout_s"]),
        (b'{"model": "credit-default", "features": {}, "timeout_s": NaN}', 422, "invalid-request", ["/timeout_s"]),
        (b'{"model": "credit-default", "features": {}, "timeout_s": "5"}', 422, "invalid-request", ["/timeout_s"]),
        (b'{"model": "credit-default", "features": {}, "a/b": 1}', 422, "invalid-request", ["/a~1b"]),
        (b'{"model": "nothing", "features": {}}', 404, "unknown-model", None),
        (b'{"model": "credit-default@99", "features": {}}', 404, "unknown-model", None),
        (b'{"x": "' + b"a" * (1 << 20) + b'"}', 413, "body-too-large", None),
    ],
)
def test_a_bad_envelope_is_refused_at_once(
    http: httpx.Client, body: bytes, status: int, slug: str, pointers: list[str] | None
) -> None:
    answer = http.post("/v1/scores", content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"urn:scoreline:problem:{slug}"
    assert problem["status"] == status
    if pointers is not None:
        assert [error["pointer"] for error in problem["errors"]] == pointers


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "deep"}])
def test_features_nested_too_deeply_are_refused(http: httpx.Client, headers: dict[str, str]) -> None:
    body = b'{"model": "credit-default", "features": {"a":' + b"[" * 700 + b"]" * 700 + b"}}"
    answer = http.post("/v1/scores", content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:scoreline:problem:invalid-request")


def test_a_body_without_a_length_is_bounded_too(http: httpx.Client) -> None:
    answer = http.post("/v1/scores", content=(b"a" * 65536 for _ in range(32)))
    assert answer.status_code == 413


@pytest.mark.parametrize("wait", ["-1", "31", "soon", "nan"])
def test_wait_is_checked(http: httpx.Client, wait: str) -> None:
    answer = http.post("/v1/scores", json={"model": "credit-default", "features": {}}, params={"wait": wait})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/wait")


def test_unknown_and_malformed_ids(http: httpx.Client) -> None:
    assert http.get("/v1/scores/nonsense").status_code == 422
    assert http.get(f"/v1/scores/{uuid.uuid4()}").status_code == 422
    fresh = submit(http, wait=0).json()["request_id"]
    assert http.get(f"/v1/scores/{fresh[:-12]}000000000000").status_code == 404
    assert http.get("/v1/scores/00000000-0001-7000-8000-000000000000").status_code == 410


def test_a_batch_answers_each_row_and_one_bad_row_harms_no_other(http: httpx.Client) -> None:
    good = {"model": "credit-default", "features": APPLICATION}
    rows = [good, {"model": "nothing", "features": {}}, {"features": 1}, 7, good | {"priority": "high"}]
    answer = http.post("/v1/scores/batch", json={"requests": rows})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [(row["index"], row["status"]) for row in results] == [(0, 202), (1, 404), (2, 422), (3, 422), (4, 202)]
    assert results[4]["score"]["priority"] == "high"
    for place in (0, 4):
        location = f"/v1/scores/{results[place]['score']['request_id']}"
        assert http.get(location, params={"wait": 30}).json()["state"] == "succeeded"


def test_a_batch_may_be_waited_for(http: httpx.Client) -> None:
    good = {"model": "credit-default", "features": APPLICATION}
    rows = [good, {"model": "nothing", "features": {}}, good, {"model": "credit-default", "features": {}}]
    results = http.post("/v1/scores/batch", json={"requests": rows}, params={"wait": 30}).json()["results"]
    assert [(row["index"], row["status"]) for row in results] == [(0, 200), (1, 404), (2, 200), (3, 200)]
    assert [results[place]["score"]["state"] for place in (0, 2, 3)] == ["succeeded", "succeeded", "invalid"]


def test_a_batch_that_is_not_done_in_time_answers_with_present_statuses(
    http: httpx.Client, supervise: Callable[[str, str], None]
) -> None:
    supervise("stop", "preprocess")
    rows = [{"model": "credit-default", "features": APPLICATION, "timeout_s": seconds} for seconds in (60, 0.3)]
    results = http.post("/v1/scores/batch", json={"requests": rows}, params={"wait": 3}).json()["results"]
    assert [row["status"] for row in results] == [202, 408]
    assert results[0]["score"]["state"] == "queued"
    assert results[1]["problem"]["type"] == "urn:scoreline:problem:deadline-exceeded"
    assert http.post("/v1/scores/batch", json={"requests": rows}, params={"wait": 31}).status_code == 422
    supervise("start", "preprocess")
    location = f"/v1/scores/{results[0]['score']['request_id']}"
    assert http.get(location, params={"wait": 30}).json()["state"] == "succeeded"


def test_a_batch_of_more_than_a_thousand_rows_is_refused(http: httpx.Client) -> None:
    row = {"model": "credit-default", "features": {}}
    assert http.post("/v1/scores/batch", json={"requests": [row] * 1001}).status_code == 422
    assert http.post("/v1/scores/batch", json={"requests": row}).status_code == 422
    assert http.post("/v1/scores/batch", json={"requests": []}).json() == {"results": []}


def test_models_and_stats(http: httpx.Client) -> None:
    models = {model["name"]: model for model in http.get("/v1/models").json()["models"]}
    model = models["credit-default"]
    assert set(model) == {"name", "version", "digest", "state", "input_schema"}
    assert model["state"] == "current"
    assert set(model["input_schema"]["properties"]) == set(APPLICATION)

    before = http.get("/v1/stats").json()["model_runs"].get("credit-default@1", 0)
    submit(http)
    stats = http.get("/v1/stats").json()
    assert stats["model_runs"]["credit-default@1"] == before + 1
    assert set(stats["stages"]) == {"preprocess", "scoring", "postprocess"}
    assert {worker["stage"] for worker in stats["workers"] if worker["state"] == "live"} == set(stats["stages"])
    assert stats["durability"] == "process"
    assert "scoreline_waiting" in http.get("/metrics").text


def test_an_unscored_request_expires_on_time_and_the_wait_says_so(http: httpx.Client) -> None:
    # A row that sleeps holds the scoring worker, so the second is not claimed before its deadline.
    probe = {"model": "chaos-probe", "features": {"x": 0, "do": "slow", "seconds": 2}}
    http.post("/v1/scores", json=probe).raise_for_status()
    slow = eventually(lambda: http.get("/v1/stats").json()["stages"]["scoring"]["claimed"])
    assert slow == 1
    answer = submit(http, timeout_s=0.2)
    assert answer.status_code == 408
    assert answer.json()["type"] == "urn:scoreline:problem:deadline-exceeded"


def test_a_body_with_text_that_is_no_unicode_is_a_problem_not_a_fault(http: httpx.Client) -> None:
    answer = http.post("/v1/scores/batch", content=b'{"requests": [], "\\ud800": NaN}')
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:scoreline:problem:invalid-request")


def test_unknown_routes_and_methods_are_problems_too(http: httpx.Client) -> None:
    assert http.get("/v2").json()["type"] == "urn:scoreline:problem:not-found"
    assert http.put("/v1/scores").headers["content-type"] == "application/problem+json"


def test_the_openapi_document_names_every_route(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/scores", "/v1/scores/batch", "/v1/scores/{request_id}", "/v1/models", "/v1/stats"} <= set(paths)
