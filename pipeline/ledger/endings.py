"""Endings: the producers' side hears when requests end."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError

from pipeline.abandoning import abandon
from pipeline.ledger import keys
from pipeline.ledger.connection import AsyncClient

log = structlog.get_logger()
SIGN_S = 1.0
"""A channel that gives no sign for so long is asked for one, and taken for dead if it gives none for as long again."""
FIRST_LOOK_S, RARE_LOOK_S = 1.0, 10.0


def looks() -> Iterator[float]:
    """For how long to rely on announcements, in seconds, before looking oneself: time after time, ever longer.

    Who begins to wait may have missed one, and thousands who looked each second would be the store's main work.
    """
    seconds = FIRST_LOOK_S
    while True:
        yield seconds
        seconds = min(2 * seconds, RARE_LOOK_S)


class Endings:
    """Hears which requests end, from the channel on which every settle announces its ends.

    One subscription serves any number of waiters; a waiter costs one entry in a dictionary. An announcement is missed
    while the channel is down: then all who wait are woken, to look for themselves, and once more when it is back.
    """

    REMEMBER = 50_000

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._waits: dict[bytes, list[_Wait]] = {}
        # Ends heard lately, for those that ended before anybody began to wait. Ordered: the oldest is forgotten first.
        self._heard: dict[bytes, None] = {}
        self._listener: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    def start(self) -> None:
        """Begin to listen, if nobody does. Nobody need wait for the channel: who waits for an end is woken by it."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="endings")

    async def stop(self) -> None:
        """Stop listening."""
        await abandon(self._listener)
        self._listener = None

    async def wait(self, request_ids: Sequence[bytes], seconds: float) -> None:
        """Wait until all are announced as ended, or ``seconds`` have passed, or less: then look, and come again."""
        missing = [request_id for request_id in request_ids if request_id not in self._heard]
        if not missing:
            return
        loop = asyncio.get_running_loop()
        wait = _Wait(loop.create_future(), len(missing))
        for request_id in missing:
            self._waits.setdefault(request_id, []).append(wait)
        # Not wait_for: it costs three times as much, and every waiter of an API pays for it.
        rely_s = seconds if self._ready.is_set() else min(seconds, FIRST_LOOK_S)
        give_up = loop.call_later(rely_s, _wake, wait)
        try:
            await wait.done
        finally:
            give_up.cancel()
            if wait.missing:
                for request_id in missing:
                    waits = self._waits.get(request_id)
                    if waits and wait in waits:
                        waits.remove(wait)
                        if not waits:
                            del self._waits[request_id]

    def forget(self, request_ids: Sequence[bytes]) -> None:
        """Forget having heard of these. Call it before reading them: what ends after the read is heard anew."""
        for request_id in request_ids:
            self._heard.pop(request_id, None)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._client.pubsub() as channel:
                    await channel.subscribe(keys.ENDED)
                    await self._follow(channel)
            except (RedisError, OSError) as error:
                log.warning("endings_interrupted", error=str(error))
            self._ready.clear()
            self._wake_all()
            await asyncio.sleep(0.5)

    async def _follow(self, channel: Any) -> None:
        asked = False
        while True:
            message = await channel.get_message(timeout=SIGN_S)
            if message is None:
                if asked:
                    raise TimeoutError(f"the channel of ends gives no sign for {2 * SIGN_S:g} s")
                await channel.ping()
            elif message["type"] == "subscribe":
                self._ready.set()
                self._wake_all()
            elif message["type"] == "message":
                self._announce(message["data"])
            asked = message is None

    def _wake_all(self) -> None:
        for wait in {wait for waits in self._waits.values() for wait in waits}:
            _wake(wait)

    def _announce(self, ids: bytes) -> None:
        for start in range(0, len(ids), 16):
            request_id = ids[start : start + 16]
            self._heard[request_id] = None
            for wait in self._waits.pop(request_id, ()):
                wait.missing -= 1
                if not wait.missing:
                    _wake(wait)
        while len(self._heard) > self.REMEMBER:
            del self._heard[next(iter(self._heard))]


@dataclass(slots=True, eq=False)
class _Wait:
    """One waiter: resolved when none of its requests is missing any more."""

    done: asyncio.Future[None]
    missing: int


def _wake(wait: _Wait) -> None:
    if not wait.done.done():
        wait.done.set_result(None)
