"""Two releases over one ledger: what one has begun the other finishes, while processes of both run. Forward and back.

The release before this code is an archive beside the tests, for a checkout need not have a history. It was made by
``git archive b7afa2a pipeline tasks preprocess scoring postprocess | gzip -9n``.
"""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from chaos.checker import Claims
from chaos.events import Ended, event_of
from chaos.leftovers import leftovers
from pipeline.contracts.ids import from_text
from pipeline.contracts.stages import FINAL_STATES, Stage
from pipeline.ledger import keys
from pipeline.ledger.records import unpack_entry
from pipeline.samples.credit_data import read_applications
from pipeline.settings import REPOSITORY, SHIPPED_MODELS, read_settings
from pipeline.stack.models import CHAOS_MODELS
from pipeline.store.connection import connect_async
from pipeline.testing.failpoints import arm
from tests.conftest import eventually, free_port

EARLIER = Path(__file__).parent / "data" / "release-b7afa2a.tar.gz"
START_S = 90
"""How long a process may take until it serves, on a machine that is busy with others."""
WEIGHTS = "model.safetensors"
SAME = ("request_id", "model", "state", "result", "error", "attempts", "generation", "scored_by", "degraded")
"""What a status document says that does not change while nothing happens."""
MODULES = {
    "earlier": (
        "pipeline.ledger.connection",
        "pipeline.model_store",
        "pipeline.publishing",
        "pipeline.sweeper_service",
    ),
    "present": (
        "pipeline.store.connection",
        "pipeline.models.folder",
        "pipeline.releases.publishing",
        "pipeline.sweeper",
    ),
}
"""Where each release has its connections, its folder of models, its publishing and its sweeper."""
BELL_SETTING = {"earlier": "SCORELINE_JOB_S", "present": "SCORELINE_BELL_S"}
PUBLISH = """
import asyncio
from {} import connect_async
from {} import ModelStore
from {} import publish_all
from pipeline.settings import settings

async def publish():
    client = connect_async(settings())
    await publish_all(client, ModelStore(settings().model_store))
    await client.aclose()

asyncio.run(publish())
"""
ROWS = [row.features for row in read_applications()]
NUMBERS = itertools.count()
pytestmark = pytest.mark.timeout(400)


def application() -> dict[str, Any]:
    """A real one, with a price that no other has."""
    number = next(NUMBERS)
    return ROWS[number % len(ROWS)] | {"Price": 100 + number / 1000}


@dataclass
class Release:
    """One release's code, and the services that run it."""

    name: str
    folder: Path
    environment: dict[str, str]
    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    url: str = ""

    def run(self, *arguments: str) -> str:
        """Run Python with this code, to its end; what it prints."""
        options: dict[str, Any] = {"cwd": self.folder, "env": self._own({}), "capture_output": True, "text": True}
        done = subprocess.run([sys.executable, *arguments], timeout=START_S, check=False, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, **environment: str) -> None:
        """Start a service: a stage's worker, the sweeper or the API."""
        if name == "api":
            port = free_port()
            self.url, arguments = f"http://127.0.0.1:{port}", ["pipeline.api", "--port", str(port)]
        else:
            arguments = [MODULES[self.name][3]] if name == "sweeper" else ["tasks", name]
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=self.folder, env=self._own(environment), stdout=log, stderr=log
            )
        if name == "api":
            eventually(lambda: httpx.get(f"{self.url}/readyz").status_code == 200, within_s=START_S)

    def start_all(self) -> None:
        for name in ("sweeper", *Stage):
            self.start(name)

    def _own(self, environment: dict[str, str]) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.folder), **self.environment, **environment}

    def stop(self, *names: str) -> None:
        """SIGTERM to these, or to all; return when they have drained."""
        stopping = [self.running.pop(name) for name in names or list(self.running)]
        for process in stopping:
            process.terminate()
        for process in stopping:
            process.wait(60)

    def kill(self, name: str) -> None:
        """``kill -9`` of a service and its children."""
        process = self.running.pop(name)
        for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            each.kill()
        process.wait()

    def submit(self, features: dict[str, Any], *, model: str = "credit-default", key: str = "") -> dict[str, Any]:
        answer = self.post("/v1/scores", {"model": model, "features": features}, key)
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    def submit_together(self, *rows: dict[str, Any], model: str = "credit-default") -> list[str]:
        """Their ids. In one script: what is equal is one flight."""
        answer = self.post("/v1/scores/batch", {"requests": [{"model": model, "features": row} for row in rows]})
        assert answer.status_code == 200, answer.text
        return [result["score"]["request_id"] for result in answer.json()["results"]]

    def post(self, path: str, body: Any = None, key: str = "") -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers={"Idempotency-Key": key} if key else {}, timeout=40)

    def status(self, request_id: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/v1/scores/{request_id}", timeout=40)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def says(self, request_ids: list[str]) -> list[dict[str, Any]]:
        """What status documents say of requests that stays so while nothing happens."""
        return [{name: document[name] for name in SAME} for document in map(self.status, request_ids)]

    def end(self, request_id: str) -> dict[str, Any]:
        """The status of a request that has ended."""

        def ended() -> dict[str, Any] | None:
            document = self.status(request_id)
            return document if document["state"] in FINAL_STATES else None

        return eventually(ended, within_s=START_S)  # type: ignore[return-value]


def scored(of: Release, *request_ids: str) -> None:
    """These have succeeded, at their first attempt."""
    for request_id in request_ids:
        end = of.end(request_id)
        assert (end["state"], end["attempts"], end["generation"]) == ("succeeded", 1, 0), end


@pytest.fixture
def ledger(valkey: str) -> redis.Redis:
    """An empty ledger that logs what befalls requests."""
    client = redis.Redis.from_url(valkey)
    client.flushall()
    client.set(keys.AUDIT, "1")
    return client


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for name in ("credit-default", "credit-default-logistic"):
        shutil.copytree(SHIPPED_MODELS / name, folder / name)
    shutil.copytree(CHAOS_MODELS, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def broken_models(models: Path, tmp_path: Path) -> Path:
    """The same, but the weights of one model are spoilt, and those of another are not there yet."""
    folder = tmp_path / "broken"
    shutil.copytree(models, folder)
    weights = folder / "chaos-probe" / "1" / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    (folder / "chaos-standin" / "1" / WEIGHTS).unlink()
    return folder


@pytest.fixture
def release_of(valkey: str, models: Path, tmp_path: Path) -> Iterator[Callable[[str], Release]]:
    made: list[Release] = []

    def make(name: str) -> Release:
        folder = REPOSITORY
        if name == "earlier":
            folder = tmp_path / "earlier"
            with tarfile.open(EARLIER) as archive:
                archive.extractall(folder, filter="data")
        environment = {
            "SCORELINE_STORE_URL": valkey,
            "SCORELINE_MODEL_STORE": str(models),
            "SCORELINE_CHAOS_MODEL": "true",
            "SCORELINE_BACKOFF_BASE_S": "0.05",
            BELL_SETTING[name]: "0.5",
            "SCORELINE_TORCH_THREADS": "1",
        }
        logs = tmp_path / f"logs-{name}"
        logs.mkdir()
        made.append(Release(name, folder, environment, logs))
        assert made[-1].run("-c", "import pipeline; print(pipeline.__file__)").startswith(str(folder))
        return made[-1]

    yield make
    for release in made:
        for name in list(release.running):
            release.kill(name)


@pytest.mark.parametrize(("one", "other"), [("earlier", "present"), ("present", "earlier")])
def test_what_one_release_has_begun_another_finishes(
    ledger: redis.Redis,
    release_of: Callable[[str], Release],
    broken_models: Path,
    tmp_path: Path,
    one: str,
    other: str,
) -> None:
    first, second = release_of(one), release_of(other)
    steps = tmp_path / "steps"
    steps.mkdir()

    def waits(stage: Stage) -> int:
        return sum(ledger.zcard(lane) for lane in ledger.scan_iter(keys.waiting(f"{stage}/credit-default*")))

    # What has ended: with a result, with a key, and dead, two that were one flight.
    first.run("-c", PUBLISH.format(*MODULES[one]))
    first.start("api")
    for name in ("sweeper", Stage.PREPROCESS, Stage.POSTPROCESS):
        first.start(name)
    first.start(Stage.SCORING, SCORELINE_MODEL_STORE=str(broken_models), SCORELINE_FAILPOINTS=str(steps))
    known, keyed = application(), application()
    result = first.end(first.submit(known)["request_id"])["result"]
    with_key = first.submit(keyed, key="first's")["request_id"]
    scored(first, with_key)
    dead = first.submit_together(*2 * [{"x": 1, "do": "ok"}], model="chaos-probe")
    assert [first.end(each)["state"] for each in dead] == ["dead", "dead"]

    # What is to be tried again: nobody is left to do so. What has been scored: nobody is left to go on.
    first.stop("sweeper")
    retried = first.submit({"x": 1, "do": "ok"}, model="chaos-standin")["request_id"]
    eventually(lambda: ledger.zcard(keys.LATER) == 1)
    first.stop(Stage.POSTPROCESS)
    at_postprocess = first.submit_together(application(), *2 * [application()])
    eventually(lambda: waits(Stage.POSTPROCESS) == 2)

    # What is claimed by a worker that is killed over it, and what waits for others.
    armed = arm(steps, "after-claim", signal.SIGSTOP)
    claimed = first.submit_together(application(), *2 * [application()])
    eventually(lambda: not armed.exists())
    first.kill(Stage.SCORING)
    at_scoring = first.submit_together(application(), *2 * [application()])
    eventually(lambda: waits(Stage.SCORING) >= 2)
    first.stop(Stage.PREPROCESS)
    flight = application()
    at_preprocess = [*first.submit_together(application(), flight)]
    cancelled = first.submit(application())["request_id"]
    assert httpx.delete(f"{first.url}/v1/scores/{cancelled}").status_code == 200
    waiting = [*at_postprocess, *claimed, *at_scoring, *at_preprocess]
    every = [with_key, *dead, retried, *waiting, cancelled]

    # The other release reads all of it, gives known answers again, knows keys and flights; and the first one its.
    second.start("api")
    assert second.says(every) == first.says(every)
    again = second.submit(known)
    assert (again["state"], again["result"]) == ("succeeded", result)
    assert second.submit(keyed, key="first's")["request_id"] == with_key
    assert second.post("/v1/scores", {"model": "credit-default", "features": known}, "first's").status_code == 422
    waiting += [second.submit(flight)["request_id"], first.submit(flight)["request_id"]]
    assert ledger.zcard(f"{keys.TAG}m:".encode() + from_text(at_preprocess[1])) == 3
    shared = application()
    waiting += [second.submit(shared, key="second's")["request_id"], first.submit(shared)["request_id"]]
    assert first.submit(shared, key="second's")["request_id"] == waiting[-2]
    assert first.says(waiting) == second.says(waiting)

    # Side by side.
    second.start_all()
    first.start_all()
    for number in range(30):
        row = application()
        waiting += [(first, second)[number % 2].submit(row)["request_id"]]
        waiting += (second, first)[number % 2].submit_together(row, application())
    scored(second, *waiting)
    end = second.end(retried)
    assert (end["state"], end["attempts"]) == ("succeeded", 2)
    letters = httpx.get(f"{second.url}/v1/dead-letters").json()["items"]
    assert len(letters) == 1
    assert second.post(f"/v1/dead-letters/{dead[0]}/replay").status_code == 202
    for each in dead:
        eventually(lambda each=each: second.end(each)["state"] == "succeeded")
        assert second.status(each)["generation"] == 1

    # The first one goes. Each has ended once, nothing is left, and what one says the other has said.
    every += [each for each in waiting if each not in every]
    said = first.says(every)
    first.stop()
    last = second.submit_together(application(), application())
    scored(second, *last)
    assert second.says(every) == said
    second.stop(*second.running.keys() - {"api"})
    events = [event_of(*entry) for entry in ledger.xrange(keys.EVENTS)]
    ends: Counter[tuple[bytes, int]] = Counter()
    for event in events:
        if isinstance(event, Ended):
            ends.update((each, unpack_entry(record).header.generation) for each, record in event.records.items())
    assert set(ends.values()) == {1}
    assert {each for each, _ in ends} >= {from_text(each) for each in (*every, *last)}
    claims = Claims(events)
    assert (claims.doubled, claims.stuck) == ([], [])
    assert asyncio.run(_left(ledger)) == []


async def _left(ledger: redis.Redis) -> list[str]:
    options = ledger.connection_pool.connection_kwargs
    client = connect_async(read_settings({"SCORELINE_STORE_URL": f"redis://{options['host']}:{options['port']}/0"}))
    try:
        return await leftovers(client)
    finally:
        await client.aclose()
