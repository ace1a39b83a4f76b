"""Where speed is measured, everything that keeps requests safe is on: asked of the running stack itself."""

from collections.abc import Iterator
from typing import cast

import httpx
import psutil
import pytest
import redis

from bench.processes import measured_stack
from pipeline.client import ScoringClient
from pipeline.contracts.lanes import parse_lane
from pipeline.contracts.stages import Priority, Stage
from pipeline.contracts.work import Completed, Header, Output, Progress, Work
from pipeline.ledger import keys
from pipeline.ledger.clock import server_ms
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.registry import live_workers
from pipeline.ledger.scripts import Scripts
from pipeline.ledger.workers.claims import Batch, ClaimLost, Claims, Fenced
from pipeline.samples.credit_data import read_applications
from pipeline.settings import Durability
from pipeline.stack.local import LocalStack
from pipeline.store.connection import connect
from tests.conftest import eventually

GIVEN = {"STORE_URL", "DURABILITY", "MODEL_STORE", "CHAOS_MODEL", "EXPECTED_SCORING_WORKERS", "TORCH_THREADS"}
"""What a local stack tells its services; everything else is as the settings have it."""


@pytest.fixture(scope="module", params=["process", "disk"])
def measured(request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    with measured_stack(cast(Durability, request.param)) as stack:
        yield stack


@pytest.fixture
def store(measured: LocalStack) -> redis.Redis:
    return connect(measured.settings)


def test_the_server_keeps_what_the_level_promises(measured: LocalStack, store: redis.Redis) -> None:
    config = store.config_get()
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == {"process": "no", "disk": "always"}[measured.durability]
    assert config["maxmemory-policy"] == "noeviction"


def test_no_service_is_told_to_do_less(measured: LocalStack) -> None:
    services = measured.ready_document()["pids"]
    del services["store"]  # it knows no settings of ours, and writes its title over its environment
    for name, (pid,) in services.items():
        told = {key for key in psutil.Process(pid).environ() if key.startswith("SCORELINE_")}
        assert told == {f"SCORELINE_{each}" for each in GIVEN}, name


def test_what_answers_comes_before_what_computes(measured: LocalStack) -> None:
    services = measured.ready_document()["pids"]
    nice = {name: psutil.Process(pid).nice() for name, (pid,) in services.items()}
    assert nice["store"] == nice["api"] == nice["sweeper"] == psutil.Process().nice()
    assert {nice[name] for name in (*Stage, "flower")} == {nice["api"] + 5}


def test_workers_acknowledge_late_and_take_one_bell_at_a_time(measured: LocalStack) -> None:
    from celery import Celery  # noqa: PLC0415 - the only test here that speaks to the workers themselves

    asker = Celery(broker=measured.store_url, backend=None)
    asker.conf.broker_transport_options = {"global_keyprefix": keys.TAG}
    asker.conf.result_backend = measured.store_url

    def told() -> dict[str, dict[str, object]]:
        answers: dict[str, dict[str, object]] = asker.control.inspect(timeout=2).conf() or {}
        return answers if len(answers) == len(Stage) else {}

    for worker, conf in cast(dict[str, dict[str, object]], eventually(told)).items():
        assert conf["task_acks_late"] is True, worker
        assert conf["worker_prefetch_multiplier"] == 1, worker
        assert conf["task_reject_on_worker_lost"] is False, worker  # the ledger gives back, a message would for ever


def test_every_request_is_claimed_and_settled_at_every_stage(measured: LocalStack) -> None:
    def counted() -> dict[str, int]:
        counts: dict[str, int] = httpx.get(f"{measured.api_url}/v1/stats").json()["counts"]
        return counts

    before = counted()
    inputs = [row.features | {"Price": 50 + number / 1000} for number, row in enumerate(read_applications()[:300])]
    with ScoringClient(settings=measured.settings) as client:
        ends = list(client.score_many({"model": "credit-default", "features": features} for features in inputs))
    assert [end["state"] for end in ends if isinstance(end, dict)] == ["succeeded"] * 300
    after = counted()
    rose = {name: total - before.get(name, 0) for name, total in after.items()}
    assert rose["accepted"] == rose["succeeded"] == 300
    for stage in Stage:
        assert rose[f"{stage}:claimed"] == rose[f"{stage}:settled"] == 300, stage


def test_a_claim_that_is_not_held_settles_nothing(measured: LocalStack, store: redis.Redis) -> None:
    workers = store.zrange(keys.BEATS, 0, -1)
    assert len(live_workers(store, server_ms(store), measured.settings.lease_ttl_s)) == len(Stage)
    with ScoringClient(settings=measured.settings) as client:
        lane = parse_lane(client.releases().resolve("credit-default").ref.lane(Stage.SCORING))
    model = lane.model
    header = Header(model.name, model.version, bytes.fromhex(model.digest), model.pool, Priority.NORMAL, 1000, 0, True)
    work = Work(bytes(16), 0, header, Progress(0), b"", b"")
    counts = store.hgetall(keys.COUNTS)
    for worker in workers:
        name = worker.decode()
        claims = Claims(store, measured.settings, lambda name=name: name)  # type: ignore[misc]
        batch = Batch(lane, "1:1", name, 0, 0.0, [work])
        with pytest.raises(ClaimLost):
            claims.settle(batch, [Completed(Output(0.5))], claim_next=0, model_runs={})
    assert store.hgetall(keys.COUNTS) == counts


def test_who_was_swept_may_not_claim(measured: LocalStack, store: redis.Redis) -> None:
    scripts = Scripts(store)
    scripts.heartbeat(args=["gone", "{}", "1"])
    release_claims(scripts, "gone", charge="loss", fence=True)
    with ScoringClient(settings=measured.settings) as client:
        lane = parse_lane(client.releases().resolve("credit-default").ref.lane(Stage.SCORING))
    with pytest.raises(Fenced):
        Claims(store, measured.settings, lambda: "gone").claim(lane, 1, answers_bell=False)
