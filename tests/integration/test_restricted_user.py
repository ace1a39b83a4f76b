"""Real services under a user of the store that may do what the list of rights says, and nothing else."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import redis

from pipeline.ledger.rights import needed, rule
from pipeline.models.folder import ModelStore
from pipeline.releases.publishing import publish_all
from pipeline.service.entry_points import CELERY_APP, command
from pipeline.settings import Settings, read_settings
from pipeline.store.connection import connect_async
from tests.conftest import eventually
from tests.integration.conftest import StartService, become_ready
from tests.integration.test_http import APPLICATION

STAGES = ("preprocess", "scoring", "postprocess")


@pytest.fixture
def exact(valkey: str, operator: redis.Redis) -> Settings:
    """Settings of a user with exactly the rights of a worker: no INFO, no CONFIG, no CLIENT."""
    settings = read_settings({"SCORELINE_STORE_URL": valkey.replace("//", "//exact:secret@")})
    grant(operator, "reset", "on", ">secret", "-@all", *rule(settings, "worker", needed(settings, "worker")).split())
    if "msetex" in operator.command_list():
        grant(operator, "+msetex")
    operator.acl_log_reset()

    async def publish() -> None:
        store = connect_async(settings)
        await publish_all(store, ModelStore(settings.model_store))
        await store.aclose()

    asyncio.run(publish())
    return settings


def grant(operator: redis.Redis, *words: str) -> None:
    operator.execute_command("ACL", "SETUSER", "exact", *words)


def score(api: str, **fields: object) -> dict:
    body = {"model": "credit-default", "features": APPLICATION, "timeout_s": 60, **fields}
    request_id = httpx.post(f"{api}/v1/scores", json=body, timeout=10).json()["request_id"]
    return httpx.get(f"{api}/v1/scores/{request_id}", params={"wait": 30}, timeout=40).json()


def test_every_service_runs_with_the_listed_rights_and_is_refused_nothing_else(
    start: StartService, exact: Settings, operator: redis.Redis
) -> None:
    api, sweeper, *workers = (start(name, exact.store_url) for name in ("api", "sweeper", *STAGES))
    become_ready(api, sweeper, *workers)
    assert score(api.url)["state"] == "succeeded"
    assert score(api.url)["state"] == "succeeded", "again, by a worker that lingered"
    assert httpx.post(f"{api.url}/v1/scores", json={"model": "credit-default", "features": {}}).status_code == 202
    overview = httpx.get(f"{api.url}/v1/stats").json()
    assert {worker["stage"] for worker in overview["workers"] if worker["state"] == "live"} == set(STAGES)
    control = subprocess.run(
        command("celery", "-A", CELERY_APP, "inspect", "ping", "--json"),
        env={**os.environ, "SCORELINE_STORE_URL": exact.store_url},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert control.stdout.count("pong") == len(STAGES)
    for service in workers:
        service.process.terminate()
        assert service.process.wait(20) == 0
    assert {entry["object"] for entry in operator.acl_log()} <= {"info"}, repr(operator.acl_log())
    assert "memory_unknown" in sweeper.said()


def test_a_service_is_not_ready_while_a_right_is_taken_away(
    start: StartService, exact: Settings, operator: redis.Redis
) -> None:
    api, sweeper, worker = (start(name, exact.store_url) for name in ("api", "sweeper", "preprocess"))
    become_ready(api, sweeper, worker)
    grant(operator, "-zadd", "-brpop")
    for service in (api, sweeper, worker):
        eventually(lambda service=service: "may not:" in service.ready() and "ZADD" in service.ready())
    assert "BRPOP" in worker.ready(), "only workers hear bells"
    assert "BRPOP" not in api.ready()
    grant(operator, "+zadd", "+brpop")
    become_ready(api, sweeper, worker)
    assert [service.process.poll() for service in (api, sweeper, worker)] == [None] * 3, "none was started again"
    api_url = api.url
    httpx.post(f"{api_url}/v1/scores", json={"model": "credit-default", "features": APPLICATION})
    eventually(lambda: httpx.get(f"{api_url}/v1/stats").json()["stages"]["scoring"]["waiting"])


@pytest.mark.parametrize("name", ["api", "sweeper", "preprocess"])
def test_a_service_that_lacks_rights_does_not_begin_and_names_them(
    start: StartService, exact: Settings, operator: redis.Redis, name: str
) -> None:
    grant(operator, "-zadd", "-hset")
    service = start(name, exact.store_url)
    assert service.process.wait(30) == 1
    assert "the store's user exact may not: HSET, ZADD" in service.said()
    assert "Traceback" not in service.said()


def test_publish_names_what_it_may_not_do(exact: Settings, operator: redis.Redis) -> None:
    grant(operator, "-hset")
    done = subprocess.run(
        [Path(sys.executable).parent / "scoreline", "publish"],
        env={**os.environ, "SCORELINE_STORE_URL": exact.store_url},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "may not: HSET" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
