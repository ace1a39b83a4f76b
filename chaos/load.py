"""The load: a producer over HTTP that keeps its own history, whatever happens to its calls."""

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp

from chaos.checker import Sent
from pipeline.contracts.stages import ENDS
from pipeline.credit_data import read_applications
from pipeline.ledger.parcels import idempotency

CALL_S = 35.0
"""How long a call may take: what it asks to wait, and 5 s."""


class Producer:
    """Sends at a rate (Poisson arrivals, open loop), and keeps what became of each request."""

    def __init__(self, url: str, rate: float, rng: random.Random) -> None:
        self._url = url
        self._rate = rate
        self._rng = rng
        self._rows = [row.features for row in read_applications()]
        self._numbers = itertools.count()
        self.sent: list[Sent] = []
        self.longest_call_s = 0.0
        """The longest any call took beyond what it asked to wait."""

    def requests(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Real applications, each with a price of its own."""
        for number in self._numbers:
            yield "credit-default", self._rows[number % len(self._rows)] | {"Price": 100 + number / 1000}

    async def run(self, seconds: float, poison: asyncio.Queue[Mapping[str, Any]]) -> None:
        """Send for ``seconds``, and what comes by ``poison``; return when every answer is known or given up."""
        requests = self.requests()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as calls:
            ends_at = time.monotonic() + seconds
            due = time.monotonic()
            while (now := time.monotonic()) < ends_at:
                while not poison.empty():
                    calls.create_task(self._send(http, "chaos-probe", poison.get_nowait(), poison=True))
                if now < due:
                    await asyncio.sleep(due - now)
                    continue
                due += self._rng.expovariate(self._rate)
                calls.create_task(self._send(http, *next(requests)))

    async def _send(
        self, http: aiohttp.ClientSession, model: str, features: Mapping[str, Any], *, poison: bool = False
    ) -> None:
        key = secrets.token_hex(8)
        body = {"model": model, "features": features}
        one = Sent(idempotency("", key, model, features, "normal", 3600.0)[:16], model, features, poison=poison)
        self.sent.append(one)
        try:
            status, document = await self._call(http, "POST", "/v1/scores", json=body, headers={"Idempotency-Key": key})
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return  # unknown: it may have arrived
        one.answer = "accepted" if status in (200, 202) else "refused"
        if one.answer == "accepted":
            one.request_id = document["request_id"]
            if document["state"] in ENDS:
                one.read.append(document)

    async def settle(self, seconds: float, parallel: int = 64) -> None:
        """Read every accepted request until it has ended, for up to ``seconds`` in all."""
        until = time.monotonic() + seconds
        waiting = iter([one for one in self.sent if one.answer == "accepted"])

        async def reader(http: aiohttp.ClientSession) -> None:
            for one in waiting:
                while True:
                    left = until - time.monotonic()
                    try:
                        await self._read(http, one, max(0.0, min(20.0, left)))
                    except (aiohttp.ClientError, TimeoutError, ValueError):
                        await asyncio.sleep(0.1)
                    if one.read or one.standing in ("not-found", "gone") or left <= 0:
                        break

        async with aiohttp.ClientSession() as http:
            await asyncio.gather(*(reader(http) for _ in range(parallel)))
            for one in self.sent:  # once more: an end that was read never changes
                if one.read:
                    await self._read(http, one, 0)

    async def _read(self, http: aiohttp.ClientSession, one: Sent, wait: float) -> None:
        status, document = await self._call(http, "GET", f"/v1/scores/{one.request_id}?wait={wait:.3f}", wait=wait)
        if status == 200 and document["state"] in ENDS:
            one.read.append(document)
        else:
            one.standing = document["state"] if status == 200 else document["type"].rsplit(":", 1)[1]

    async def _call(
        self, http: aiohttp.ClientSession, method: str, path: str, *, wait: float = 0.0, **options: Any
    ) -> tuple[int, dict[str, Any]]:
        began = time.monotonic()
        timeout = aiohttp.ClientTimeout(CALL_S)
        try:
            async with http.request(method, self._url + path, timeout=timeout, **options) as answer:
                return answer.status, await answer.json(content_type=None)
        finally:
            self.longest_call_s = max(self.longest_call_s, time.monotonic() - began - wait)
