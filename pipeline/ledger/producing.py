"""The producers' side of the ledger: accept requests, read how they stand, and hear when they end."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError

from pipeline.contracts.ids import accepted_ms, random_tails, to_text
from pipeline.contracts.problems import Gone, NotFound, Overloaded, Problem, StoreFull
from pipeline.contracts.stages import Priority, Stage
from pipeline.contracts.status import Status
from pipeline.contracts.work import Carry, Header
from pipeline.ledger import keys
from pipeline.ledger.connection import AsyncClient, store_problems
from pipeline.ledger.records import ACCEPTED, Entry, pack_features, status_of, unpack_attempts, unpack_entry
from pipeline.ledger.releases import ReleaseTable, read_releases
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Submission:
    """One scoring request as a producer means it; its envelope has been checked."""

    model: str
    features: Mapping[str, Any]
    priority: Priority = Priority.NORMAL
    timeout_ms: int = 3_600_000
    allow_degraded: bool = True


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that is in the ledger now, and will end."""

    id: bytes
    header: Header

    def status(self) -> Status:
        """Its status document in this moment: known without reading it back."""
        return status_of(self.id, Entry(ACCEPTED, self.header, Carry(0), None))


class Producing:
    """Accepting and reading, a batch to a round trip."""

    def __init__(self, client: AsyncClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._scripts = Scripts(client)
        self._table: ReleaseTable | None = None

    async def releases(self, *, fresh: bool = False) -> ReleaseTable:
        """The releases as this process knows them; ``accept`` finds out when they are stale."""
        if self._table is None or fresh:
            self._table = await read_releases(self._client)
        return self._table

    async def accept(
        self, submissions: Sequence[Submission], after: Awaitable[object] | None = None
    ) -> list[Accepted | Problem]:
        """Accept up to ``SCRIPT_LIMIT`` requests in one script: for each, its id and what was pinned, or why not.

        Packs them at once and sends them when ``after`` is done. If it raises StoreUnavailable the requests may or may
        not have been accepted.
        """
        table = await self.releases()
        while True:
            answers, accepted = await self._accept(submissions, table, after)
            if accepted:
                return answers
            # The releases changed since we read them: pin what is current now.
            table = await self.releases(fresh=True)

    async def _accept(
        self, submissions: Sequence[Submission], table: ReleaseTable, after: Awaitable[object] | None
    ) -> tuple[list[Accepted | Problem], bool]:
        answers: list[Any] = [None] * len(submissions)
        arguments: list[Any] = [table.epoch, self._settings.max_waiting]
        headers: list[tuple[int, Header]] = []
        for place, (submission, tail) in enumerate(zip(submissions, random_tails(len(submissions)), strict=True)):
            try:
                release = table.resolve(submission.model)
                header = Header(
                    release.name,
                    release.version,
                    bytes.fromhex(release.digest),
                    release.pool,
                    int(submission.priority),
                    submission.timeout_ms,
                    0,
                    submission.allow_degraded,
                )
                blob = pack_features(header, submission.features)
            except Problem as problem:
                answers[place] = problem
                continue
            headers.append((place, header))
            lane = release.ref.lane(Stage.PREPROCESS)
            arguments += tail, lane, header.priority, header.timeout_ms, blob
        if not headers:
            # A model that is unknown may have been released a moment ago.
            return answers, await self._is_current(table)
        if after is not None:
            await after
        with store_problems():
            reply = await self._scripts.accept(args=arguments)
        if reply[0] == b"stale":
            return answers, False
        if reply[0] == b"memory":
            short = StoreFull("the store is short of memory: accepted requests go on, send new ones later")
            for place, _ in headers:
                answers[place] = short
            return answers, True
        if reply[0] == b"full":
            full = Overloaded(f"{reply[1]} requests are unfinished, the limit is {self._settings.max_waiting}")
            for place, _ in headers:
                answers[place] = full
            return answers, True
        for (place, header), request_id in zip(headers, reply[1:], strict=True):
            answers[place] = Accepted(request_id, header)
        return answers, True

    async def _is_current(self, table: ReleaseTable) -> bool:
        with store_problems():
            return (await self._client.get(keys.EPOCH) or b"0") == table.epoch

    async def read(self, request_ids: Sequence[bytes]) -> list[Status | Problem]:
        """The status documents of requests, in order; NotFound or Gone in the place of those without a record."""
        answers: list[Any] = [None] * len(request_ids)
        unfinished: list[tuple[int, str]] = []
        with store_problems():
            blobs = await self._client.mget([keys.record(request_id) for request_id in request_ids])
            for place, (request_id, blob) in enumerate(zip(request_ids, blobs, strict=True)):
                if blob is None:
                    answers[place] = self._absent(request_id)
                    continue
                entry = unpack_entry(blob)
                if entry.ended:
                    answers[place] = status_of(request_id, entry)
                else:
                    unfinished.append((place, keys.waiting(entry.header.ref.lane(Stage.PREPROCESS))))
            for start in range(0, len(unfinished), keys.SCRIPT_LIMIT):
                await self._read_unfinished(request_ids, unfinished[start : start + keys.SCRIPT_LIMIT], answers)
        return answers

    async def _read_unfinished(
        self, request_ids: Sequence[bytes], places: list[tuple[int, str]], answers: list[Any]
    ) -> None:
        # Record, output and waiting entry in one transaction: a state never seems to move backwards.
        ids = [request_ids[place] for place, _ in places]
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.mget([keys.record(request_id) for request_id in ids])
            pipe.mget([keys.output(request_id) for request_id in ids])
            pipe.hmget(keys.ATTEMPTS, ids)
            for (_, lane), request_id in zip(places, ids, strict=True):
                pipe.zscore(lane, request_id)
            records, outputs, attempts, *scores = await pipe.execute()
        for (place, _), request_id, record, output, tried, score in zip(
            places, ids, records, outputs, attempts, scores, strict=True
        ):
            if record is None:
                answers[place] = self._absent(request_id)
                continue
            answers[place] = status_of(
                request_id,
                unpack_entry(record),
                latest=unpack_entry(output) if output else None,
                # A place in the attempts means that it has been claimed before.
                waits_first=score is not None and tried is None,
                attempts=unpack_attempts(tried),
            )

    def _absent(self, request_id: bytes) -> Problem:
        text, age_s = to_text(request_id), time.time() - accepted_ms(request_id) / 1000
        if age_s > self._settings.result_ttl:
            return Gone(f"the result of {text} was kept for {self._settings.result_ttl:g} s after its end")
        return NotFound(f"no request {text}")


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
