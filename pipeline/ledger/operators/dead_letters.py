"""Dead letters: requests that were given up, kept whole until they are replayed, purged, too old or too many."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgpack

from pipeline.contracts.features import with_names
from pipeline.contracts.ids import parse_id, to_text
from pipeline.contracts.problems import InvalidRequest, NotDead, NotFound
from pipeline.contracts.stages import Stage, State
from pipeline.ledger import keys
from pipeline.ledger.letters import Letter, unpack_letter
from pipeline.ledger.records import (
    MEMBER_PAYLOAD,
    header_of,
    links_of,
    pack_entry,
    pack_features,
    pack_prefix,
    unpack_entry,
)
from pipeline.ledger.releases import read_releases
from pipeline.ledger.scripts import Scripts
from pipeline.store.connection import AsyncClient
from pipeline.store.errors import store_problems

_PAGE = 100


class DeadLetters:
    """Lists, replays and purges dead letters."""

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
        """Returns letters, newest first, and the cursor of the next page (None at the end)."""
        found: list[Letter] = []
        with store_problems():
            place = await self._place_after(cursor)
            while True:
                ids = await self._client.zrange(keys.DEAD, place, place + _PAGE - 1, desc=True)
                if not ids:
                    return found, None
                for offset, (request_id, letter) in enumerate(zip(ids, await self._read(ids), strict=True)):
                    if letter is None:  # expired; the sweeper has not removed it from the list yet
                        continue
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
        rank = await self._client.zrevrank(keys.DEAD, parse_id(cursor, "cursor"))
        if rank is None:
            message = "the letter at this cursor was replayed or purged meanwhile; begin again without a cursor"
            raise InvalidRequest(message, errors=[{"pointer": "/cursor", "message": message}])
        return int(rank) + 1

    async def _read(self, ids: Sequence[bytes]) -> list[Letter | None]:
        with store_problems():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.mget([keys.letter(request_id) for request_id in ids])
                pipe.zmscore(keys.DEAD, ids)
                for request_id in ids:
                    pipe.zrange(keys.letter_members(request_id), 0, -1)
                blobs, scores, *members = await pipe.execute()
        letters = [None if blob is None else msgpack.unpackb(blob, strict_map_key=False) for blob in blobs]
        await self._name_features([letter for letter in letters if letter is not None])
        return [
            unpack_letter(request_id, letter, died, score) if letter is not None and score is not None else None
            for request_id, letter, died, score in zip(ids, letters, members, scores, strict=True)
        ]

    async def _name_features(self, letters: list[dict[str, Any]]) -> None:
        """Adds feature names to inputs that are stored without them, by their model version."""
        unnamed = [letter for letter in letters if isinstance(letter["features"], list)]
        if not unnamed:
            return
        table = await read_releases(self._client)
        for letter in unnamed:
            header, values = header_of(letter["front"]), letter["features"]
            release = table.versions.get((header.model, header.version))
            names = release.feature_names if release else ()
            if len(names) != len(values):
                # Not that model's input, or the ledger has lost its releases: the letter shows what is stored.
                names = tuple(map(str, range(len(values))))
            letter["features"] = with_names(values, names)

    async def _find(self, request_id: bytes) -> Letter | None:
        """Returns the letter of this id, or the one that holds this request."""
        (letter,) = await self._read([request_id])
        if letter is None:
            with store_problems():
                blob = await self._client.get(keys.record(request_id))
            entry = unpack_entry(blob) if blob else None
            if entry is not None and entry.kind == State.DEAD and entry.links.flight:
                (letter,) = await self._read([entry.links.flight])
        return letter

    async def get(self, request_id: bytes) -> Letter:
        """Returns a letter by its id, or by that of any request that died with it; NotFound."""
        letter = await self._find(request_id)
        if letter is None:
            raise NotFound(f"no dead letter {to_text(request_id)}")
        return letter

    async def replay(self, request_id: bytes) -> None:
        """Runs a letter's requests again from the stage that died, in the next generation. NotFound, NotDead."""
        letter = await self._find(request_id)
        with store_problems():
            if letter is None:
                if await self._client.exists(keys.record(request_id)):
                    raise NotDead(f"{to_text(request_id)} is not dead")
                raise NotFound(f"no dead letter {to_text(request_id)}")
            replayed = 0
            for chunk in _chunks(list(letter.died)):
                waiting, waited = await self._scripts.replay(args=await self._replay_arguments(letter, chunk))
                if waiting < 0:
                    raise NotDead(f"{to_text(request_id)} is not dead any more, or was not for all until this moment")
                replayed += waiting + waited
        if not replayed:
            raise NotDead(f"no request that died with {to_text(request_id)} is left to answer")

    async def _replay_arguments(self, letter: Letter, died: list[bytes]) -> list[Any]:
        prefix = _next_generation(letter.prefix, flight=b"")
        record, output = prefix + pack_features(letter.features), b""
        if letter.stage is not Stage.PREPROCESS:
            before = unpack_entry(letter.stage_input)
            output = pack_entry(before.kind, prefix, before.progress, before.body)
        several = letter.died != (letter.id,)
        scoring = letter.header.ref.lane(Stage.SCORING)
        arguments: list[Any] = [letter.id, letter.died_at, str(letter.stage), scoring, record, output, int(several)]
        blobs = await self._client.mget([keys.record(member) for member in died])
        for member, blob in zip(died, blobs, strict=True):
            entry = unpack_entry(blob) if blob else None
            if entry is not None and entry.kind != State.DEAD:
                arguments += member, 0, 0, b""  # replayed already
            elif member == letter.id:
                arguments += member, letter.header.priority, letter.header.timeout_ms, record
            elif entry is not None:
                own = _next_generation(entry.prefix, flight=letter.id) + MEMBER_PAYLOAD
                arguments += member, entry.header.priority, entry.header.timeout_ms, own
            else:
                arguments += member, 0, 0, b""  # its result has expired, and its record with it
        return arguments

    async def purge(self, request_ids: list[bytes]) -> int:
        """Deletes letters for good; returns how many there were."""
        purged = 0
        with store_problems():
            for chunk in _chunks(request_ids):
                async with self._client.pipeline(transaction=True) as pipe:
                    pipe.delete(*map(keys.letter, chunk), *map(keys.letter_members, chunk))
                    pipe.zrem(keys.DEAD, *chunk)
                    purged += (await pipe.execute())[1]
        return purged


def _next_generation(prefix: bytes, *, flight: bytes) -> bytes:
    """Returns the prefix of a replayed request. It has no cache key: no request joins one that has failed before."""
    header = header_of(prefix)
    return pack_prefix(
        header._replace(generation=header.generation + 1), links_of(prefix)._replace(flight=flight, cache_key=b"")
    )


def _chunks(ids: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(ids), keys.SCRIPT_LIMIT):
        yield ids[start : start + keys.SCRIPT_LIMIT]
