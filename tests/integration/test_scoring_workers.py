"""Scoring workers beside the usual one: standbys, pools of models, and children with a cap on their memory."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.stack.local import LocalStack
from tests.support.processes import eventually
from tests.support.requests import end_of, probe

SCORELINE = Path(sys.executable).parent / "scoreline"


class Worker:
    """One more scoring worker over the stack's store, in a process of its own."""

    def __init__(self, stack: LocalStack, log: Path, *arguments: str, **environment: str) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [SCORELINE, "worker", "scoring", *arguments],
            env={
                **os.environ,
                "SCORELINE_STORE_URL": stack.store_url,
                "SCORELINE_MODEL_STORE": str(stack.settings.model_store),
                "SCORELINE_CHAOS_MODEL": "true",
                "SCORELINE_EXPECTED_SCORING_WORKERS": "1",
                "SCORELINE_TORCH_THREADS": "1",
                **environment,
            },
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
        )

    def said(self, what: str) -> int:
        return self.log.read_text().count(what)

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def uncalled(self, since: int = 0) -> int:
        """How many bells it has heard, after so many lines, before it found a worker missing.

        On a machine that stands still for longer than a lease, the regular worker *is* missing.
        """
        before = itertools.takewhile(lambda line: '"serves": true' not in line, self.lines()[since:])
        return sum("received" in line for line in before)

    def known(self, http: httpx.Client) -> dict:
        """What operators see of it; nothing while it is not registered."""
        workers = http.get("/v1/stats").json()["workers"]
        mine = [each for each in workers if each["pid"] == self.process.pid and each["state"] == "live"]
        return mine[0] if mine else {}

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def end(self) -> None:
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
        self.process.wait()


Start = Callable[..., Worker]


@pytest.fixture
def start(stack: LocalStack, tmp_path: Path) -> Iterator[Start]:
    workers: list[Worker] = []

    def begin(*arguments: str, **environment: str) -> Worker:
        workers.append(Worker(stack, tmp_path / f"{len(workers)}.log", *arguments, **environment))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.end()


def test_a_standby_claims_only_while_a_worker_is_missing(
    http: httpx.Client, stack: LocalStack, start: Start, supervise: Callable[[str, str], None]
) -> None:
    standby = start("--standby")
    eventually(lambda: standby.known(http))
    assert (standby.known(http)["standby"], standby.known(http)["claims"]) == (True, False)
    eventually(lambda: standby.said(" ready."))
    assert "Canceling queue" in standby.log.read_text().split(" ready.")[0], "it never heard any bell"
    for _ in range(5):
        answer = http.post("/v1/scores", json=probe("ok"), params={"wait": 30}).json()
        assert answer["state"] == "succeeded"
    assert standby.uncalled() == 0, "the regular worker had them all"

    supervise("stop", "scoring")
    accepted = http.post("/v1/scores", json=probe("ok")).json()
    assert end_of(http, accepted["request_id"])["state"] == "succeeded"
    assert standby.said("received") > 0
    assert eventually(lambda: standby.known(http)["claims"])

    supervise("start", "scoring")
    eventually(lambda: not standby.known(http)["claims"])
    before = len(standby.lines())
    for _ in range(5):
        answer = http.post("/v1/scores", json=probe("ok"), params={"wait": 30}).json()
        assert answer["state"] == "succeeded"
    assert standby.uncalled(since=before) == 0, "it stands by again"


def test_a_standby_wants_to_know_how_many_are_expected(start: Start) -> None:
    worker = start("--standby", SCORELINE_EXPECTED_SCORING_WORKERS="0")
    assert worker.process.wait(60) == 2
    assert worker.said("SCORELINE_EXPECTED_SCORING_WORKERS") == 1


def test_a_pools_worker_loads_its_models_and_serves_them_alone(
    http: httpx.Client, stack: LocalStack, start: Start, scoreline: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    models = stack.settings.model_store
    heavy = models / "chaos-heavy" / "1"
    shutil.copytree(models / "chaos-probe" / "1", heavy)
    manifest = json.loads((heavy / "manifest.json").read_text()) | {"name": "chaos-heavy", "pool": "heavy"}
    (heavy / "manifest.json").write_text(json.dumps(manifest))
    try:
        worker = start("--pool", "heavy")
        usual = http.get("/v1/stats").json()["workers"]
        assert all("chaos-heavy@1" not in each["models"] for each in usual)
        eventually(lambda: worker.known(http))
        assert worker.known(http)["models"] == ["chaos-heavy@1"]
        assert "chaos-heavy@1" in scoreline("publish", SCORELINE_CHAOS_MODEL="true").stdout
        answer = http.post("/v1/scores", json=probe("ok") | {"model": "chaos-heavy"}, params={"wait": 30}).json()
        assert answer["state"] == "succeeded"
        assert worker.said("received") > 0
        heard = worker.said("received")
        assert http.post("/v1/scores", json=probe("ok"), params={"wait": 30}).json()["state"] == "succeeded"
        assert worker.said("received") == heard, "the default pool's work is not its own"
    finally:
        shutil.rmtree(heavy.parent)


def test_a_child_that_has_used_too_much_memory_is_replaced_between_batches(
    http: httpx.Client, stack: LocalStack, start: Start, supervise: Callable[[str, str], None]
) -> None:
    worker = start(SCORELINE_CHILD_MEMORY_MB="50")  # less than torch alone takes
    eventually(lambda: worker.known(http))
    (before,) = worker.children()
    eventually(lambda: worker.said("child_memory_high") == 1)
    supervise("stop", "scoring")
    try:
        accepted = http.post("/v1/scores", json=probe("ok")).json()
        end = end_of(http, accepted["request_id"])
        assert (end["state"], end["attempts"]) == ("succeeded", 1)
        eventually(lambda: worker.said("child_replaced") == 1)
        eventually(lambda: [child.pid for child in worker.children()] not in ([before.pid], []))
        again = http.post("/v1/scores", json=probe("ok")).json()
        assert end_of(http, again["request_id"])["state"] == "succeeded"
    finally:
        supervise("start", "scoring")
    assert worker.said("child_died") == 0
