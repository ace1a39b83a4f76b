"""Repairs of what interrupted scripts have left undone: a script is no transaction (see ``lua/prelude/base.lua``).

``scrub``            walks over all keys, a page at a time: it deletes what has outlived its request, ends what has
                     ended in part, and finds orphans among the records: unfinished, but not open
``recover_orphans``  finds orphans among what scoring has claimed: flights in no lane, no claim and no retry

An orphan waits again, for the stage after the one whose output is there.
"""

from collections.abc import Iterable
from typing import Any

from pipeline.contracts.ids import accepted_ms
from pipeline.contracts.stages import PRIORITY_STEP, Stage
from pipeline.ledger import keys
from pipeline.ledger.records import unpack_entry
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings
from pipeline.store.connection import Client
from pipeline.telemetry.events.requests import RequestsReopened

PAGE = 256
"""About how many keys are checked at once: a page costs the store half a millisecond."""


class Repairs:
    """The repairs of one sweeper, which remembers how far it has come."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._scripts = Scripts(client)
        self._ttls_ms = round(1000 * settings.result_ttl), round(1000 * settings.idempotency_ttl)
        self._cursor = 0
        self._scored_from = 0
        self._joined_from = 0
        self._missed: set[bytes] = set()

    def scrub(self) -> int:
        """Checks the next page of keys; returns how many requests wait again because of it."""
        self._cursor, page = self._client.scan(self._cursor, match=f"{keys.TAG}*", count=PAGE)
        dead_letter_ms = round(1000 * self._settings.dead_max_age)
        reopened = 0
        for start in range(0, len(page), keys.SCRIPT_LIMIT):
            part = page[start : start + keys.SCRIPT_LIMIT]
            orphans, holders = self._scripts.scrub(args=[*self._ttls_ms, dead_letter_ms, *part])
            reopened += self._reopen(orphans)
            for incarnation in holders:
                reason = "the worker was forgotten"
                reopened += release_claims(self._scripts, incarnation.decode(), charge="loss", reason=reason)
        return reopened

    @property
    def has_seen_all(self) -> bool:
        """Whether the walk over the keys has come back to its beginning."""
        return self._cursor == 0

    def recover_orphans(self) -> int:
        """Puts flights that were found to be orphans twice in a row back into their lanes; returns how many."""
        scored, self._scored_from = self._page_of_scored()
        self._joined_from, joined = self._client.hscan(keys.JOINED, self._joined_from, count=PAGE)
        scored |= {flight for flight, since in joined.items() if since != b"0"}
        missed = scored - self._claimed() - self._retrying() if scored else set()
        found, self._missed = missed & self._missed, missed
        return self._reopen(self._in_no_lane(found)) if found else 0

    def _page_of_scored(self) -> tuple[set[bytes], int]:
        """Returns a page of the requests that scoring has claimed, and where the next page begins."""
        start = self._scored_from
        page = self._client.zrange(keys.OPEN, "+inf", "+inf", byscore=True, offset=start, num=PAGE)
        # The same page again until what was missed there has been looked for twice.
        return set(page), start + PAGE if len(page) == PAGE and not self._missed else 0 if len(page) < PAGE else start

    def _claimed(self) -> set[bytes]:
        pipe = self._client.pipeline(transaction=False)
        for incarnation in self._client.zrange(keys.BEATS, 0, -1):
            pipe.hvals(keys.claims(incarnation.decode()))
        return {request_id for held in pipe.execute() for claim in held for request_id in _ids_of(claim)}

    def _retrying(self) -> set[bytes]:
        return {entry[:16] for entry in self._client.zrange(keys.LATER, 0, -1)}

    def _in_no_lane(self, flights: Iterable[bytes]) -> list[bytes]:
        pipe = self._client.pipeline(transaction=False)
        asked = []
        for flight, entry in self._entries(flights):
            for stage in Stage:
                pipe.zscore(keys.waiting(entry.header.ref.lane(stage)), flight)
            asked.append(flight)
        answers = pipe.execute()
        return [
            flight
            for place, flight in enumerate(asked)
            if all(score is None for score in answers[3 * place : 3 * place + 3])
        ]

    def _entries(self, request_ids: Iterable[bytes]) -> list[tuple[bytes, Any]]:
        ids = list(request_ids)
        blobs = self._client.mget([keys.record(request_id) for request_id in ids]) if ids else []
        entries = []
        for request_id, blob in zip(ids, blobs, strict=True):
            try:
                entries.append((request_id, unpack_entry(blob or b"")))
            except (ValueError, TypeError):
                continue  # it expires at its deadline
        return entries

    def _reopen(self, request_ids: Iterable[bytes]) -> int:
        arguments: list[Any] = []
        for request_id, entry in self._entries(request_ids):
            header = entry.header
            deadline = accepted_ms(request_id) + header.timeout_ms
            score = header.priority * PRIORITY_STEP + deadline
            flight = entry.links.flight or request_id
            arguments += request_id, flight, header.ref.lane(Stage.SCORING), score, deadline
        reopened = int(self._scripts.reopen(args=[*self._ttls_ms, *arguments])) if arguments else 0
        if reopened:
            RequestsReopened(requests=reopened).emit()
        return reopened


def _ids_of(claim: bytes) -> list[bytes]:
    """The requests of a claim; none if it cannot be read."""
    ids = claim.split(b"|", 3)[-1]
    return [ids[at : at + 16] for at in range(0, len(ids), 16)]
