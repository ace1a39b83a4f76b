"""What answers when a model cannot, in real worker processes: its fallback, and what operators see of it."""

import math
from collections.abc import Iterator

import httpx
import pytest

from pipeline.stack.local import LocalStack
from tests.support.processes import eventually
from tests.support.requests import end_of, letter_of

X = 1.5


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def ask(http: httpx.Client, do: str, *, allow_degraded: bool = True, **fields: object) -> dict:
    body = {
        "model": "chaos-backed",
        "features": {"x": X, "do": do, **fields},
        "allow_degraded": allow_degraded,
        "timeout_s": 120,
    }
    return end_of(http, http.post("/v1/scores", json=body).json()["request_id"], within_s=90)


@pytest.fixture(autouse=True)
def sound(http: httpx.Client) -> Iterator[None]:
    """Each test begins with the model at work, and leaves it so."""
    yield
    eventually(lambda: not ask(http, "ok")["degraded"], within_s=90)


def test_what_does_not_fit_is_answered_by_the_fallback(http: httpx.Client) -> None:
    before = http.get("/v1/stats").json()["model_runs"].get("chaos-standin@1", 0)
    ended = ask(http, "oom")
    assert (ended["state"], ended["degraded"], ended["scored_by"]) == ("succeeded", True, "chaos-standin@1")
    assert (ended["model"], ended["model_version"], ended["attempts"]) == ("chaos-backed", "1", 1)
    assert ended["result"]["raw"] == pytest.approx(logistic(X / 2), abs=1e-6)
    assert http.get("/v1/stats").json()["model_runs"]["chaos-standin@1"] == before + 1


def test_who_wants_no_other_answer_is_told_that_it_does_not_fit(http: httpx.Client) -> None:
    ended = ask(http, "oom", allow_degraded=False)
    assert (ended["state"], ended["error"]["category"], ended["attempts"]) == ("dead", "oom", 1)
    assert "does not fit" in ended["error"]["message"]


def test_after_an_attempt_that_hung_the_fallback_answers(http: httpx.Client) -> None:
    ended = ask(http, "hang")
    assert (ended["state"], ended["degraded"], ended["attempts"]) == ("succeeded", True, 2)
    assert ended["result"]["raw"] == pytest.approx(logistic(X / 2), abs=1e-6)


def test_a_model_that_fails_again_and_again_is_left_alone_and_tried_again_later(http: httpx.Client) -> None:
    rows = [{"model": "chaos-backed", "features": {"x": X, "do": "raise"}} for _ in range(3)]
    ids = [http.post("/v1/scores", json=row).json()["request_id"] for row in rows]

    def breaker() -> dict:
        found = [one for one in http.get("/v1/stats").json()["breakers"] if one["name"] == "model chaos-backed@1"]
        return found[0] if found else {}

    eventually(lambda: breaker().get("state") == "open")
    sound, waits = (
        ask(http, "ok"),
        http.post(
            "/v1/scores", json={"model": "chaos-backed", "features": {"x": 2.5, "do": "ok"}, "allow_degraded": False}
        ).json()["request_id"],
    )
    assert (sound["degraded"], sound["result"]["raw"]) == (True, pytest.approx(logistic(X / 2), abs=1e-6))
    for request_id in ids:
        ended = end_of(http, request_id)
        assert (ended["state"], ended["degraded"]) == ("succeeded", True), "it may be answered by another"
    waited = end_of(http, waits, within_s=90)
    assert (waited["state"], waited["degraded"], waited["attempts"]) == ("succeeded", False, 1)
    assert waited["result"]["raw"] == pytest.approx(logistic(2.5), abs=1e-6)
    eventually(lambda: not breaker())


def test_a_fault_that_spoils_the_device_costs_the_process_and_names_itself(
    http: httpx.Client, stack: LocalStack
) -> None:
    before = stack.log("scoring").stat().st_size
    rows = [{"model": "chaos-probe", "features": {"x": X, "do": "cuda" if n == 3 else "ok"}} for n in range(8)]
    results = http.post("/v1/scores/batch", json={"requests": rows}).json()["results"]
    ends = [end_of(http, row["score"]["request_id"], within_s=90) for row in results]
    assert [end["state"] for end in ends] == ["dead" if place == 3 else "succeeded" for place in range(8)]
    assert max(end["attempts"] for place, end in enumerate(ends) if place != 3) <= 2
    assert (ends[3]["error"]["category"], ends[3]["attempts"]) == ("cuda", 3)
    attempts = letter_of(http, ends[3]["request_id"])["attempts"]
    assert {attempt["category"] for attempt in attempts} == {"cuda"}
    assert "illegal memory access" in attempts[0]["error"]
    assert stack.log("scoring").read_text()[before:].count("process_ends") == 3
    assert 'scoreline_failures_total{category="cuda",stage="scoring"}' in http.get("/metrics").text
