"""The ledger under test: once on fakeredis, once on a real server. Both must pass every test here.

On the real server its three sides are a user that may do what `pipeline.ledger.rights` says, and nothing else.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import fakeredis
import pytest
import redis

from chaos.legend_check import breaches
from pipeline.contracts.ids import from_text, to_text
from pipeline.contracts.lanes import Lane, ModelRef, parse_lane
from pipeline.contracts.releases import Release
from pipeline.contracts.stages import Priority, Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import Attempts, Completed, Ended, Outcome, Output
from pipeline.ledger.keys import TAG
from pipeline.ledger.operators.dead_letters import DeadLetters
from pipeline.ledger.producers.accept import Producing
from pipeline.ledger.producers.submissions import Accepted, Submission
from pipeline.ledger.releases import publish
from pipeline.ledger.rights import OPTIONAL, Role, needed, rule
from pipeline.ledger.scripts import Scripts
from pipeline.ledger.sweeper.maintenance import Sweeping
from pipeline.ledger.sweeper.repairs import Repairs
from pipeline.ledger.workers.claims import Batch, Claims
from pipeline.settings import Settings, read_settings
from pipeline.store.connection import connect, connect_async

Result = TypeVar("Result")
REF = ModelRef("m", "1", "a" * 64)


class SteppedClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Ledger:
    """The three sides of the ledger over one server, with short names for what the tests do all the time.

    ``client`` and ``async_client`` may do anything: with them tests look, and spoil. The ledger has the other two.
    """

    client: Any
    async_client: Any
    own: Any
    own_async: Any
    settings: Settings
    runner: asyncio.Runner
    model: ModelRef = REF
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.producing = Producing(self.own_async, self.settings)
        self.letters = DeadLetters(self.own_async)
        self.sweeping = Sweeping(self.own, self.settings)
        self.scripts = Scripts(self.own)
        release = Release(
            self.model.name, self.model.version, self.model.digest, "", {"properties": {"n": {"type": "number"}}}, 60
        )
        self.run(publish(self.own_async, release, make_current=True))

    def run(self, call: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(call)

    def worker(self, name: str = "w1") -> Claims:
        """A registered worker's claims."""
        self.scripts.heartbeat(args=[name, "{}", "1"])
        return Claims(self.own, self.settings, lambda: name)

    def lane(self, stage: Stage = Stage.PREPROCESS) -> Lane:
        return parse_lane(self.model.lane(stage))

    def accept(self, count: int = 1, **fields: Any) -> list[bytes]:
        """Requests that have nothing in common; with ``features``, that are the same."""
        alike = fields.pop("features", None)
        submissions = [Submission("m", alike or {"n": next(self.numbers)}, **fields) for _ in range(count)]
        answers = self.run(self.producing.accept(submissions))
        assert all(isinstance(answer, Accepted) for answer in answers), answers
        return [answer.id for answer in answers if isinstance(answer, Accepted)]

    def claim(self, worker: Claims, stage: Stage = Stage.PREPROCESS, limit: int = 64) -> Batch | None:
        return worker.claim(self.lane(stage), limit, answers_bell=True)

    def complete(self, worker: Claims, batch: Batch, **options: Any) -> Batch | None:
        outcomes = [Completed(Output(work.body)) for work in batch.works]
        return self.settle(worker, batch, outcomes, **options)

    def settle(self, worker: Claims, batch: Batch, outcomes: list[Outcome], *, claim_next: int = 0) -> Batch | None:
        return worker.settle(batch, outcomes, claim_next=claim_next, model_runs={})

    def pass_stages(self, worker: Claims, *stages: Stage) -> None:
        """Let everything that waits pass these stages."""
        for stage in stages:
            batch = self.claim(worker, stage)
            assert batch is not None
            self.complete(worker, batch)

    def read(self, *ids: bytes) -> list[Any]:
        return self.run(self.producing.read(ids))

    def states(self, *ids: bytes) -> list[str]:
        return [answer["state"] if isinstance(answer, dict) else answer.slug for answer in self.read(*ids)]

    def bells(self, queue: str = "preprocess") -> int:
        return self.client.llen(TAG + queue)

    def turn_clock(self, seconds: float) -> None:
        """Let the server's clock jump ahead, as the scripts see it."""
        self.client.incrby(f"{TAG}offset", round(seconds * 1000))

    def scrub(self) -> int:
        """Check all keys for what stopped scripts have left, and repair it; how many requests wait again."""
        repairs = Repairs(self.client, self.settings)
        reopened = repairs.scrub()
        while not repairs.has_seen_all:
            reopened += repairs.scrub()
        return reopened

    def leftovers(self) -> set[str]:
        """What is stored and should not be if everything has ended."""
        return set(self.run(breaches(self.async_client, all_ended=True)))


FAILURE = Failure(category="unknown", stage="scoring", message="boom", retryable=True)


def dead(starts: int = 3) -> Ended:
    attempts = Attempts()
    for number in range(starts):
        attempts = attempts.charge(1_800_000_000_000 + number, "scoring", "unknown", "boom")
    return Ended(State.DEAD, FAILURE, attempts)


LedgerMaker = Callable[..., Ledger]


@pytest.fixture(params=["fakeredis", "valkey"])
def make_ledger(request: pytest.FixtureRequest) -> Iterator[LedgerMaker]:
    """Make a ledger with other settings, on an empty server."""
    with asyncio.Runner() as runner:

        def make(**environment: str) -> Ledger:
            values = {f"SCORELINE_{name.upper()}": value for name, value in environment.items()}
            if request.param == "fakeredis":
                server = fakeredis.FakeServer(server_type="valkey")
                client, async_client = fakeredis.FakeRedis(server=server), fakeredis.FakeAsyncRedis(server=server)
                ledgers.append(Ledger(client, async_client, client, async_client, read_settings(values), runner))
                return ledgers[-1]
            url = request.getfixturevalue("valkey")
            operator = redis.Redis.from_url(url, decode_responses=True)
            operator.flushall()
            settings = read_settings(values | {"SCORELINE_STORE_URL": url})
            own = settings.model_copy(update={"store_url": restricted(operator, settings)})
            clients = connect(settings, extra_wait_s=2), connect_async(settings)
            ledger = Ledger(*clients, connect(own, extra_wait_s=2), connect_async(own), settings, runner)
            operators.append(operator)
            ledgers.append(ledger)
            return ledger

        operators: list[redis.Redis] = []
        ledgers: list[Ledger] = []
        yield make
        if ledgers and request.node.get_closest_marker("spoils"):
            ledgers[-1].scrub()
        if ledgers:  # each is on an empty server: what is stored is the last one's
            assert runner.run(breaches(ledgers[-1].async_client, all_ended=False)) == [], "see legend.py"
        for operator in operators:
            assert denied(operator) == set(), "what no list of rights names"


def restricted(operator: redis.Redis, settings: Settings, role: Role = "service", *, name: str = "exact") -> str:
    """URL of a user that may do what a role needs, and what it uses besides if the server knows it; no more."""
    names = _commands_of(settings.store_url)
    known = [command for command in OPTIONAL if command.split()[0] in names]
    commands = [*needed(settings, role), *(needed(settings, "publisher") if role == "service" else ()), *known]
    operator.execute_command(
        "ACL", "SETUSER", name, "reset", "on", ">secret", "-@all", *rule(settings, role, commands).split()
    )
    operator.acl_log_reset()
    return settings.store_url.replace("//", f"//{name}:secret@")


@cache
def _commands_of(url: str) -> frozenset[str]:
    """The commands that a server knows."""
    return frozenset(str(name).upper() for name in redis.Redis.from_url(url, decode_responses=True).command_list())


def denied(operator: redis.Redis, name: str = "exact") -> set[str]:
    """Commands, keys and channels that a user was refused."""
    return {entry["object"] for entry in operator.acl_log() if entry["username"] == name}


@pytest.fixture
def ledger(make_ledger: LedgerMaker) -> Ledger:
    return make_ledger()


__all__ = ["Ledger", "LedgerMaker", "Priority", "from_text", "to_text"]
