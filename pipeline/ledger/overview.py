"""Counts for operators: what waits, what is claimed, who works. Read in a few round trips, never on the hot path."""

import json
from typing import Any

from pipeline.contracts.ids import accepted_ms
from pipeline.contracts.lanes import parse_lane
from pipeline.contracts.stages import PRIORITY_STEP, Priority, Stage
from pipeline.ledger import keys
from pipeline.ledger.connection import AsyncClient, store_problems
from pipeline.settings import Settings


async def read_overview(client: AsyncClient, settings: Settings) -> dict[str, Any]:
    """The document of ``GET /v1/stats``."""
    with store_problems():
        now = await _server_ms(client)
        workers, claimed = await _workers(client, settings, now)
        counts = {name.decode(): int(value) for name, value in (await client.hgetall(keys.COUNTS)).items()}
        for lane, total in (await client.hgetall(keys.SETTLED)).items():
            name = f"{parse_lane(lane.decode()).stage}:settled"
            counts[name] = counts.get(name, 0) + int(total)
        rates = await client.hgetall(keys.RATES)
        stages = {}
        for stage in Stage:
            waiting, oldest = await _waiting(client, stage)
            stages[str(stage)] = {
                "waiting": waiting,
                "claimed": claimed[stage],
                "oldest_age_s": None if oldest is None else round(max(0.0, (now - oldest) / 1000), 3),
                "rate": float(rates.get(str(stage).encode(), 0)),
            }
        return {
            "stages": stages,
            "workers": workers,
            "breakers": [
                {**breaker, "worker": worker["id"], "stage": worker["stage"]}
                for worker in workers
                for breaker in worker.pop("breakers")
            ],
            "degraded": bool(await client.exists(keys.DEGRADED)),
            "durability": settings.durability,
            "model_runs": {name[5:]: total for name, total in counts.items() if name.startswith("runs:")},
            "unfinished": await client.zcard(keys.OPEN),
            "retries_waiting": await client.zcard(keys.LATER),
            "dead_letters": await client.zcard(keys.DEAD),
            "counts": {name: total for name, total in sorted(counts.items()) if not name.startswith("runs:")},
        }


async def _server_ms(client: AsyncClient) -> float:
    (seconds, micros), offset = await client.time(), await client.get(keys.OFFSET)
    return float(seconds * 1000 + micros / 1000 + int(offset or 0))


async def _waiting(client: AsyncClient, stage: Stage) -> tuple[int, int | None]:
    """How many wait at a stage, and when the oldest of the most urgent of each priority was accepted (ms)."""
    lanes = [lane.decode() for lane in await client.zrange(keys.LANES, 0, -1)]
    total, oldest = 0, None
    for lane in lanes:
        if parse_lane(lane).stage is not stage:
            continue
        waiting = keys.waiting(lane)
        async with client.pipeline(transaction=False) as pipe:
            pipe.zcard(waiting)
            for priority in Priority:
                low, high = priority * PRIORITY_STEP, (priority + 1) * PRIORITY_STEP
                pipe.zrange(waiting, low, f"({high}", byscore=True, offset=0, num=1)
            count, *heads = await pipe.execute()
        total += count
        ages = [accepted_ms(head[0]) for head in heads if head]
        if ages:
            oldest = min(ages) if oldest is None else min(oldest, *ages)
    return total, oldest


async def _workers(
    client: AsyncClient, settings: Settings, now: float
) -> tuple[list[dict[str, Any]], dict[Stage, int]]:
    """Workers as operators see them, and how many requests are claimed at each stage."""
    claimed = dict.fromkeys(Stage, 0)
    workers = []
    described = await client.hgetall(keys.WORKERS)
    for incarnation, beat in await client.zrange(keys.BEATS, 0, -1, withscores=True):
        name = incarnation.decode()
        in_flight = 0
        for claim in await client.hvals(keys.claims(name)):
            lane, _, scores, _ = claim.split(b"|", 3)
            size = scores.count(b",") + 1
            in_flight += size
            claimed[parse_lane(lane.decode()).stage] += size
        silent_s = (now - beat) / 1000
        state = "dead" if beat <= 0 else "live" if silent_s <= 2 * settings.heartbeat_s else "stale"
        document = json.loads(described.get(incarnation, b"{}"))
        workers.append(
            {
                "id": name,
                "stage": document.get("stage"),
                "device": document.get("device"),
                "models": document.get("models", []),
                "in_flight": in_flight,
                "state": state,
                "host": document.get("host"),
                "pid": document.get("pid"),
                "breakers": document.get("breakers", []),
            }
        )
    return workers, claimed
