"""The producers' side of the ledger: accept requests, read their statuses, cancel them."""

from collections.abc import Sequence
from typing import Any

from pipeline.breakers.calls import Breakers
from pipeline.contracts.ids import to_text
from pipeline.contracts.problems import AlreadyEnded, Problem, StoreUnavailable, TooLate
from pipeline.contracts.releases import ReleaseTable
from pipeline.contracts.stages import FINAL_STATES, State
from pipeline.contracts.status import Failure, Status
from pipeline.contracts.tenants import STORE, Caller
from pipeline.ledger import keys
from pipeline.ledger.early_ends import end_early_arguments, end_early_head
from pipeline.ledger.producers.refusals import refusal
from pipeline.ledger.producers.status import StatusReader
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

ANSWER_BYTES = 17
"""Of each request in the reply of ``accept.lua``: a code, and an id of 16 bytes."""
NEW, JOINED, OLD, ENDED = b"n", b"j", b"o", b"e"
"""Its codes, without those of refusals: in the ledger now; the same, and joined to a flight; known by its idempotency
key; in the ledger now, and ended with an answer that was there."""


class Producing:
    """Accepts, reads and cancels requests, a batch to a round trip."""

    def __init__(self, client: AsyncClient, settings: Settings, breakers: Breakers | None = None) -> None:
        self._client = client
        self._settings = settings
        self._scripts = Scripts(client)
        self._statuses = StatusReader(client, settings, self._scripts)
        self.read = self._statuses.read
        url = settings.cache_url
        self._cache = CacheReader(url, settings, breakers or Breakers()) if url else None
        self._table: ReleaseTable | None = None

    async def releases(self, *, fresh: bool = False) -> ReleaseTable:
        """The releases as this process knows them; ``send`` notices when they are stale. ``fresh``: read them now."""
        if self._table is None or fresh:
            self._table = await read_releases(self._client)
        return self._table

    async def close(self) -> None:
        """Close the connection to the cache; the store's is the caller's."""
        if self._cache is not None:
            await self._cache.close()

    async def accept(self, submissions: Sequence[Submission]) -> list[Accepted | Known | Problem]:
        """Accept up to ``SCRIPT_LIMIT`` requests in one script; for each, what was accepted or why it was refused."""
        return await self.send(SubmissionBatch(submissions))

    async def prepare(self, batch: SubmissionBatch) -> None:
        """Do what ``send`` would do first: pack the batch, and look for its answers in the cache."""
        if not batch.packed:
            batch.pack(await self.releases(), self._settings)
        if self._cache is not None and not batch.looked_up:
            await batch.look_up(self._cache)

    async def send(self, batch: SubmissionBatch) -> list[Accepted | Known | Problem]:
        """Accept a batch; for each request, what was accepted or why it was refused.

        If it raises StoreUnavailable the requests may or may not have been accepted: send the same batch again within
        ``DEDUP_TOKEN_S`` to find out; each is accepted once.
        """
        while True:
            await self.prepare(batch)
            with store_problems():
                if not batch.sent:
                    # The model that is unknown may have been released a moment ago.
                    current = (await self._client.get(keys.EPOCH) or b"0") == batch.epoch
                    reply: list[Any] = [b"ok", b"", 0] if current else [b"stale"]
                else:
                    reply = await self._scripts.accept(args=batch.arguments())
                    await self._confirm()
            if reply[0] != b"stale":
                return self._answers(batch, reply[1], reply[2])
            # The releases changed since we read them: pin what is current now.
            batch.pack(await self.releases(fresh=True), self._settings)

    async def _confirm(self) -> None:
        """At durability ``replica``: return once another server has all that was written so far.

        Called before every answer that is a promise.
        """
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
        for start, row in zip(range(0, len(codes), ANSWER_BYTES), batch.sent, strict=True):
            code, request_id = codes[start : start + 1], codes[start + 1 : start + ANSWER_BYTES]
            if code in (NEW, JOINED):
                answer: Any = Accepted(request_id, row.header, joined=code == JOINED, end=row.end)
            elif code in (OLD, ENDED):
                answer = Known(request_id)
            else:
                answer = refusal(code, request_id, unfinished, row.header, self._settings)
            answers[row.index] = answer
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
                raise (await self._statuses.absences([request_id]))[0]
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
            now_ms = await self._statuses.now_ms()
            tried = await self._client.hget(keys.ATTEMPTS, entry.links.flight or request_id)
            error = Failure(category="cancelled", stage=None, message=message, retryable=False)
            end = End(now_ms, None, error, unpack_attempts(tried).starts)
            head = end_early_head(self._settings, State.CANCELLED, only_late=False)
            arguments = [*head, *end_early_arguments(request_id, entry, State.CANCELLED, end)]
            (ended,) = await self._scripts.end_early(args=arguments)
            await self._confirm()
            return bool(ended)
