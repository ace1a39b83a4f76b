"""``python -m bench.eta``: how good is ``eta_s`` while a steady 10,000 requests wait.

A stack of its own is kept at that backlog: what ends is replaced. Requests are picked at random while they wait, and
what their documents say is compared with what happened: the error is a share of the time that they really had left.
The model takes ``--batch-s`` for a batch of at most 64, so that this program is not what the three stages wait for.
Steady means for the three stages, too: the first seconds, in which the backlog spreads over them, are not counted.
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.client import AsyncScoringClient
from pipeline.client.core import has_ended
from pipeline.contracts.problems import Problem
from pipeline.samples.credit_data import read_applications
from pipeline.settings import read_settings
from pipeline.stack.local import LocalStack

GOAL = 0.2
WARM_UP_S = 10.0
LEAST_S = 0.2
"""Guesses are not counted for requests that end sooner than this."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What a document said: at ``at`` (Unix seconds), ``eta_s`` more to go."""

    at: float
    eta_s: float


class Backlog:
    """A number of unfinished requests, kept steady."""

    def __init__(self, client: AsyncScoringClient, size: int, batch_s: float, rng: random.Random) -> None:
        self._client = client
        self._batch_s = batch_s
        self._size = size
        self._rng = rng
        self._rows = [row.features for row in read_applications()]
        self._numbers = itertools.count()
        self._waiting: dict[str, list[Guess]] = {}
        self.errors: list[float] = []
        self.ended = 0

    def _requests(self, count: int) -> Iterator[dict[str, Any]]:
        for number in itertools.islice(self._numbers, count):
            if self._batch_s:
                slow = {"x": number / 1e6, "do": "slow", "seconds": self._batch_s}
                yield {"model": "chaos-probe", "features": slow}
                continue
            features = self._rows[number % len(self._rows)] | {"Price": 100 + number / 1000}
            yield {"model": "credit-default", "features": features}

    async def keep(self, seconds: float) -> None:
        """Keeps the backlog for some seconds; records guesses, and compares them with the ends."""
        until = time.monotonic() + seconds
        count_from = time.monotonic() + WARM_UP_S
        while time.monotonic() < until:
            async for answer in self._client.submit_many(self._requests(self._size - len(self._waiting))):
                if isinstance(answer, Problem):
                    raise answer
                self._waiting[answer["request_id"]] = []
            await self._look(list(itertools.islice(self._waiting, 1024)), guess=False)
            if time.monotonic() > count_from:
                await self._look(self._rng.sample(list(self._waiting), 20), guess=True)

    async def _look(self, ids: list[str], *, guess: bool) -> None:
        for request_id, status in zip(ids, await self._client.get_many(ids), strict=True):
            if isinstance(status, Problem):
                raise status
            if not has_ended(status):
                if guess and status["eta_s"] is not None:
                    self._waiting[request_id].append(Guess(time.time(), status["eta_s"]))
                continue
            self.ended += 1
            for one in self._waiting.pop(request_id):
                left_s = datetime.fromisoformat(status["finished_at"] or "").timestamp() - one.at
                if left_s > LEAST_S:
                    self.errors.append(abs(one.eta_s - left_s) / left_s)


async def _measure(stack: LocalStack, size: int, batch_s: float, seconds: float, seed: int) -> dict[str, Any]:
    async with AsyncScoringClient(settings=stack.settings) as client:
        backlog = Backlog(client, size, batch_s, random.Random(seed))
        began = time.monotonic()
        await backlog.keep(seconds)
        rate = backlog.ended / (time.monotonic() - began)
    cuts = statistics.quantiles(backlog.errors, n=10)
    return {
        "backlog": size,
        "requests_per_s": round(rate),
        "guesses": len(backlog.errors),
        "error": {"p50": round(cuts[4], 3), "p90": round(cuts[8], 3)},
        "goal": GOAL,
        "met": cuts[4] <= GOAL,
    }


def main() -> None:
    """Measures and reports; exits 1 unless the goal is met."""
    parser = argparse.ArgumentParser(prog="python -m bench.eta", description=__doc__)
    parser.add_argument("--backlog", type=int, default=10_000)
    parser.add_argument("--batch-s", type=float, default=0.1, help="0: credit-default, as fast as it goes")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with LocalStack(read_settings(), chaos_model=True) as stack:
        document = asyncio.run(_measure(stack, arguments.backlog, arguments.batch_s, arguments.seconds, arguments.seed))
    print(json.dumps(document, indent=1))
    sys.exit(not document["met"])


if __name__ == "__main__":
    main()
