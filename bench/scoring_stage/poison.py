"""What one row that makes the model raise costs the other rows of its batch."""

import asyncio
import itertools
import statistics
import time
from typing import Any

from bench.scoring_stage.figures import figure
from pipeline.client import AsyncScoringClient
from pipeline.contracts.problems import Problem
from pipeline.settings import Settings, read_settings
from pipeline.stack.local import LocalStack

POISON_GOAL = 2.0
BURST, BURSTS, BURST_EVERY_S = 64, 40, 0.25


def measure_poison(rounds: int, seconds: float) -> dict[str, Any]:
    """Measures how long the other 63 of a burst take, with a row that makes the model raise and without."""
    plain, poisoned, failed = [], [], 0
    bursts = max(1, min(BURSTS, round(seconds / BURST_EVERY_S)))
    # One attempt: what comes of later ones is no longer the burst's.
    with LocalStack(read_settings({}), chaos_model=True, environment={"SCORELINE_MAX_ATTEMPTS": "1"}) as stack:
        for _ in range(rounds):
            took, bad = asyncio.run(_bursts(stack.settings, bursts, poison=False))
            plain += took
            failed += bad
            took, bad = asyncio.run(_bursts(stack.settings, bursts, poison=True))
            poisoned += took
            failed += bad
    p99 = [statistics.quantiles(took, n=100)[98] for took in (plain, poisoned)]
    return {
        "p99_ms": {"63 alone": round(p99[0], 1), "with one poison row": round(p99[1], 1)},
        "others_that_did_not_succeed": failed,
        "p99 of the others, with poison / without": figure(p99[1] / p99[0], POISON_GOAL, at_least=False),
    }


async def _bursts(settings: Settings, bursts: int, *, poison: bool) -> tuple[list[float], int]:
    numbers = itertools.count()

    def row(do: str) -> dict[str, Any]:
        features = {"x": float(next(numbers)), "do": do}
        return {"model": "chaos-probe", "features": features, "no_cache": True}

    took: list[float] = []
    failed = 0
    async with AsyncScoringClient(settings=settings) as client:
        for _ in range(bursts):
            began = time.monotonic()
            rows = [row("ok") for _ in range(BURST - 1)] + [row("raise" if poison else "ok")]
            ends = [status async for status in client.submit_many(rows)]
            for number, status in enumerate(ends[:-1]):
                assert not isinstance(status, Problem), status
                end = await client.wait(status["request_id"])
                failed += end["state"] != "succeeded"
                took.append(1000 * (time.monotonic() - began)) if number in (0, BURST - 2) else None
            await asyncio.sleep(max(0.0, BURST_EVERY_S - (time.monotonic() - began)))
    return took, failed
