"""The load: a producer over HTTP that keeps its own history, whatever happens to its calls."""

import asyncio
import itertools
import random
import secrets
import time
from collections import deque
from heapq import nlargest
from typing import Any, NamedTuple

import aiohttp
import orjson

from chaos.checker import Answer, Poison, Sent
from chaos.targets import now_ms
from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.contracts.ids import from_text
from pipeline.contracts.problems import Problem, StoreUnavailable
from pipeline.contracts.stages import FINAL_STATES
from pipeline.ledger.producers.submissions import idempotency
from pipeline.samples.credit_data import read_applications

CALL_S = 35.0
"""Seconds after which a call is given up."""
LIMIT_S = 2.0
"""Seconds that a call may take beyond what it asks to wait."""
MOST_CALLS = 512
LONGEST = 10
READ_AGAIN = 1000
PART = 512
FAILED = "failed"
"""An answer that is not a problem document: the API itself has failed."""
UNSURE = (StoreUnavailable.slug, FAILED)
REPEATED = 0.1
"""The share of requests that repeat a recent input: they join its flight, or get its result."""
READ_AT_ONCE = 0.2
"""The share of requests that are read while the run goes on."""


class Call(NamedTuple):
    """A call: how long it took beyond what it asked to wait, when it began, what it was, and how it was answered."""

    beyond_s: float
    at_ms: int
    request: str
    answered: str

    def __str__(self) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(self.at_ms / 1000))
        return f"{self.request} at {at} took {self.beyond_s:.2f} s beyond what it asked to wait ({self.answered})"


class Producer:
    """Sends at a rate (Poisson arrivals, open loop), and keeps what became of each request."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self._url = url
        self._rng = rng
        self._rows = [row.features for row in read_applications()]
        self._numbers = itertools.count()
        self._probes = itertools.count()
        self._recent: deque[dict[str, Any]] = deque(maxlen=50)
        self._http: aiohttp.ClientSession | None = None
        self.sent: list[Sent] = []
        self.hung: list[str] = []
        self._under_way = 0
        self.held_back = 0
        """Requests that were due while MOST_CALLS were under way, and were not sent."""
        self.longest: list[Call] = []
        """The calls that took longest, the longest first."""

    async def __aenter__(self) -> "Producer":
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    def _features(self) -> dict[str, Any]:
        """Returns a real application with a price of its own, or sometimes one that was sent recently."""
        if self._recent and self._rng.random() < REPEATED:
            return self._rng.choice(self._recent)
        number = next(self._numbers)
        features = self._rows[number % len(self._rows)] | {"Price": 100 + number / 1000}
        self._recent.append(features)
        return features

    async def saturation(self, seconds: float, parallel: int = 64) -> float:
        """Measures how many requests a second end when ``parallel`` producers each send again after each end."""
        ends_at = time.monotonic() + seconds

        async def one() -> int:
            ended = 0
            while time.monotonic() < ends_at:
                ended += bool((await self._send("credit-default", self._features(), wait=10)).read)
            return ended

        began = time.monotonic()
        ended = await asyncio.gather(*(one() for _ in range(parallel)))
        return sum(ended) / (time.monotonic() - began)

    async def run(self, rate: float, over: asyncio.Event) -> None:
        """Sends until it is ``over``; returns when every answer is known or given up."""
        async with asyncio.TaskGroup() as calls:
            due = time.monotonic()
            while not over.is_set():
                now = time.monotonic()
                if now < due:
                    await asyncio.sleep(due - now)
                    continue
                due += self._rng.expovariate(rate)
                if self._under_way >= MOST_CALLS:
                    self.held_back += 1  # else this process would spend minutes on its own calls after an outage
                    continue
                calls.create_task(self._send_and_read(self._features()))

    async def _send_and_read(self, features: dict[str, Any]) -> None:
        one = await self._send("credit-default", features)
        if one.answer == "accepted" and self._rng.random() < READ_AT_ONCE:
            await self.read(one, 5)

    async def poison(self, do: Poison, *, model: str = "chaos-probe", seconds: float = 0.0) -> Sent:
        """Sends a request that kills or hangs its process whenever it runs, or that its model fails on."""
        return await self._send(model, self._for_probe(do) | {"seconds": seconds}, poison=do)

    async def sound(self, model: str, *, degrades: bool = True, wait: float = 0) -> Sent:
        """Sends a request that a model that fails on demand does not fail on."""
        return await self._send(model, self._for_probe("ok"), degrades=degrades, wait=wait)

    def _for_probe(self, do: str) -> dict[str, Any]:
        return {"x": (next(self._probes) % 6000) / 1000 - 3, "do": do}

    async def probe(self) -> Sent:
        """Sends one more request, to see how it is answered now."""
        return await self._send("credit-default", self._features())

    async def _send(
        self,
        model: str,
        features: dict[str, Any],
        *,
        wait: float = 0,
        poison: Poison = "",
        degrades: bool = True,
    ) -> Sent:
        key = secrets.token_hex(8)
        held = idempotency("", key, model, features, "normal", 3600.0)[:16]
        one = Sent(held, model, orjson.dumps(features), poison=poison, degrades=degrades)
        self.sent.append(one)
        path = f"/v1/scores?wait={wait:g}" if wait else "/v1/scores"
        body = {"model": model, "features": features, "allow_degraded": degrades}
        try:
            status, document = await self._call("POST", path, wait, json=body, headers={"Idempotency-Key": key})
        except aiohttp.ClientConnectorError:
            one.answer = "refused"  # nothing listened
            return one
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return one  # unknown: it may have arrived
        slug = "" if status in (200, 202) else _slug(document)
        one.answer = answer_of(slug)
        if one.answer == "accepted":
            one.request_id = document["request_id"]
            if document["state"] in FINAL_STATES:
                one.read.append(_text(document))
        else:
            one.last_state = slug
        return one

    async def read(self, one: Sent, wait: float) -> None:
        """Reads a request over HTTP; a call without an answer changes nothing."""
        try:
            status, document = await self._call("GET", f"/v1/scores/{one.request_id}?wait={wait:g}", wait)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return
        if status == 200 and document["state"] in FINAL_STATES:
            one.read.append(_text(document))
        else:
            one.last_state = document["state"] if status == 200 else _slug(document)

    async def settle(self, client: AsyncScoringClient, seconds: float) -> None:
        """Reads every accepted request until it has ended, for up to ``seconds``, and some over HTTP once more."""
        until = time.monotonic() + seconds
        waiting = [one for one in self.sent if one.answer == "accepted"]
        while waiting:
            left = []
            for place in range(0, len(waiting), PART):
                left += await self._read_part(client, waiting[place : place + PART])
            waiting = left
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.2)
        ended = [one for one in self.sent if one.read]
        for one in self._rng.sample(ended, min(READ_AGAIN, len(ended))):
            await self.read(one, 0)

    @staticmethod
    async def _read_part(client: AsyncScoringClient, part: list[Sent]) -> list[Sent]:
        """Returns those that have not ended."""
        left = []
        for one, status in zip(part, await client.get_many([one.request_id or "" for one in part]), strict=True):
            if isinstance(status, Problem):
                one.last_state = status.slug
            elif status["state"] in FINAL_STATES:
                one.read.append(_text(dict(status)))
                continue
            else:
                one.last_state = status["state"]
                left.append(one)
        return left

    async def _call(self, method: str, path: str, wait: float, **options: Any) -> tuple[int, dict[str, Any]]:
        assert self._http is not None
        began, began_ms = time.monotonic(), now_ms()
        answered = "no answer"
        self._under_way += 1
        try:
            timeout = aiohttp.ClientTimeout(CALL_S)
            async with self._http.request(method, self._url + path, timeout=timeout, **options) as answer:
                answered = str(answer.status)
                return answer.status, orjson.loads(await answer.read())
        finally:
            self._under_way -= 1
            call = Call(time.monotonic() - began - wait, round(began_ms), f"{method} {path}", answered)
            self.longest = nlargest(LONGEST, [*self.longest, call])
            if call.beyond_s > LIMIT_S:
                self.hung.append(str(call))


def request_id_of(one: Sent) -> bytes | None:
    """Returns its id as the ledger has it."""
    return from_text(one.request_id) if one.request_id else None


def answer_of(slug: str) -> Answer:
    """Returns what a submit came to. ``slug``: its problem's, '' without one.

    A problem says that nothing was accepted, except for those in ``UNSURE``.
    """
    if slug in ("", *UNSURE):
        return "unknown" if slug else "accepted"
    return "refused"


def _slug(document: dict[str, Any]) -> str:
    return str(document.get("type", FAILED)).rsplit(":", 1)[-1]


def _text(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
