"""One run of the proof: load, faults, settling, check."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from chaos.checker import Witness, check
from chaos.events import Released
from chaos.faults import Faults
from chaos.injections import Record
from chaos.leftovers import Repairing, leftovers
from chaos.load import Producer
from chaos.log_follower import LogFollower
from chaos.recovery import gaps_without_child
from chaos.reference import Reference
from chaos.report import document_of
from chaos.schedule import EVERYTHING, FAULTS, GROUPS, FaultLock, Plan
from chaos.targets import Targets
from chaos.testbed import REPLACED_S, Testbed
from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.contracts.ids import from_text
from pipeline.contracts.problems import Problem
from pipeline.ledger import keys
from pipeline.ledger.operators.dead_letters import DeadLetters
from pipeline.settings import read_settings
from pipeline.store.connection import AsyncClient, connect_async

log = structlog.get_logger()
SATURATION_S = 5.0
SHARE = 0.5
"""The share of the measured saturation that is offered."""
PAUSE_S = (0.2, 1.0)
"""Seconds between two faults of one group: at least, at most."""
GLOBAL_PAUSE = (0.05, 0.08)
"""The same for faults that hit everything, as a share of the run."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. ``rate``: None for half of what is measured."""

    names: list[str]
    seconds: float
    rate: float | None
    seed: int
    settle_s: float


async def prove(testbed: Testbed, options: Options) -> dict[str, Any]:
    """Runs the proof; returns the document of its result."""
    stack = testbed.stack
    store = connect_async(stack.settings)
    await store.set(keys.AUDIT, "1")
    follower = LogFollower(store)
    following = asyncio.create_task(follower.follow())
    client = AsyncScoringClient(settings=stack.settings)
    async with Producer(stack.api_url, random.Random(f"{options.seed}:load")) as producer, client:
        saturation = None
        if options.rate is None:
            saturation = await producer.saturation(SATURATION_S)
            log.info("saturation_measured", per_second=round(saturation))
        rate = options.rate or SHARE * (saturation or 0)
        began = time.monotonic()
        record = await _under_load(testbed, store, producer, rate, options)
        seconds = time.monotonic() - began
        # An aborted script may leave what the sweeper repairs. No other fault leaves anything.
        repairing = Repairing(stack.settings) if "abort-script" in options.names else None
        await producer.settle(client, options.settle_s)
        letters = await _letters(store, producer)
        look = partial(leftovers, store)
        left = await (repairing.until_clean(look, options.settle_s) if repairing else look())
        following.cancel()
        await follower.catch_up()
        reference = Reference(read_settings().model_copy(update={"model_store": stack.settings.model_store}))
        witness = Witness(left, letters, producer.hung, [*record.unmet, *_unmet(record, follower)])
        verdict = check(producer.sent, follower.commits, reference.expected(producer.sent), follower.claims, witness)
        facts = {
            "seed": options.seed,
            "seconds": round(seconds, 1),
            "durability": stack.durability,
            "saturation_per_s": saturation and round(saturation),
            "rate_per_s": round(rate),
            "held_back": producer.held_back,
            "repaired": repairing.repaired if repairing else [],
            "longest_calls": [call._asdict() for call in producer.longest],
        }
        await store.aclose()
        return document_of(verdict, record.injections, follower.log, facts, list(_slow(record, follower)))


async def _under_load(
    testbed: Testbed, store: AsyncClient, producer: Producer, rate: float, options: Options
) -> Record:
    faults = Faults(Targets(testbed, store), producer, options.seed)
    over = asyncio.Event()

    async def inject() -> None:
        try:
            await _inject_all(faults, options)
        finally:
            over.set()

    await asyncio.gather(producer.run(rate, over), inject())
    return faults.record


async def _inject_all(faults: Faults, options: Options) -> None:
    """Runs every group's loop, until the time is over and each fault has been injected."""
    rng = random.Random(f"{options.seed}:plan")
    plan, lock = Plan(options.names, rng), FaultLock()
    ends_at = time.monotonic() + options.seconds
    missing = set(options.names)

    async def loop(group: str, pauses: Iterator[float]) -> None:
        can = {fault for fault in options.names if group in FAULTS[fault][2]}
        for fault in plan.of(group):
            async with lock.exclusive() if group == EVERYTHING else lock.shared(fault):
                if time.monotonic() > ends_at:
                    if not missing & can:
                        return
                    if fault not in missing:
                        continue
                missing.discard(fault)
                log.info("inject", fault=fault, left_s=round(ends_at - time.monotonic()))
                await faults.inject(fault, group)
            await asyncio.sleep(next(pauses))

    def pauses(group: str, low: float, high: float) -> Iterator[float]:
        own = random.Random(f"{options.seed}:{group}:pauses")
        while True:
            yield own.uniform(low, high)

    async with asyncio.TaskGroup() as loops:
        for group in GROUPS:
            low, high = (share * options.seconds for share in GLOBAL_PAUSE) if group == EVERYTHING else PAUSE_S
            loops.create_task(loop(group, pauses(group, low, high)))


def _slow(record: Record, follower: LogFollower) -> Iterator[str]:
    """Yields the workers that had no child for longer than promised after a batch that hung."""
    for injection in record.injections:
        if injection.fault == "hang" and injection.poison is not None:
            for seconds in gaps_without_child(injection.poison, follower.log):
                if seconds > REPLACED_S:
                    yield f"hang: a worker was out for {seconds:.1f} s, more than {REPLACED_S} s"


def _unmet(record: Record, follower: LogFollower) -> Iterator[str]:
    """Yields what must hold of a fault and, by the ledger's log, did not."""
    for began, ended in record.uncharged:
        charged = [
            event
            for event in follower.log.closed.values()
            if isinstance(event, Released) and event.charge != "none" and began <= event.at <= ended
        ]
        if charged:
            yield f"term: {len(charged)} batches were charged for it, the first with a {charged[0].charge}"


async def _letters(store: AsyncClient, producer: Producer) -> dict[str, list[dict[str, Any]]]:
    """Returns the attempts in the dead letters of all poison."""
    found = {}
    for one in producer.sent:
        if one.poison and one.request_id:
            try:
                found[one.request_id] = (await DeadLetters(store).get(from_text(one.request_id))).document()["attempts"]
            except Problem:
                continue  # the checker says so
    return found
