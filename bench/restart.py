"""``python -m bench.restart``: with one worker a stage, how long after its death the stage's work goes on.

``kill -9`` of the worker with its child, again and again, with a request waiting for its stage; from the kill to the
end of that request. That is the supervisor's restart, the imports (torch at scoring), warming the model,
and the first batch. With two workers a stage nobody has to wait for that: see ``scoreline chaos``.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from typing import Any

import psutil

from pipeline.client import AsyncScoringClient
from pipeline.contracts.stages import Stage
from pipeline.samples.credit_data import read_applications
from pipeline.settings import read_settings
from pipeline.stack.local import LocalStack
from pipeline.stack.supervision import START_S

RESTED_S = START_S + 2
"""Killed sooner, a process counts as one that cannot start, and its supervisor waits longer each time."""


async def _once(stack: LocalStack, client: AsyncScoringClient, stage: Stage, price: float) -> float:
    await asyncio.sleep(RESTED_S)
    (pid,) = stack.ready_document()["pids"][stage]
    features = read_applications()[0].features | {"Price": price}
    began = time.monotonic()
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        process.kill()
    ended = await client.score("credit-default", features, timeout_s=120)
    assert ended["state"] == "succeeded", ended
    return time.monotonic() - began


async def _measure(stack: LocalStack, kills: int) -> dict[str, Any]:
    prices = itertools.count(100)
    found = {}
    async with AsyncScoringClient(settings=stack.settings) as client:
        for stage in Stage:
            seconds = [await _once(stack, client, stage, float(next(prices))) for _ in range(kills)]
            found[str(stage)] = {"p50": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)}
    return {"kills": kills, "restart_to_first_score_s": found}


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(prog="python -m bench.restart", description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="of each stage's worker")
    arguments = parser.parse_args()
    with LocalStack(read_settings()) as stack:
        print(json.dumps(asyncio.run(_measure(stack, arguments.kills)), indent=1))


if __name__ == "__main__":
    main()
