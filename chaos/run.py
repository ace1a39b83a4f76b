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
from chaos.ground import REPLACED_S, Ground
from chaos.leftovers import Repairing, leftovers
from chaos.load import Producer
from chaos.offline import Offline
from chaos.outages import Outages
from chaos.recovery import outages
from chaos.report import document_of
from chaos.rights import Rights
from chaos.schedule import FAULTS, GROUPS, Arena, Plan
from chaos.tail import Tail
from chaos.victims import GIVE_UP_S, Victims
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
"""How much of the measured saturation is offered."""
PAUSE_S = (0.2, 1.0)
ALONE_PAUSE = (0.05, 0.08)
"""Between two strikes of one group: seconds, at least and at most; for those that come alone a share of the run."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. ``rate``: None for half of what is measured."""

    names: list[str]
    seconds: float
    rate: float | None
    seed: int
    settle_s: float


async def prove(ground: Ground, options: Options) -> dict[str, Any]:
    """The run, and the document of its result."""
    stack = ground.stack
    store = connect_async(stack.settings)
    await store.set(keys.AUDIT, "1")
    tail = Tail(store)
    following = asyncio.create_task(tail.follow())
    client = AsyncScoringClient(settings=stack.settings)
    async with Producer(stack.api_url, random.Random(f"{options.seed}:load")) as producer, client:
        saturation = None
        if options.rate is None:
            saturation = await producer.saturation(SATURATION_S)
            log.info("saturation_measured", per_second=round(saturation))
        rate = options.rate or SHARE * (saturation or 0)
        began = time.monotonic()
        faults, alone = await _under_load(ground, store, producer, rate, options)
        seconds = time.monotonic() - began
        # A script that was stopped on its way may leave what the sweeper repairs. Nothing else leaves anything.
        repairing = Repairing(stack.settings) if "abort-script" in options.names else None
        await producer.settle(client, options.settle_s)
        letters = await _letters(store, producer)
        look = partial(leftovers, store)
        left = await (repairing.until_clean(look, options.settle_s) if repairing else look())
        following.cancel()
        await tail.catch_up()
        offline = Offline(read_settings().model_copy(update={"model_store": stack.settings.model_store}))
        witness = Witness(left, letters, producer.hung, [*faults.unmet, *alone.unmet, *_unmet(alone, tail)])
        verdict = check(producer.sent, tail.commits, offline.expected(producer.sent), tail.claims, witness)
        strikes = [*faults.strikes, *alone.strikes]
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
        return document_of(verdict, strikes, tail.log, facts, list(_slow(faults, tail)))


async def _under_load(
    ground: Ground, store: AsyncClient, producer: Producer, rate: float, options: Options
) -> tuple[Faults, Outages]:
    victims = Victims(ground, store)
    rights = Rights(store, options.seed)
    faults, alone = Faults(victims, producer, rights, options.seed), Outages(victims, producer, rights)
    over = asyncio.Event()

    async def strikes() -> None:
        try:
            await _strike(faults, alone, options)
        finally:
            over.set()

    await asyncio.gather(producer.run(rate, over), strikes())
    return faults, alone


async def _strike(faults: Faults, alone: Outages, options: Options) -> None:
    """Every group's loop, until the time is over and each fault has struck."""
    rng = random.Random(f"{options.seed}:plan")
    plan, arena = Plan(options.names, rng), Arena()
    ends_at = time.monotonic() + options.seconds
    missing = set(options.names)

    async def loop(group: str, pauses: Iterator[float]) -> None:
        can = {fault for fault in options.names if group in FAULTS[fault][2]}
        for fault in plan.of(group):
            async with arena.alone() if group == "store" else arena.single(fault):
                if time.monotonic() > ends_at:
                    if not missing & can:
                        return
                    if fault not in missing:
                        continue
                missing.discard(fault)
                log.info("strike", fault=fault, left_s=round(ends_at - time.monotonic()))
                try:
                    await (alone.strike(fault) if group == "store" else faults.strike(fault, group))
                except TimeoutError as error:  # a finding; the others go on
                    faults.unmet.append(f"{fault}: {error} within {GIVE_UP_S:g} s")
            await asyncio.sleep(next(pauses))

    def pauses(group: str, low: float, high: float) -> Iterator[float]:
        own = random.Random(f"{options.seed}:{group}:pauses")
        while True:
            yield own.uniform(low, high)

    async with asyncio.TaskGroup() as loops:
        for group in GROUPS:
            low, high = (share * options.seconds for share in ALONE_PAUSE) if group == "store" else PAUSE_S
            loops.create_task(loop(group, pauses(group, low, high)))


def _slow(faults: Faults, tail: Tail) -> Iterator[str]:
    """Children that were missing for longer than promised after a batch that hung."""
    for strike in faults.strikes:
        if strike.fault == "hang" and strike.poison is not None:
            for seconds in outages(strike.poison, tail.log):
                if seconds > REPLACED_S:
                    yield f"hang: a worker was out for {seconds:.1f} s, more than {REPLACED_S} s"


def _unmet(alone: Outages, tail: Tail) -> Iterator[str]:
    """What the log says of faults: what must hold of them, and did not."""
    for began, ended in alone.uncharged:
        charged = [
            event
            for event in tail.log.closed.values()
            if isinstance(event, Released) and event.charge != "none" and began <= event.at <= ended
        ]
        if charged:
            yield f"term: {len(charged)} batches were charged for it, the first with a {charged[0].charge}"


async def _letters(store: AsyncClient, producer: Producer) -> dict[str, list[dict[str, Any]]]:
    """The attempts in the letters of all poison."""
    found = {}
    for one in producer.sent:
        if one.poison and one.request_id:
            try:
                found[one.request_id] = (await DeadLetters(store).get(from_text(one.request_id))).document()["attempts"]
            except Problem:
                continue  # the checker says so
    return found
