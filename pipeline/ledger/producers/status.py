"""Reading the status documents of requests, many to a round trip."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.contracts.ids import accepted_ms, to_text
from pipeline.contracts.problems import Gone, NotFound, Problem
from pipeline.contracts.stages import PRIORITY_STEP, Stage
from pipeline.contracts.status import Status
from pipeline.contracts.tenants import Caller
from pipeline.ledger import keys
from pipeline.ledger.records import tenant_of, unpack_attempts, unpack_entry
from pipeline.ledger.scripts import Scripts
from pipeline.ledger.status_documents import status_of
from pipeline.settings import Settings
from pipeline.store.connection import AsyncClient
from pipeline.store.errors import store_problems


class _Unfinished(NamedTuple):
    """A request whose lane must be looked at.

    ``at``: the index of its answer. ``flight``: its own id if it has joined none. ``scoring`` and ``score``: its lane
    for scoring, and its place there.
    """

    at: int
    id: bytes
    flight: bytes
    scoring: str
    score: int


class StatusReader:
    """Reads how far requests have come."""

    def __init__(self, client: AsyncClient, settings: Settings, scripts: Scripts) -> None:
        self._client = client
        self._settings = settings
        self._scripts = scripts

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
            for index, (request_id, blob) in enumerate(zip(request_ids, blobs, strict=True)):
                if blob is None or (callers and not callers[index].sees(tenant_of(blob))):
                    absent.append(index)
                    continue
                entry = unpack_entry(blob)
                if entry.ended:
                    answers[index] = status_of(request_id, entry)
                else:
                    header, flight = entry.header, entry.links.flight or request_id
                    score = header.priority * PRIORITY_STEP + accepted_ms(request_id) + header.timeout_ms
                    unfinished.append(_Unfinished(index, request_id, flight, header.ref.lane(Stage.SCORING), score))
            for start in range(0, len(unfinished), keys.SCRIPT_LIMIT):
                absent += await self._read_unfinished(unfinished[start : start + keys.SCRIPT_LIMIT], answers)
        if absent:
            problems = await self.absences([request_ids[index] for index in absent])
            for index, problem in zip(absent, problems, strict=True):
                answers[index] = problem
        return answers

    async def _read_unfinished(self, requests: Sequence[_Unfinished], answers: list[Any]) -> list[int]:
        """Fill in the requests' answers; returns the indexes of those whose records are gone by now."""
        # One script reads record, output and place in the lane: a state never seems to move backwards.
        reply = await self._scripts.status(args=[part for request in requests for part in request[1:]])
        absent: list[int] = []
        for number, request in enumerate(requests):
            record, output, tried, rank, eta_ms = reply[5 * number : 5 * number + 5]
            if record is None:
                absent.append(request.at)
                continue
            entry, waits, eta = unpack_entry(record), rank >= 0, int(eta_ms)
            answers[request.at] = status_of(
                request.id,
                entry,
                latest=unpack_entry(output) if output else None,
                # Attempts are noted once it has been claimed.
                waits_first=waits and tried is None,
                attempts=unpack_attempts(tried),
                position=rank if waits else None,
                eta_s=None if entry.ended or eta < 0 else eta / 1000,
            )
        return absent

    async def absences(self, request_ids: Sequence[bytes]) -> list[Problem]:
        """Why each request has no record: Gone or NotFound, by the clock that has stamped their ids."""
        with store_problems():
            now_ms = await self.now_ms()
        problems: list[Problem] = []
        for request_id in request_ids:
            text, kept_s = to_text(request_id), self._settings.result_ttl
            if now_ms - accepted_ms(request_id) > kept_s * 1000:
                problems.append(Gone(f"the result of {text} was kept for {kept_s:g} s after its end"))
            else:
                problems.append(NotFound(f"no request {text}"))
        return problems

    async def now_ms(self) -> float:
        """The ledger's time, Unix milliseconds."""
        (seconds, micros), offset = await self._client.time(), await self._client.get(keys.OFFSET)
        return seconds * 1000 + micros / 1000 + int(offset or 0)
