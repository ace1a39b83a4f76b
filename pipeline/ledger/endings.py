"""Endings: the producers' side hears when requests end."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from redis.exceptions import RedisError

from pipeline.ledger import keys
from pipeline.ledger.connection import AsyncClient

log = structlog.get_logger()


class Endings:
    """Hears which requests end, from the channel on which every settle announces its ends.

    One subscription serves any number of waiters; a waiter costs one entry in a dictionary. An announcement can be
    missed while the connection is down, so ``wait`` also looks for itself once a second.
    """

    LOOK_S = 1.0
    REMEMBER = 50_000

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._waits: dict[bytes, list[_Wait]] = {}
        # Ends heard lately, for those that ended before anybody began to wait. Ordered: the oldest is forgotten first.
        self._heard: dict[bytes, None] = {}
        self._listener: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def start(self) -> None:
        """Begin to listen; ends announced from here on are heard."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="endings")
        try:
            await asyncio.wait_for(self._ready.wait(), 2)
        except TimeoutError:
            return  # waiters look for themselves until the channel is back

    async def stop(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None

    async def wait(self, request_ids: Sequence[bytes], seconds: float) -> None:
        """Wait until all are announced as ended, or ``seconds`` or LOOK_S have passed: then look, and come again."""
        missing = [request_id for request_id in request_ids if request_id not in self._heard]
        if not missing:
            return
        wait = _Wait(asyncio.get_running_loop().create_future(), len(missing))
        for request_id in missing:
            self._waits.setdefault(request_id, []).append(wait)
        try:
            await asyncio.wait_for(wait.done, min(seconds, self.LOOK_S))
        except TimeoutError:
            return
        finally:
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
                async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(keys.ENDED)
                    self._ready.set()
                    async for message in channel.listen():
                        self._announce(message["data"])
            except (RedisError, OSError) as error:
                # The waiters look for themselves meanwhile.
                log.warning("endings_interrupted", error=str(error))
            self._ready.clear()
            await asyncio.sleep(0.5)

    def _announce(self, ids: bytes) -> None:
        for start in range(0, len(ids), 16):
            request_id = ids[start : start + 16]
            self._heard[request_id] = None
            for wait in self._waits.pop(request_id, ()):
                wait.missing -= 1
                if not wait.missing and not wait.done.done():
                    wait.done.set_result(None)
        while len(self._heard) > self.REMEMBER:
            del self._heard[next(iter(self._heard))]


@dataclass(slots=True, eq=False)
class _Wait:
    """One waiter: resolved when none of its requests is missing any more."""

    done: asyncio.Future[None]
    missing: int
