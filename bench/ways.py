"""Ways of sending: what each row does. Inputs never repeat, except where cached answers are measured."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from bench.floor import Floor
from bench.http_load import load
from bench.processes import Chain, Cpu
from bench.rows import Row
from pipeline.client import AsyncScoringClient
from pipeline.contracts.stages import Stage
from pipeline.ledger.operators.stats import read_overview
from pipeline.samples.credit_data import read_applications
from pipeline.stack.local import LocalStack

MODEL = "credit-default"
LIGHT_RATE = 20
HALF = 0.5
CACHED_INPUTS = 200


class Ways:
    """One method for each row: it sends so many requests, reads every end, and adds a round to the row."""

    def __init__(self, stack: LocalStack, chain: Chain, floor: Floor) -> None:
        self._stack = stack
        self._pids = stack.root_pids()
        self._port = int(stack.api_url.rsplit(":", 1)[1])
        self._chain = chain
        self._floor = floor
        self._rows = [row.features for row in read_applications()]
        self._numbers = itertools.count()
        self._rng = random.Random(1)
        self._saturation = 0.0

    def _features(self, count: int) -> Iterator[dict[str, Any]]:
        """Real applications, each with a price of its own."""
        for number in itertools.islice(self._numbers, count):
            yield self._rows[number % len(self._rows)] | {"Price": 100 + number / 1000}

    def _requests(self, count: int) -> Iterator[dict[str, Any]]:
        for features in self._features(count):
            yield {"model": MODEL, "features": features}

    async def chain(self, row: Row, count: int) -> None:
        """The baseline."""
        from bench.chain_app import postprocess, preprocess, scoring  # its broker's URL is known only now

        cpu = Cpu(self._chain.pids)
        began = time.perf_counter()
        results = [
            (preprocess.s(features) | scoring.s() | postprocess.s()).apply_async() for features in self._features(count)
        ]
        for result in results:
            assert result.get(timeout=120)["decision"]
            result.forget()
        row.add(count, time.perf_counter() - began, cpu.seconds(), [])

    async def floor(self, row: Row, count: int) -> None:
        """Bare lists."""
        cpu = Cpu(self._floor.pids)
        began = time.perf_counter()
        decided = sum(bool(result["decision"]) for result in self._floor.score(self._features(count)))
        assert decided == count, f"{decided} of {count} came back"
        row.add(count, time.perf_counter() - began, cpu.seconds(), [])

    @asynccontextmanager
    async def _round(self, row: Row, count: int, *, computed: bool = True) -> AsyncIterator["_Round"]:
        """What is counted of one round. ``computed``: every request must have passed all three stages."""
        async with AsyncScoringClient(settings=self._stack.settings) as client:
            await client.releases()
            before = await self._counts(client)
            cpu = Cpu(self._pids)
            measured = _Round(client)
            began = time.perf_counter()
            yield measured
            seconds = time.perf_counter() - began
            used = cpu.seconds()
            await self._prove(client, before, count if computed else 0)
            row.add(count, seconds, used, measured.latencies_ms)

    async def submit_many(self, row: Row, count: int) -> None:
        """One stream through the client."""
        async with self._round(row, count) as measured:
            async for status in measured.client.score_many(self._requests(count)):
                assert isinstance(status, dict), status
                assert status["state"] == "succeeded", status

    async def coroutines(self, row: Row, count: int, parallel: int) -> None:
        """So many coroutines that share a client; each scores one request after the other."""
        features = self._features(count)
        async with self._round(row, count) as measured, asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(measured.score_all(features))
        self._saturation = max(self._saturation, row.rates[-1])

    async def http(self, row: Row, count: int, connections: int = 64) -> None:
        """So many connections, one request each, waited for."""
        async with self._round(row, count) as measured:
            requests = self._requests(count)
            measured.latencies_ms, _ = await load(self._port, "/v1/scores?wait=30", requests, connections)

    async def http_batch(self, row: Row, count: int) -> None:
        """Batches of 64 over four connections, waited for."""
        batches = -(-count // 64)
        async with self._round(row, 64 * batches) as measured:
            bodies = ({"requests": list(self._requests(64))} for _ in range(batches))
            measured.latencies_ms, _ = await load(self._port, "/v1/scores/batch?wait=30", bodies, 4)

    async def http_cached(self, row: Row, count: int) -> None:
        """64 connections, and inputs whose answers are cached."""
        known = list(self._requests(CACHED_INPUTS))
        async with AsyncScoringClient(settings=self._stack.settings) as client:
            async for status in client.score_many(known):
                assert isinstance(status, dict), status
        async with self._round(row, count, computed=False) as measured:
            requests = itertools.islice(itertools.cycle(known), count)
            measured.latencies_ms, _ = await load(self._port, "/v1/scores?wait=30", requests, 64)

    async def light(self, row: Row, count: int) -> None:
        """Twenty requests a second, each submitted alone and waited for."""
        async with self._round(row, count) as measured:
            await measured.arrive(self._features(count), (place / LIGHT_RATE for place in range(count)))

    async def half_load(self, row: Row, count: int) -> None:
        """Poisson arrivals at half of what coroutines have reached."""
        rate = HALF * self._saturation
        due = itertools.accumulate(self._rng.expovariate(rate) for _ in range(count))
        async with self._round(row, count) as measured:
            await measured.arrive(self._features(count), due)

    async def _counts(self, client: AsyncScoringClient) -> dict[str, int]:
        return (await read_overview(client.store, self._stack.settings))["counts"]

    async def _prove(self, client: AsyncScoringClient, before: dict[str, int], count: int) -> None:
        after = await self._counts(client)
        for name in (f"{stage}:{move}" for stage in Stage for move in ("claimed", "settled")):
            done = after.get(name, 0) - before.get(name, 0)
            if done != count:
                raise RuntimeError(f"{name} rose by {done} for {count} requests: the row is void")


class _Round:
    """A round under way."""

    def __init__(self, client: AsyncScoringClient) -> None:
        self.client = client
        self.latencies_ms: list[float] = []

    async def score(self, features: dict[str, Any]) -> None:
        """One request, from submit to end."""
        began = time.perf_counter()
        status = await self.client.score(MODEL, features)
        assert status["state"] == "succeeded", status
        self.latencies_ms.append((time.perf_counter() - began) * 1000)

    async def score_all(self, features: Iterator[dict[str, Any]]) -> None:
        """One after the other."""
        for each in features:
            await self.score(each)

    async def arrive(self, features: Iterator[dict[str, Any]], due: Iterator[float]) -> None:
        """Each when it is due (seconds from now), whatever became of the ones before."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for each, at in zip(features, due, strict=True):
                await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
                group.create_task(self.score(each))
