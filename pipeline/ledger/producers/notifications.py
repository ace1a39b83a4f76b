"""Notifications: the producers' side hears when requests end."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from pipeline.ledger import keys
from pipeline.service.cancellation import abandon
from pipeline.store.connection import AsyncClient
from pipeline.telemetry.events.services import NotificationsInterrupted

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


class Notifications:
    """Hears which requests end, from the channel on which every settle announces its ends.

    One subscription serves any number of waiters; a waiter costs one entry in a dictionary. An announcement is missed
    while the channel is down: then all who wait are woken, to look for themselves, and once more when it is back.
    Small ones carry the ended records, too, which saves who waits the look.
    """

    REMEMBER = 50_000
    """So many ends that nobody waited for are remembered at least, and twice as many at most."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._waits: dict[bytes, list[_Wait]] = {}
        # Ends that nobody waited for, heard lately, and before: who begins to wait may be a moment late.
        self._heard: set[bytes] = set()
        self._heard_before: set[bytes] = set()
        self._listener: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    def start(self) -> None:
        """Begin to listen, if nobody does. Nobody need wait for the channel: who waits for an end is woken by it."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="endings")

    async def stop(self) -> None:
        """Stop listening: waiting calls are told nothing any more, so all are woken."""
        await abandon(self._listener)
        self._listener = None
        self._wake_all()

    async def wait(self, request_ids: Sequence[bytes], seconds: float) -> dict[bytes, bytes]:
        """Wait until all are announced as ended, or ``seconds`` have passed, or less: then look, and come again.

        Returns the records of those whose end was announced with it: they need no look.
        """
        missing = [each for each in request_ids if each not in self._heard and each not in self._heard_before]
        if not missing:
            return {}
        loop = asyncio.get_running_loop()
        wait = _Wait(loop.create_future(), len(missing), {})
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
        return wait.records

    def forget(self, request_ids: Sequence[bytes]) -> None:
        """Forget having heard of these. Call it before reading them: what ends after the read is heard anew."""
        self._heard.difference_update(request_ids)
        self._heard_before.difference_update(request_ids)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._client.pubsub() as channel:
                    await channel.subscribe(keys.ended_channel(self._client))
                    await self._follow(channel)
            except (RedisError, OSError) as error:
                NotificationsInterrupted(error=str(error)).emit()
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

    def _announce(self, message: bytes) -> None:
        ids, records = unpack_announcement(message)
        awaited = self._waits.keys() & ids
        for request_id in awaited:
            for wait in self._waits.pop(request_id):
                if request_id in records:
                    wait.records[request_id] = records[request_id]
                wait.missing -= 1
                if not wait.missing:
                    _wake(wait)
        self._heard |= ids - awaited
        if len(self._heard) > self.REMEMBER:
            self._heard, self._heard_before = set(), self._heard


def unpack_announcement(message: bytes) -> tuple[set[bytes], dict[bytes, bytes]]:
    """Which requests have ended, and the records that came along (see announce in lua/prelude/ends.lua)."""
    count = message[0]
    if not count:
        return {message[at : at + 16] for at in range(1, len(message), 16)}, {}
    records, at, record_at = {}, 1, 1 + 18 * count
    for _ in range(count):
        size = message[at + 16] << 8 | message[at + 17]
        records[message[at : at + 16]] = message[record_at : record_at + size]
        at, record_at = at + 18, record_at + size
    return set(records), records


@dataclass(slots=True, eq=False)
class _Wait:
    """One waiter: resolved when none of its requests is missing any more. ``records``: of those announced with it."""

    done: asyncio.Future[None]
    missing: int
    records: dict[bytes, bytes]


def _wake(wait: _Wait) -> None:
    if not wait.done.done():
        wait.done.set_result(None)
