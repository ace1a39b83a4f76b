"""What becomes of requests whose stage fails, in real worker processes."""

import json
import subprocess
from collections.abc import Callable

import httpx

from pipeline.stack.local import LocalStack
from tests.support.processes import eventually
from tests.support.requests import APPLICATION, end_of, letter_of, probe

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_a_stage_that_raises_is_retried_and_then_dead_with_every_attempt_in_its_letter(http: httpx.Client) -> None:
    dead = http.post("/v1/scores", json=probe("raise"), params={"wait": 30}).json()
    assert dead["state"] == "dead"
    assert dead["attempts"] == 3
    assert dead["error"] == {
        "category": "unknown",
        "stage": "scoring",
        "message": "RuntimeError: chaos-probe was told to raise",
        "retryable": True,
    }
    letter = letter_of(http, dead["request_id"])
    assert letter["input"] == probe("raise")["features"]
    assert letter["stage"] == "scoring"
    assert [attempt["n"] for attempt in letter["attempts"]] == [1, 2, 3]
    assert {attempt["error"] for attempt in letter["attempts"]} == {dead["error"]["message"]}
    times = [attempt["at"] for attempt in letter["attempts"]]
    assert times == sorted(times)
    assert letter["request_ids"] == [dead["request_id"]]


def test_one_raising_row_harms_no_other_of_its_batch(http: httpx.Client) -> None:
    rows = [probe("raise" if place == 17 else "ok") for place in range(64)]
    results = http.post("/v1/scores/batch", json={"requests": rows}).json()["results"]
    ends = [end_of(http, row["score"]["request_id"]) for row in results]
    assert [end["state"] for end in ends] == ["dead" if place == 17 else "succeeded" for place in range(64)]
    assert {end["attempts"] for place, end in enumerate(ends) if place != 17} == {1}


def test_an_output_that_is_not_a_number_is_dead_at_once_and_its_batch_is_not(http: httpx.Client) -> None:
    rows = [probe("ok"), probe("nan"), probe("ok")]
    results = http.post("/v1/scores/batch", json={"requests": rows}).json()["results"]
    ends = [end_of(http, row["score"]["request_id"]) for row in results]
    assert [end["state"] for end in ends] == ["succeeded", "dead", "succeeded"]
    assert (ends[1]["error"]["category"], ends[1]["attempts"]) == ("numeric", 1)


def test_a_row_that_kills_its_process_is_dead_and_its_batch_succeeds(http: httpx.Client) -> None:
    rows = [probe("crash" if place == 3 else "ok") for place in range(8)]
    results = http.post("/v1/scores/batch", json={"requests": rows}).json()["results"]
    ends = [end_of(http, row["score"]["request_id"]) for row in results]
    assert [end["state"] for end in ends] == ["dead" if place == 3 else "succeeded" for place in range(8)]
    assert ends[3]["error"]["category"] == "crash"
    letter = letter_of(http, ends[3]["request_id"])
    assert {attempt["signal"] for attempt in letter["attempts"]} == {"SIGKILL"}
    # The others paid for the first crash at most: from then on they ran without the suspect.
    assert max(end["attempts"] for place, end in enumerate(ends) if place != 3) <= 2


def test_a_row_that_hangs_meets_the_soft_limit_and_is_dead_in_the_end(http: httpx.Client, stack: LocalStack) -> None:
    before = stack.log("scoring").stat().st_size
    dead = end_of(http, http.post("/v1/scores", json=probe("hang")).json()["request_id"])
    assert (dead["state"], dead["error"]["category"], dead["attempts"]) == ("dead", "hang", 3)
    stacks = stack.log("scoring").read_text()[before:]
    assert "chaos_probe.py" in stacks, "the stack that hangs is in the log"
    assert "Current thread 0x" in stacks


def test_a_row_that_hangs_through_the_soft_limit_meets_the_hard_one_and_its_child_is_replaced(
    http: httpx.Client, stack: LocalStack
) -> None:
    before = stack.log("scoring").stat().st_size
    dead = end_of(http, http.post("/v1/scores", json=probe("hang", seconds=1)).json()["request_id"], within_s=90)
    assert (dead["state"], dead["attempts"]) == ("dead", 3)
    errors = {attempt["error"] for attempt in letter_of(http, dead["request_id"])["attempts"]}
    assert errors == {"ran longer than the hard limit of 5 s"}
    assert "Current thread 0x" in stack.log("scoring").read_text()[before:]
    assert http.post("/v1/scores", json=probe("ok"), params={"wait": 30}).json()["state"] == "succeeded"


def test_a_replayed_letter_runs_again_one_generation_on(http: httpx.Client) -> None:
    dead = http.post("/v1/scores", json=probe("raise"), params={"wait": 30}).json()
    replayed = http.post(f"/v1/dead-letters/{dead['request_id']}/replay")
    assert replayed.status_code == 202
    assert replayed.json()["generation"] == 1
    again = end_of(http, dead["request_id"])
    assert (again["state"], again["generation"], again["attempts"]) == ("dead", 1, 3)
    assert letter_of(http, dead["request_id"])["generation"] == 1


def test_only_a_dead_letter_can_be_replayed(http: httpx.Client) -> None:
    body = {"model": "credit-default", "features": APPLICATION}
    alive = http.post("/v1/scores", json=body, params={"wait": 30}).json()
    assert http.post(f"/v1/dead-letters/{alive['request_id']}/replay").status_code == 409
    unknown = f"{alive['request_id'][:-12]}000000000000"
    assert http.post(f"/v1/dead-letters/{unknown}/replay").status_code == 404
    assert http.post("/v1/dead-letters/nonsense/replay").status_code == 422


def test_letters_are_filtered_and_paged(http: httpx.Client) -> None:
    for _ in range(3):
        http.post("/v1/scores", json=probe("nan"), params={"wait": 30})
    chosen = {"model": "chaos-probe", "stage": "scoring", "category": "numeric", "limit": 2}
    first = http.get("/v1/dead-letters", params=chosen).json()
    second = http.get("/v1/dead-letters", params=chosen | {"cursor": first["next"]}).json()
    assert len(first["items"]) == 2
    ids = [letter["id"] for letter in first["items"] + second["items"]]
    assert len(set(ids)) == len(ids) >= 3
    assert len({letter["fingerprint"] for letter in first["items"]}) == 1
    assert http.get("/v1/dead-letters", params={"model": "other"}).json() == {"items": [], "next": None}
    assert http.get("/v1/dead-letters", params={"cursor": "x"}).status_code == 422


def test_the_command_line_lists_shows_replays_and_purges(http: httpx.Client, scoreline: Cli) -> None:
    dead = http.post("/v1/scores", json=probe("nan"), params={"wait": 30}).json()["request_id"]
    listed = json.loads(scoreline("dead", "list", "--json").stdout)["items"]
    assert dead in [letter["id"] for letter in listed]
    assert dead in scoreline("dead", "list", "--category", "numeric").stdout
    assert json.loads(scoreline("dead", "show", dead).stdout)["input"] == probe("nan")["features"]

    assert scoreline("dead", "replay", dead).returncode == 0
    assert end_of(http, dead)["generation"] == 1
    eventually(lambda: scoreline("dead", "show", dead).returncode == 0)
    assert scoreline("dead", "purge", dead, "--yes").returncode == 0
    assert scoreline("dead", "show", dead).returncode == 4
    assert scoreline("dead", "replay", dead).returncode == 5
    assert scoreline("dead", "replay").returncode == 2
