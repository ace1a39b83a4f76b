"""Dead letters: requests that were given up, kept whole until they are replayed, purged, too old or too many."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from pipeline.contracts.ids import from_text, rfc3339, to_text
from pipeline.contracts.problems import InvalidRequest, NotDead, NotFound
from pipeline.contracts.stages import Priority, Stage
from pipeline.contracts.work import Attempt, Ended, Header, Work
from pipeline.ledger import keys
from pipeline.ledger.connection import AsyncClient, store_problems
from pipeline.ledger.records import pack_entry, pack_features, unpack_entry
from pipeline.ledger.scripts import Scripts

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter. ``stage_input`` is what the stage that died was given, as stored: a replay resumes there."""

    id: bytes
    header: Header
    stage: Stage
    category: str
    message: str
    features: dict[str, Any]
    stage_input: bytes
    attempts: tuple[Attempt, ...]
    died_ms: float

    @property
    def fingerprint(self) -> str:
        """The same for letters with the same cause: stage, category and message without its numbers."""
        cause = f"{self.stage}|{self.category}|{re.sub(r'[0-9]+', '#', self.message)}"
        return hashlib.sha256(cause.encode()).hexdigest()[:12]

    def document(self) -> dict[str, Any]:
        """The letter as operators read it."""
        attempts = [
            {"n": entry.n, "at": rfc3339(entry.at), "stage": entry.stage, "error": entry.error, "signal": entry.signal}
            for entry in self.attempts
        ]
        return {
            "id": to_text(self.id),
            "request_ids": [to_text(self.id)],
            "model": self.header.model,
            "model_version": self.header.version,
            "stage": str(self.stage),
            "category": self.category,
            "message": self.message,
            "fingerprint": self.fingerprint,
            "input": self.features,
            "attempts": attempts,
            "died_at": rfc3339(self.died_ms),
            "generation": self.header.generation,
        }


def pack_letter(work: Work, outcome: Ended, stage: Stage, record: bytes | None, now_ms: float) -> bytes:
    """The stored form of a new dead letter. ``record``: the request's record, which holds its input."""
    return msgpack.packb(
        {
            "header": work.header,
            "stage": str(stage),
            "category": outcome.error["category"],
            "message": outcome.error["message"],
            "features": _features(record),
            "stage_input": work.blob,
            "attempts": outcome.attempts.errors,
            "died_ms": now_ms,
        }
    )


def _features(record: bytes | None) -> Any:
    try:
        return unpack_entry(record or b"").body
    except (ValueError, TypeError):
        return {}  # it died of being unreadable; the letter's message says so


def _unpack(request_id: bytes, blob: bytes) -> Letter:
    stored = msgpack.unpackb(blob, strict_map_key=False)
    return Letter(
        request_id,
        Header(*stored["header"]),
        Stage(stored["stage"]),
        stored["category"],
        stored["message"],
        stored["features"],
        stored["stage_input"],
        tuple(Attempt(*entry) for entry in stored["attempts"]),
        stored["died_ms"],
    )


class DeadLetters:
    """What operators do with dead letters."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._scripts = Scripts(client)

    async def page(
        self,
        *,
        model: str | None = None,
        stage: str | None = None,
        category: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> tuple[list[Letter], str | None]:
        """Letters, newest first, and the cursor of the next page (None at the end)."""
        found: list[Letter] = []
        with store_problems():
            place = await self._place_after(cursor)
            while True:
                ids = await self._client.zrange(keys.DEAD, place, place + _PAGE - 1, desc=True)
                if not ids:
                    return found, None
                blobs = await self._client.mget([keys.letter(request_id) for request_id in ids])
                for offset, (request_id, blob) in enumerate(zip(ids, blobs, strict=True)):
                    if blob is None:  # aged out; the sweeper has yet to drop its place in the list
                        continue
                    letter = _unpack(request_id, blob)
                    if (
                        (model and letter.header.model != model)
                        or (stage and letter.stage != stage)
                        or (category and letter.category != category)
                    ):
                        continue
                    found.append(letter)
                    if len(found) == limit:
                        more = offset + 1 < len(ids) or len(ids) == _PAGE
                        return found, to_text(request_id) if more else None
                place += len(ids)

    async def _place_after(self, cursor: str | None) -> int:
        if cursor is None:
            return 0
        try:
            request_id = from_text(cursor)
        except ValueError as error:
            raise InvalidRequest(str(error), errors=[{"pointer": "/cursor", "message": str(error)}]) from error
        rank = await self._client.zrevrank(keys.DEAD, request_id)
        if rank is None:
            message = "the letter at this cursor was replayed or purged meanwhile; begin again without a cursor"
            raise InvalidRequest(message, errors=[{"pointer": "/cursor", "message": message}])
        return int(rank) + 1

    async def get(self, request_id: bytes) -> Letter:
        """One letter; NotFound if there is none."""
        with store_problems():
            blob = await self._client.get(keys.letter(request_id))
        if blob is None:
            raise NotFound(f"no dead letter {to_text(request_id)}")
        return _unpack(request_id, blob)

    async def replay(self, request_id: bytes) -> None:
        """Run a dead request again from the stage that died, one generation on. NotFound, NotDead."""
        with store_problems():
            blob = await self._client.get(keys.letter(request_id))
            if blob is None:
                if await self._client.exists(keys.record(request_id)):
                    raise NotDead(f"{to_text(request_id)} is not dead")
                raise NotFound(f"no dead letter {to_text(request_id)}")
            letter = _unpack(request_id, blob)
            header = letter.header._replace(generation=letter.header.generation + 1)
            output = b""
            if letter.stage is not Stage.PREPROCESS:
                entry = unpack_entry(letter.stage_input)
                output = pack_entry(entry.kind, header, entry.carry, entry.body)
            replayed = await self._scripts.replay(
                args=[
                    request_id,
                    header.ref.lane(letter.stage),
                    int(Priority(header.priority)),
                    header.timeout_ms,
                    pack_features(header, letter.features),
                    output,
                    header.key,
                ]
            )
        if not replayed:
            raise NotDead(f"{to_text(request_id)} is not dead any more")

    async def purge(self, request_ids: list[bytes]) -> int:
        """Delete letters for good; how many there were."""
        purged = 0
        with store_problems():
            for chunk in _chunks(request_ids):
                async with self._client.pipeline(transaction=True) as pipe:
                    pipe.zrem(keys.DEAD, *chunk)
                    pipe.delete(*(keys.letter(request_id) for request_id in chunk))
                    purged += (await pipe.execute())[0]
        return purged


def _chunks(ids: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(ids), keys.SCRIPT_LIMIT):
        yield ids[start : start + keys.SCRIPT_LIMIT]
