"""Counts for operators: what waits, what is claimed, who works. Two round trips, never on the hot path."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.contracts.ids import accepted_ms
from pipeline.contracts.lanes import parse_lane
from pipeline.contracts.stages import PRIORITY_STEP, Priority, Stage
from pipeline.ledger import keys
from pipeline.ledger.clock import ledger_ms
from pipeline.settings import Settings
from pipeline.store.connection import AsyncClient
from pipeline.store.errors import store_problems

HEADS = 1 + len(Priority)
"""Answers for each lane: how many wait, and the first of each priority."""


async def read_overview(client: AsyncClient, settings: Settings) -> dict[str, Any]:
    """The document of ``GET /v1/stats``."""
    with store_problems():
        async with client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.get(keys.OFFSET)
            pipe.zrange(keys.LANES, 0, -1)
            pipe.zrange(keys.BEATS, 0, -1, withscores=True)
            for table in (keys.WORKERS, keys.COUNTS, keys.SETTLED, keys.RATES):
                pipe.hgetall(table)
            for waiting in (keys.OPEN, keys.LATER, keys.DEAD):
                pipe.zcard(waiting)
            pipe.exists(keys.DEGRADED)
            clock, offset, lanes, beats, described, counts, settled, rates, *totals, degraded = await pipe.execute()
        lanes = [lane.decode() for lane in lanes]
        async with client.pipeline(transaction=False) as pipe:
            for lane in lanes:
                waiting = keys.waiting(lane)
                pipe.zcard(waiting)
                for priority in Priority:
                    low, high = priority * PRIORITY_STEP, (priority + 1) * PRIORITY_STEP
                    pipe.zrange(waiting, low, f"({high}", byscore=True, offset=0, num=1)
            for incarnation, _ in beats:
                pipe.hvals(keys.claims(incarnation.decode()))
            answers = await pipe.execute()
    now = ledger_ms(clock, offset)
    heads, claims = answers[: HEADS * len(lanes)], answers[HEADS * len(lanes) :]
    workers = [
        _worker(incarnation.decode(), beat, json.loads(described.get(incarnation, b"{}")), held, now, settings)
        for (incarnation, beat), held in zip(beats, claims, strict=True)
    ]
    numbers = _counts(counts, settled)
    return {
        "stages": _stages(lanes, heads, claims, rates, now),
        "workers": workers,
        "breakers": [
            {**breaker, "worker": worker["id"], "stage": worker["stage"]}
            for worker in workers
            for breaker in worker.pop("breakers")
            if worker["state"] != "dead"
        ],
        "degraded": bool(degraded),
        "durability": settings.durability,
        "model_runs": {name[5:]: total for name, total in numbers.items() if name.startswith("runs:")},
        **dict(zip(("unfinished", "retries_waiting", "dead_letters"), totals, strict=True)),
        "counts": {name: total for name, total in sorted(numbers.items()) if not name.startswith("runs:")},
    }


def _counts(counts: Mapping[bytes, bytes], settled: Mapping[bytes, bytes]) -> dict[str, int]:
    numbers = {name.decode(): int(value) for name, value in counts.items()}
    for lane, total in settled.items():
        name = f"{parse_lane(lane.decode()).stage}:settled"
        numbers[name] = numbers.get(name, 0) + int(total)
    return numbers


def _stages(
    lanes: Sequence[str],
    heads: Sequence[Any],
    claims: Sequence[Sequence[bytes]],
    rates: Mapping[bytes, bytes],
    now: float,
) -> dict[str, dict[str, Any]]:
    """For each stage how many wait and are claimed, and how old the oldest of the most urgent of each priority is."""
    waiting, claimed = dict.fromkeys(Stage, 0), dict.fromkeys(Stage, 0)
    oldest: dict[Stage, list[int]] = {stage: [] for stage in Stage}
    for place, lane in enumerate(lanes):
        stage = parse_lane(lane).stage
        count, *first = heads[HEADS * place : HEADS * (place + 1)]
        waiting[stage] += count
        oldest[stage] += [accepted_ms(head[0]) for head in first if head]
    for held in claims:
        for claim in held:
            claimed[_lane_of(claim)] += _size(claim)
    return {
        str(stage): {
            "waiting": waiting[stage],
            "claimed": claimed[stage],
            "oldest_age_s": round(max(0.0, (now - min(oldest[stage])) / 1000), 3) if oldest[stage] else None,
            "rate": float(rates.get(str(stage).encode(), 0)),
        }
        for stage in Stage
    }


def _worker(
    name: str, beat: float, described: Mapping[str, Any], held: Sequence[bytes], now: float, settings: Settings
) -> dict[str, Any]:
    silent_s = (now - beat) / 1000
    return {
        "id": name,
        "stage": described.get("stage"),
        "device": described.get("device"),
        "models": described.get("models", []),
        "in_flight": sum(map(_size, held)),
        "state": "dead" if beat <= 0 else "live" if silent_s <= 2 * settings.heartbeat_s else "stale",
        "host": described.get("host"),
        "pid": described.get("pid"),
        "queue": described.get("queue"),
        "silent_s": round(max(0.0, (now - abs(beat)) / 1000), 1),
        "breakers": described.get("breakers", []),
        "health": described.get("health"),
        "standby": described.get("standby", False),
        "claims": described.get("claims", True),
    }


def _lane_of(claim: bytes) -> Stage:
    return parse_lane(claim.split(b"|", 1)[0].decode()).stage


def _size(claim: bytes) -> int:
    return claim.split(b"|", 3)[2].count(b",") + 1
