"""The ledger under test: its sides over one server, with short names for what tests do all the time."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import redis

from chaos.legend_check import breaches
from pipeline.contracts.lanes import Lane, ModelRef, parse_lane
from pipeline.contracts.releases import Release
from pipeline.contracts.stages import Stage, State
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
from pipeline.settings import Settings

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
        self._begin()

    def begin_again(self) -> None:
        """Empties the server; the ledger's sides know nothing of what was there."""
        self.client.flushall()
        self._begin()

    def _begin(self) -> None:
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
