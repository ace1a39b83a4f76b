"""The producers' side of the ledger: accept requests, read how they stand, cancel them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.breakers.calls import Breakers
from pipeline.contracts.ids import accepted_ms, to_text
from pipeline.contracts.problems import (
    AlreadyEnded,
    Gone,
    NotFound,
    Problem,
    StoreUnavailable,
    TooLate,
)
from pipeline.contracts.releases import ReleaseTable
from pipeline.contracts.stages import FINAL_STATES, PRIORITY_STEP, Stage, State
from pipeline.contracts.status import Failure, Status
from pipeline.contracts.tenants import STORE, Caller
from pipeline.ledger import keys
from pipeline.ledger.clock import server_ms_async
from pipeline.ledger.early_ends import end_early_arguments, end_early_head
from pipeline.ledger.producers.refusals import refusal
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, SubmissionBatch
from pipeline.ledger.records import End, Entry, status_of, tenant_of, unpack_attempts, unpack_entry
from pipeline.ledger.releases import read_releases
from pipeline.ledger.result_cache import CacheReader
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings
from pipeline.store.connection import AsyncClient
from pipeline.store.errors import store_problems

REPLICA_S = 1.0
"""How long a replica may take to confirm, at durability ``replica``: less than a call to the store may take."""


class _Unfinished(NamedTuple):
    """A request to be read: its place among the answers, its flight (its own id, if it has joined none), its place."""

    place: int
    id: bytes
    flight: bytes
    scoring: str
    score: int


class Producing:
    """Accepting and reading, a batch to a round trip."""

    def __init__(self, client: AsyncClient, settings: Settings, breakers: Breakers | None = None) -> None:
        self._client = client
        self._settings = settings
        self._scripts = Scripts(client)
        url = settings.cache_url
        self._cache = CacheReader(url, settings, breakers or Breakers()) if url else None
        self._table: ReleaseTable | None = None

    async def releases(self, *, fresh: bool = False) -> ReleaseTable:
        """The releases as this process knows them; ``accept`` finds out when they are stale."""
        if self._table is None or fresh:
            self._table = await read_releases(self._client)
        return self._table

    async def close(self) -> None:
        """Close what is its own."""
        if self._cache is not None:
            await self._cache.close()

    async def accept(self, submissions: Sequence[Submission]) -> list[Accepted | Known | Problem]:
        """Accept up to ``SCRIPT_LIMIT`` requests in one script: for each, its id and what was pinned, or why not."""
        return await self.send(SubmissionBatch(submissions))

    async def prepare(self, batch: SubmissionBatch) -> None:
        """Do what ``send`` would do before it sends: pack the batch, and look for answers that the cache has."""
        if not batch.packed:
            batch.pack(await self.releases(), self._settings)
        if self._cache is not None and not batch.looked:
            await batch.look(self._cache)

    async def send(self, batch: SubmissionBatch) -> list[Accepted | Known | Problem]:
        """The same for a batch.

        If it raises StoreUnavailable the requests may or may not have been accepted: sending the batch again within
        ``DEDUP_TOKEN_S`` tells, and accepts them once.
        """
        while True:
            await self.prepare(batch)
            with store_problems():
                if not batch.sent:
                    # A model that is unknown may have been released a moment ago.
                    current = (await self._client.get(keys.EPOCH) or b"0") == batch.epoch
                    reply: list[Any] = [b"ok", b"", 0] if current else [b"stale"]
                else:
                    reply = await self._durably(self._scripts.accept, batch.arguments())
            if reply[0] != b"stale":
                return self._answers(batch, reply[1], reply[2])
            # The releases changed since we read them: pin what is current now.
            batch.pack(await self.releases(fresh=True), self._settings)

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

    def _answers(self, batch: SubmissionBatch, codes: bytes, unfinished: int) -> list[Accepted | Known | Problem]:
        answers: list[Any] = list(batch.refused)
        for number, row in enumerate(batch.sent):
            answer, place = codes[17 * number : 17 * number + 17], row.place
            code, request_id = answer[:1], answer[1:]
            if code in b"nj":
                answers[place] = Accepted(request_id, row.header, joined=code == b"j", end=row.end)
            elif code in b"oe":
                answers[place] = Known(request_id)
            else:
                answers[place] = refusal(code, request_id, unfinished, row.header, self._settings)
        return answers

    async def cancel(self, request_id: bytes, caller: Caller = STORE) -> Status:
        """End a request that scoring has not claimed yet; its status, also if it was cancelled before.

        NotFound, Gone (both also for one that ``caller`` must not see), AlreadyEnded (otherwise), TooLate (scoring has
        claimed it: it will end by itself).
        """
        while True:
            with store_problems():
                blob = await self._client.get(keys.record(request_id))
            if blob is None or not caller.sees(tenant_of(blob)):
                raise (await self._absent([request_id]))[0]
            entry = unpack_entry(blob)
            if entry.ended:
                if entry.kind != State.CANCELLED:
                    raise AlreadyEnded(f"{to_text(request_id)} has ended: {entry.kind}")
                with store_problems():
                    await self._confirm()
                return status_of(request_id, entry)
            if not await self._cancel(request_id, entry, caller.cancelled(tenant_of(blob))):
                (now,) = await self.read([request_id])
                if isinstance(now, Problem) or now["state"] in FINAL_STATES:
                    continue
                raise TooLate(f"{to_text(request_id)} is being scored: it will end by itself")

    async def _cancel(self, request_id: bytes, entry: Entry, message: str) -> bool:
        with store_problems():
            now_ms = await server_ms_async(self._client)
            tried = await self._client.hget(keys.ATTEMPTS, entry.links.flight or request_id)
            error = Failure(category="cancelled", stage=None, message=message, retryable=False)
            end = End(now_ms, None, error, unpack_attempts(tried).starts)
            head = end_early_head(self._settings, State.CANCELLED, only_late=False)
            arguments = [*head, *end_early_arguments(request_id, entry, State.CANCELLED, end)]
            (ended,) = await self._durably(self._scripts.end_early, arguments)
            return bool(ended)

    async def read(
        self, request_ids: Sequence[bytes], callers: Sequence[Caller] | None = None
    ) -> list[Status | Problem]:
        """The status documents of requests, in order; NotFound or Gone in the place of those without a record.

        ``callers``: for whom each is read. What its caller must not see is answered as if there were no record.
        """
        answers: list[Any] = [None] * len(request_ids)
        unfinished: list[_Unfinished] = []
        absent: list[int] = []
        with store_problems():
            blobs = await self._client.mget([keys.record(request_id) for request_id in request_ids])
            for place, (request_id, blob) in enumerate(zip(request_ids, blobs, strict=True)):
                if blob is None or (callers and not callers[place].sees(tenant_of(blob))):
                    absent.append(place)
                    continue
                entry = unpack_entry(blob)
                if entry.ended:
                    answers[place] = status_of(request_id, entry)
                else:
                    header, flight = entry.header, entry.links.flight or request_id
                    score = header.priority * PRIORITY_STEP + accepted_ms(request_id) + header.timeout_ms
                    unfinished.append(_Unfinished(place, request_id, flight, header.ref.lane(Stage.SCORING), score))
            for start in range(0, len(unfinished), keys.SCRIPT_LIMIT):
                absent += await self._read_unfinished(unfinished[start : start + keys.SCRIPT_LIMIT], answers)
        if absent:
            problems = await self._absent([request_ids[place] for place in absent])
            for place, problem in zip(absent, problems, strict=True):
                answers[place] = problem
        return answers

    async def _read_unfinished(self, requests: Sequence[_Unfinished], answers: list[Any]) -> list[int]:
        """Fill in their answers; the places of those whose records are gone meanwhile."""
        # Record, output and place in one script: a state never seems to move backwards.
        reply = await self._scripts.status(args=[part for request in requests for part in request[1:]])
        absent: list[int] = []
        for number, request in enumerate(requests):
            record, output, tried, rank, eta_ms = reply[5 * number : 5 * number + 5]
            if record is None:
                absent.append(request.place)
                continue
            entry, waits, eta = unpack_entry(record), rank >= 0, int(eta_ms)
            answers[request.place] = status_of(
                request.id,
                entry,
                latest=unpack_entry(output) if output else None,
                # A place in the attempts means that it has been claimed before.
                waits_first=waits and tried is None,
                attempts=unpack_attempts(tried),
                position=rank if waits else None,
                eta_s=None if entry.ended or eta < 0 else eta / 1000,
            )
        return absent

    async def _absent(self, request_ids: Sequence[bytes]) -> list[Problem]:
        """Why there is no record of requests: Gone or NotFound, by the clock that has stamped their ids."""
        with store_problems():
            now_ms = await server_ms_async(self._client)
        problems: list[Problem] = []
        for request_id in request_ids:
            text, kept_s = to_text(request_id), self._settings.result_ttl
            if now_ms - accepted_ms(request_id) > kept_s * 1000:
                problems.append(Gone(f"the result of {text} was kept for {kept_s:g} s after its end"))
            else:
                problems.append(NotFound(f"no request {text}"))
        return problems
