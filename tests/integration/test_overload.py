"""When too few work, too much comes, or something outside is away: said at once, and over by itself."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from pipeline.contracts.stages import Stage
from pipeline.settings import read_settings
from pipeline.stack.local import LocalStack
from tests.support.processes import another_api, eventually
from tests.support.requests import APPLICATION, live, submit

Command = Callable[..., subprocess.CompletedProcess[str]]


def post(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/scores", json={"model": "credit-default", "features": APPLICATION} | fields)


def events(stack: LocalStack, name: str) -> list[dict[str, Any]]:
    lines = (stack.data_dir / "logs" / "sweeper.log").read_text().splitlines()
    known = [json.loads(line) for line in lines if line.startswith("{")]
    return [event for event in known if event["event"] == name]


def test_with_too_few_workers_low_priority_is_refused_until_they_are_back(
    http: httpx.Client, stack: LocalStack, supervise: Callable[[str, str], None]
) -> None:
    eventually(lambda: not http.get("/v1/stats").json()["degraded"])  # as at the start, before any worker lives
    begun, ended = len(events(stack, "degraded_mode_begins")), len(events(stack, "degraded_mode_ends"))
    supervise("stop", Stage.SCORING)
    eventually(lambda: http.get("/v1/stats").json()["degraded"])
    refused = post(http, priority="low")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json()["type"] == "urn:scoreline:problem:degraded"
    ready = http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["degraded"]
    assert "low priority is refused" in ready.json()["reason"]
    normal = post(http, timeout_s=60).json()
    supervise("start", Stage.SCORING)
    assert http.get(f"/v1/scores/{normal['request_id']}", params={"wait": 30}).json()["state"] == "succeeded"
    eventually(lambda: not http.get("/v1/stats").json()["degraded"])
    assert post(http, priority="low").status_code == 202
    assert len(events(stack, "degraded_mode_begins")) == begun + 1
    assert len(events(stack, "degraded_mode_ends")) == ended + 1, "both are logged, once"


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack that has one of three expected scoring workers. Soft limit 2 s, and 1 s for what a job had before."""
    limits = {"SCORELINE_BELL_S": "1", "SCORELINE_SOFT_LIMIT_S": "2", "SCORELINE_HARD_LIMIT_S": "3"}
    environment = limits | {"SCORELINE_EXPECTED_SCORING_WORKERS": "3"}
    folder = tmp_path_factory.mktemp("weak")
    with LocalStack(read_settings({}), data_dir=folder, chaos_model=True, environment=environment) as running:
        yield running


def test_in_degraded_mode_a_batch_may_take_longer(weak: LocalStack) -> None:
    """4 s are too long, unless limits are doubled."""
    slow = {"model": "chaos-probe", "features": {"x": 0, "do": "slow", "seconds": 4}, "timeout_s": 60}
    with httpx.Client(base_url=weak.api_url, timeout=60) as client:
        eventually(lambda: client.get("/v1/stats").json()["degraded"])
        accepted = client.post("/v1/scores", json=slow).json()
        ended = client.get(f"/v1/scores/{accepted['request_id']}", params={"wait": 30}).json()
    assert (ended["state"], ended["attempts"]) == ("succeeded", 1)


@pytest.fixture
def second_version(weak: LocalStack, scoreline: Command) -> Path:
    """Version 2 of the credit model, released; its folder."""
    models = weak.settings.model_store / "credit-default"
    folder = models / "2"
    shutil.copytree(models / "1", folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"version": "2"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    environment = {"SCORELINE_STORE_URL": weak.store_url, "SCORELINE_MODEL_STORE": str(weak.settings.model_store)}
    run = scoreline("publish", "--json", **environment)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["added"] == ["credit-default@2"]
    return folder


def test_while_the_model_store_is_away_requests_wait_without_an_attempt(weak: LocalStack, second_version: Path) -> None:
    """Its files answer with EIO, as those of a mount do whose server is gone."""
    manifest, aside = second_version / "manifest.json", second_version / "aside"
    manifest.rename(aside)
    manifest.symlink_to("/proc/self/mem")  # nothing is mapped where it begins
    with httpx.Client(base_url=weak.api_url, timeout=60, headers={"Cache-Control": "no-cache"}) as client:

        def breakers() -> list[dict[str, Any]]:
            return client.get("/v1/stats").json()["breakers"]

        try:
            accepted = [post(client, model="credit-default@2", timeout_s=60).json()["request_id"]]
            (breaker,) = eventually(breakers)  # type: ignore[misc]
            assert (breaker["name"], breaker["stage"]) == ("model-store", "preprocess")
            accepted.append(post(client, model="credit-default@2", priority="high", timeout_s=60).json()["request_id"])
            eventually(lambda: client.get("/v1/stats").json()["retries_waiting"] == 2)
        finally:
            aside.replace(manifest)
        ends = [client.get(f"/v1/scores/{one}", params={"wait": 30}).json() for one in accepted]
        assert [(end["state"], end["attempts"]) for end in ends] == [("succeeded", 1)] * 2, "they have only waited"
        eventually(lambda: not breakers())


def test_an_api_key_that_sends_too_much_gets_429_and_no_other_does(stack: LocalStack) -> None:
    keys = {"greedy": sha256(b"greedy").hexdigest(), "modest": sha256(b"modest").hexdigest()}
    environment = {
        "SCORELINE_API_KEYS": ",".join(keys.values()),
        "SCORELINE_TENANT_IN_FLIGHT": "5",
        "SCORELINE_MODEL_STORE": str(stack.settings.model_store),
    }
    slow = {"model": "chaos-probe", "features": {"x": 0, "do": "slow", "seconds": 2}, "no_cache": True}
    for url in another_api(stack, **environment):
        with httpx.Client(base_url=url, headers={"Authorization": "Bearer greedy"}) as greedy:
            rows = greedy.post("/v1/scores/batch", json={"requests": [slow] * 8}).json()["results"]
            assert [row["status"] for row in rows] == [202] * 5 + [429] * 3
            refused = rows[5]["problem"]
            assert refused["type"] == "urn:scoreline:problem:rate-limited"
            one = greedy.post("/v1/scores", json={k: slow[k] for k in ("model", "features")})
            assert (one.status_code, one.headers["Retry-After"]) == (429, "1")
            other = httpx.post(
                f"{url}/v1/scores",
                json={"model": "credit-default", "features": APPLICATION},
                headers={"Authorization": "Bearer modest"},
            )
            assert other.status_code in (200, 202)
            for row in rows[:5]:
                url_of = f"/v1/scores/{row['score']['request_id']}"
                assert greedy.get(url_of, params={"wait": 30}, timeout=40).json()["state"] == "succeeded"
            assert greedy.post("/v1/scores", json={k: slow[k] for k in ("model", "features")}).status_code == 202


def test_workers_are_listed(http: httpx.Client, stack: LocalStack, scoreline: Command) -> None:
    eventually(lambda: live(http) == set(Stage))
    run = scoreline("workers")
    assert run.returncode == 0, run.stderr
    pids = {pid for stage in Stage for pid in stack.ready_document()["pids"][stage]}
    assert all(str(pid) in run.stdout for pid in pids)
    known = json.loads(scoreline("workers", "--json").stdout)["workers"]
    assert {worker["pid"] for worker in known if worker["state"] == "live"} == pids


def test_while_the_store_hangs_no_call_does(stack: LocalStack, http: httpx.Client) -> None:
    """Calls that queue for one another are answered in time, too."""
    assert submit(http).json()["state"] == "succeeded"
    with ThreadPoolExecutor(20) as pool:
        Redis.from_url(stack.store_url).client_pause(4000)
        calls = [pool.submit(http.get, "/v1/stats"), *(pool.submit(post, http) for _ in range(19))]
        problems = [call.result() for call in calls]
    assert {problem.status_code for problem in problems} == {503}, "none has waited until it came back"
    eventually(lambda: http.get("/readyz").status_code == 200)
