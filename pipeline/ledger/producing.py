"""The producers' side of the ledger: accept requests, read how they stand, and hear when they end."""

import asyncio
import os
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from redis.exceptions import RedisError

from pipeline.contracts.cache_keys import cache_key
from pipeline.contracts.canonical import digest
from pipeline.contracts.ids import accepted_ms, random_tails, to_text
from pipeline.contracts.problems import (
    AlreadyEnded,
    Gone,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    Overloaded,
    Problem,
    StoreFull,
    StoreUnavailable,
    TooLate,
)
from pipeline.contracts.stages import ENDS, Priority, Stage, State
from pipeline.contracts.status import Failure, Status
from pipeline.contracts.work import Carry, Header, Ties
from pipeline.ledger import keys
from pipeline.ledger.cache import CacheReader
from pipeline.ledger.connection import AsyncClient, store_problems
from pipeline.ledger.finishing import finish_arguments, finish_head
from pipeline.ledger.records import (
    ACCEPTED,
    MEMBER_REST,
    End,
    Entry,
    pack_features,
    pack_front,
    status_of,
    unpack_attempts,
    unpack_entry,
)
from pipeline.ledger.releases import ReleaseTable, read_releases
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings

log = structlog.get_logger()
RECEIPT_S = 120
"""How long an accept can be asked for again."""
REPLICA_S = 1.0
"""How long a replica may take to confirm, at durability ``replica``: less than a call to the store may take."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One scoring request as a producer means it; its envelope has been checked."""

    model: str
    features: Mapping[str, Any]
    priority: Priority = Priority.NORMAL
    timeout_ms: int = 3_600_000
    allow_degraded: bool = True
    key: bytes = b""
    """What ``idempotency`` made of the producer's key and this request; empty without a key."""
    no_cache: bool = False
    """Compute it anew, and for this request alone."""


def idempotency(
    scope: str, key: str, model: str, features: Mapping[str, Any], priority: str, timeout_s: float
) -> bytes:
    """A producer's idempotency key, within its scope, and the digest of the body that it stands for (16 bytes each).

    Whether two bodies are the same is decided as by their RFC 8785 texts; see ``contracts.canonical``.
    """
    try:
        return digest(scope, key) + digest(model, features, priority, timeout_s)
    except (TypeError, ValueError) as error:
        message = f"cannot be compared: {error}"
        raise InvalidRequest(f"features {message}", errors=[{"pointer": "/features", "message": message}]) from error


@dataclass(frozen=True, slots=True)
class Known:
    """A request that may have ended: read it. An idempotency key stood for it, or its answer was there already."""

    id: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that is in the ledger now, and will end."""

    id: bytes
    header: Header
    joined: bool = False
    end: bytes | None = None
    """Its record, if the cache had its answer."""

    def status(self) -> Status:
        """Its status document in this moment: known without reading it back."""
        entry = Entry(ACCEPTED, self.header, Carry(0), None, pack_front(self.header))
        status = status_of(self.id, unpack_entry(self.end) if self.end else entry)
        status["joined"] = self.joined
        return status


@dataclass(slots=True)
class _Row:
    """One request of a parcel: its place there, what is sent of it, and its end if the cache had its answer."""

    place: int
    header: Header
    tail: bytes
    scoring: str
    record: bytes
    cache_key: bytes
    key: bytes
    end: bytes | None = None


class Parcel:
    """Up to ``SCRIPT_LIMIT`` requests on their way. However often it is sent, each is accepted once."""

    def __init__(self, submissions: Sequence[Submission]) -> None:
        self.submissions = submissions
        self.receipt = os.urandom(16)
        self.packed = False
        self.looked = False

    def pack(self, table: ReleaseTable, settings: Settings) -> None:
        """Pin each request's model version and pack it, or note why it cannot be."""
        self.epoch = table.epoch
        self.refused: list[Problem | None] = [None] * len(self.submissions)
        self.sent: list[_Row] = []
        self.head: list[Any] = [
            table.epoch,
            settings.max_waiting,
            self.receipt,
            RECEIPT_S * 1000,
            round(settings.result_ttl * 1000),
            round(settings.idempotency_ttl * 1000),
            MEMBER_REST,
        ]
        tails = random_tails(len(self.submissions))
        for place, (submission, tail) in enumerate(zip(self.submissions, tails, strict=True)):
            try:
                release = table.resolve(submission.model)
                features, degradable = submission.features, submission.allow_degraded
                header = Header(
                    release.name,
                    release.version,
                    release.digest_bytes,
                    release.pool,
                    int(submission.priority),
                    submission.timeout_ms,
                    0,
                    degradable,
                    release.cache_s,
                )
                packed = pack_features(features)
                shared = b"" if submission.no_cache else cache_key(release.ref, features, allow_degraded=degradable)
                record = pack_front(header, Ties(b"", submission.key, shared)) + packed
                cacheable = shared if release.cache_s else b""
            except Problem as problem:
                self.refused[place] = problem
                continue
            scoring = release.ref.lane(Stage.SCORING)
            self.sent.append(_Row(place, header, tail, scoring, record, cacheable, submission.key))
        self.packed, self.looked = True, False

    async def look(self, cache: CacheReader) -> None:
        """Let those end at once whose answers the cache has."""
        rows = [row for row in self.sent if row.cache_key]
        hits = await cache.look([row.cache_key for row in rows]) if rows else ()
        for row, hit in zip(rows, hits, strict=True):
            if hit is not None:
                row.end = hit.record(row.header, row.key)
        self.looked = True

    def arguments(self) -> list[Any]:
        """Those of the accept script."""
        arguments = self.head.copy()
        for row in self.sent:
            scoring, record = ("", row.end) if row.end else (row.scoring, row.record)
            arguments += row.tail, scoring, row.header.priority, row.header.timeout_ms, record
        return arguments


class _Unfinished(NamedTuple):
    """A request to be read: its place among the answers, its flight (itself, if it has joined none) and first lane."""

    place: int
    id: bytes
    flight: bytes
    lane: str


class Producing:
    """Accepting and reading, a batch to a round trip."""

    def __init__(self, client: AsyncClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._scripts = Scripts(client)
        self._cache = CacheReader(client, settings)
        self._table: ReleaseTable | None = None

    async def releases(self, *, fresh: bool = False) -> ReleaseTable:
        """The releases as this process knows them; ``accept`` finds out when they are stale."""
        if self._table is None or fresh:
            self._table = await read_releases(self._client)
        return self._table

    async def close(self) -> None:
        """Close what is its own."""
        await self._cache.close()

    async def accept(self, submissions: Sequence[Submission]) -> list[Accepted | Known | Problem]:
        """Accept up to ``SCRIPT_LIMIT`` requests in one script: for each, its id and what was pinned, or why not."""
        return await self.send(Parcel(submissions))

    async def send(self, parcel: Parcel, after: Awaitable[object] | None = None) -> list[Accepted | Known | Problem]:
        """The same for a parcel, which is packed at once and sent when ``after`` is done.

        If it raises StoreUnavailable the requests may or may not have been accepted: sending the parcel again within
        ``RECEIPT_S`` tells, and accepts them once.
        """
        if not parcel.packed:
            parcel.pack(await self.releases(), self._settings)
        while True:
            if not parcel.looked:
                await parcel.look(self._cache)
            if after is not None:
                await after
            with store_problems():
                if not parcel.sent:
                    # A model that is unknown may have been released a moment ago.
                    current = (await self._client.get(keys.EPOCH) or b"0") == parcel.epoch
                    reply: list[Any] = [b"ok", b"", 0] if current else [b"stale"]
                else:
                    reply = await self._durably(self._scripts.accept, parcel.arguments())
            if reply[0] != b"stale":
                return self._answers(parcel, reply[1], reply[2])
            # The releases changed since we read them: pin what is current now.
            parcel.pack(await self.releases(fresh=True), self._settings)

    async def _durably(self, script: Any, arguments: list[Any]) -> Any:
        """Call a script whose answer is a promise: at durability ``replica``, another server has what it rests on."""
        reply = await script(args=arguments)
        await self._confirm()
        return reply

    async def _confirm(self) -> None:
        """At durability ``replica``: come back once another server has all that was written so far, by anybody."""
        if self._settings.durability != "replica":
            return
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.set(keys.CONFIRM, b"")  # WAIT is for the writes of its own connection: this one comes after all others
            pipe.wait(1, round(REPLICA_S * 1000))
            _, replicas = await pipe.execute()
        if not replicas:
            raise StoreUnavailable(f"no replica has confirmed within {REPLICA_S:g} s what was written; send it again")

    def _answers(self, parcel: Parcel, letters: bytes, unfinished: int) -> list[Accepted | Known | Problem]:
        answers: list[Any] = list(parcel.refused)
        for number, row in enumerate(parcel.sent):
            answer, place = letters[17 * number : 17 * number + 17], row.place
            letter, request_id = answer[:1], answer[1:]
            if letter in b"nj":
                answers[place] = Accepted(request_id, row.header, joined=letter == b"j", end=row.end)
            elif letter in b"oe":
                answers[place] = Known(request_id)
            else:
                answers[place] = self._refusal(letter, unfinished)
        return answers

    def _refusal(self, letter: bytes, unfinished: int) -> Problem:
        if letter == b"m":
            return IdempotencyMismatch("this idempotency key stands for a request with another body: use a new one")
        if letter == b"s":
            return StoreFull("the store is short of memory: accepted requests go on, send new ones later")
        return Overloaded(f"{unfinished} requests are unfinished, the limit is {self._settings.max_waiting}")

    async def cancel(self, request_id: bytes) -> Status:
        """End a request that scoring has not claimed yet; its status, also if it was cancelled before.

        NotFound, Gone, AlreadyEnded (otherwise), TooLate (scoring has claimed it: it will end by itself).
        """
        while True:
            with store_problems():
                blob = await self._client.get(keys.record(request_id))
            if blob is None:
                raise self._absent(request_id)
            entry = unpack_entry(blob)
            if entry.ended:
                if entry.kind != State.CANCELLED:
                    raise AlreadyEnded(f"{to_text(request_id)} has ended: {entry.kind}")
                with store_problems():
                    await self._confirm()
                return status_of(request_id, entry)
            if not await self._cancel(request_id, entry):
                (now,) = await self.read([request_id])
                if isinstance(now, Problem) or now["state"] in ENDS:
                    continue
                raise TooLate(f"{to_text(request_id)} is being scored: it will end by itself")

    async def _cancel(self, request_id: bytes, entry: Entry) -> bool:
        with store_problems():
            (seconds, micros), offset = await self._client.time(), await self._client.get(keys.OFFSET)
            tried = await self._client.hget(keys.ATTEMPTS, entry.ties.flight or request_id)
            error = Failure(category="cancelled", stage=None, message="cancelled by its producer", retryable=False)
            now_ms = seconds * 1000 + micros / 1000 + int(offset or 0)
            end = End(now_ms, None, error, unpack_attempts(tried).starts)
            head = finish_head(self._settings, State.CANCELLED, only_late=False)
            arguments = [*head, *finish_arguments(request_id, entry, State.CANCELLED, end)]
            (ended,) = await self._durably(self._scripts.finish, arguments)
            return bool(ended)

    async def read(self, request_ids: Sequence[bytes]) -> list[Status | Problem]:
        """The status documents of requests, in order; NotFound or Gone in the place of those without a record."""
        answers: list[Any] = [None] * len(request_ids)
        unfinished: list[_Unfinished] = []
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
                    lane = entry.header.ref.lane(Stage.PREPROCESS)
                    unfinished.append(_Unfinished(place, request_id, entry.ties.flight or request_id, lane))
            for start in range(0, len(unfinished), keys.SCRIPT_LIMIT):
                await self._read_unfinished(unfinished[start : start + keys.SCRIPT_LIMIT], answers)
        return answers

    async def _read_unfinished(self, requests: Sequence[_Unfinished], answers: list[Any]) -> None:
        # Record, output and waiting entry in one transaction: a state never seems to move backwards.
        flights = [request.flight for request in requests]
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.mget([keys.record(request.id) for request in requests])
            pipe.mget([keys.output(flight) for flight in flights])
            pipe.hmget(keys.ATTEMPTS, flights)
            for request in requests:
                pipe.zscore(keys.waiting(request.lane), request.flight)
            records, outputs, attempts, *scores = await pipe.execute()
        for request, record, output, tried, score in zip(requests, records, outputs, attempts, scores, strict=True):
            if record is None:
                answers[request.place] = self._absent(request.id)
                continue
            answers[request.place] = status_of(
                request.id,
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
