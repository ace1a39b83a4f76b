"""``python -m bench.waiting``: a million requests wait. What they take of memory, and whether they slow the rest down.

``depth``: requests of 30 numeric features are accepted by the client while no worker runs, and ``used_memory`` is read
before and after. Then the stages run over this store, and in turn over one with few requests: in both, one producer
replaces what ends, so that as many wait all the time, and what differs is the depth alone. A round counts the ends of
some seconds; the ratio is taken round by round. So a million is never drained to the last.

``return``: fewer requests are accepted, end, and expire after a short ``result_ttl``. Of what the store took for them,
how much is still there once everything that was written for them is gone or should be.
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bench.models import feature_names, write_numbers
from bench.services import Services
from pipeline.client import AsyncScoringClient
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.producers.submissions import DEDUP_TOKEN_S
from pipeline.settings import Settings

FEATURES = 30
FEW = 1000
BYTES_GOAL = 900
RATE_GOAL = 0.85
BACK_GOAL = 0.01
"""Of what waiting took: how much may still be there when all is over."""
RESULT_TTL_S = 10
SHORT_LIVED = {"SCORELINE_RESULT_TTL": str(RESULT_TTL_S)}
DAY_S = 86_400
LOOK_S = 0.005
WARM_UP_S = 3.0
SAMPLE = 200
PARTS = ("depth", "return")

Requests = Iterator[dict[str, Any]]


def requests_of(ref: ModelRef) -> Requests:
    """Yields requests without end; no two alike, each value a random number of three decimals."""
    names, rng = feature_names(FEATURES), random.Random(1)
    for number in itertools.count():
        features = {name: round(rng.uniform(0, 1000), 3) for name in names}
        yield {"model": ref.name, "features": features | {names[0]: number / 1e6}, "timeout_s": DAY_S}


async def accept(settings: Settings, requests: Requests, count: int) -> float:
    """Submits so many more by the client; returns the seconds until all are accepted."""
    async with AsyncScoringClient(settings=settings) as client:
        began = time.perf_counter()
        async for status in client.submit_many(islice(requests, count)):
            assert isinstance(status, dict), status
        return time.perf_counter() - began


def settled(services: Services) -> float:
    """Returns how many requests the stages have settled; each stage counts a third."""
    totals: Any = services.store.hvals(keys.SETTLED)
    return sum(map(int, totals)) / len(Stage)


def ended(services: Services) -> int:
    """Returns how many have succeeded."""
    return int(services.store.hget(keys.COUNTS, "succeeded") or 0)


async def _keep(services: Services, requests: Requests, depth: int, seconds: float) -> tuple[float, float]:
    """Settles and ends a second while ``depth`` requests are unfinished, from some seconds after the first end on."""
    before, count_from = ended(services), 0.0
    counted: tuple[float, float] | None = None
    async with AsyncScoringClient(settings=services.settings) as client:
        while True:
            now, missing = time.perf_counter(), depth - int(services.store.zcard(keys.OPEN))
            if not count_from and ended(services) > before:
                count_from = now + WARM_UP_S
            if counted is None and 0 < count_from <= now:
                count_from, counted = now, (settled(services), ended(services))
            if counted is not None and now >= count_from + seconds:
                took = now - count_from
                return (settled(services) - counted[0]) / took, (ended(services) - counted[1]) / took
            batches = max(0, missing) // keys.SCRIPT_LIMIT  # whole ones: they cost the same at any depth
            async for status in client.submit_many(islice(requests, batches * keys.SCRIPT_LIMIT)):
                assert isinstance(status, dict), status
            if not batches:
                await asyncio.sleep(LOOK_S)


def _each(services: Services, ref: ModelRef, count: int, grown: int) -> dict[str, int]:
    """Where a waiting request's bytes are, about: a sample of the records, the two sorted sets, and the rest."""
    lane = keys.waiting(ref.lane(Stage.PREPROCESS))
    some: Any = services.store.zrange(lane, 0, SAMPLE - 1)
    record = statistics.mean(services.store.memory_usage(keys.record(each)) or 0 for each in some)
    sets = {
        name: (services.store.memory_usage(key) or 0) / count for name, key in (("waiting", lane), ("open", keys.OPEN))
    }
    found = {"record": record, **sets}
    return {name: round(size) for name, size in {**found, "rest": grown / count - sum(found.values())}.items()}


def measure_depth(ref: ModelRef, models: Path, count: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Measures the memory of ``count`` waiting requests, and the rate with them over the rate with few."""
    requests = requests_of(ref)
    with Services(models, SHORT_LIVED) as deep, Services(models, SHORT_LIVED) as shallow:
        asyncio.run(accept(deep.settings, requests, FEW))
        before = deep.memory()
        tenths = [asyncio.run(accept(deep.settings, requests, count // 10)) for _ in range(10)]
        grown = deep.memory() - before
        each = grown / (10 * (count // 10))
        where = _each(deep, ref, count, grown)  # before the stages move them on
        rates: dict[str, list[tuple[float, float]]] = {"few": [], "many": []}
        for _ in range(rounds):
            for name, services, depth in (("few", shallow, FEW), ("many", deep, count)):
                services.start()
                rates[name].append(asyncio.run(_keep(services, requests, depth, seconds)))
                services.stop()
        share = statistics.median(many / few for (many, _), (few, _) in zip(rates["many"], rates["few"], strict=True))
        return {
            "waiting": count,
            "bytes a waiting request": {"found": round(each), "goal": BYTES_GOAL, "met": each <= BYTES_GOAL},
            "of which, about": where,
            "accepted_per_s": {"first tenth": round(count / 10 / tenths[0]), "last": round(count / 10 / tenths[-1])},
            "settled_per_s": {name: [round(settles) for settles, _ in found] for name, found in rates.items()},
            "ended_per_s": {name: [round(ends) for _, ends in found] for name, found in rates.items()},
            f"rate with {count} over rate with {FEW}": {
                "found": round(share, 3), "goal": RATE_GOAL, "met": share >= RATE_GOAL,
            },
        }  # fmt: skip


def measure_return(ref: ModelRef, models: Path, count: int) -> dict[str, Any]:
    """Measures what ``count`` requests leave behind once they have ended and expired."""
    requests = requests_of(ref)

    def drain() -> None:
        services.start()
        while services.store.zcard(keys.OPEN):
            time.sleep(LOOK_S)
        services.stop()

    with Services(models, SHORT_LIVED) as services:
        asyncio.run(accept(services.settings, requests, FEW))
        drain()
        time.sleep(RESULT_TTL_S + 1)
        before, entries = services.memory(), int(services.store.dbsize())
        asyncio.run(accept(services.settings, requests, count))
        waited = services.memory() - before
        drain()
        until = time.monotonic() + RESULT_TTL_S + DEDUP_TOKEN_S
        while int(services.store.dbsize()) > entries and time.monotonic() < until:
            time.sleep(1)
        left = services.memory() - before
        more = int(services.store.dbsize()) - entries
    return {
        "waited": count,
        "bytes while they waited": waited,
        "bytes when all was over": left,
        "keys more than before": more,
        "still there": {"found": round(left / waited, 4), "goal": BACK_GOAL, "met": left / waited <= BACK_GOAL},
    }


def main() -> None:
    """Measures and reports; exits 1 unless every goal is met."""
    parser = argparse.ArgumentParser(prog="python -m bench.waiting", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="that wait")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="that are counted, each round")
    parser.add_argument("--expiring", type=int, default=100_000, help="requests that end and expire")
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    document = {}
    with tempfile.TemporaryDirectory(prefix="scoreline-bench-") as folder:
        models = Path(folder)
        ref = write_numbers(models, FEATURES)
        if options.only != "return":
            document["depth"] = measure_depth(ref, models, options.requests, options.rounds, options.seconds)
        if options.only != "depth":
            document["return"] = measure_return(ref, models, options.expiring)
    print(json.dumps(document, indent=1))
    sys.exit(
        any(each.get("met") is False for part in document.values() for each in part.values() if isinstance(each, dict))
    )


if __name__ == "__main__":
    main()
