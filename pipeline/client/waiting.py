"""Waiting for the ends of requests: by notification, and by reading where one may have been missed."""

import math
from collections.abc import Collection, Sequence

from pipeline.client.core import Accepted, Answer, Core, Known, has_ended, statuses_for
from pipeline.contracts.problems import Problem
from pipeline.contracts.status import Status
from pipeline.contracts.tenants import STORE, Caller
from pipeline.ledger.producers.notifications import reliance_times
from pipeline.ledger.records import tenant_of, unpack_entry
from pipeline.ledger.status_documents import status_of

LAST_READ_S = 0.5
"""By so much a last read may overrun the time that a caller waits for an end."""


async def wait_for_end(
    core: Core, request_id: bytes, until: float, *, caller: Caller = STORE, by: float | None = None
) -> Status | None:
    """The status of a request once it has ended, or as it was last read ``until`` then (the event loop's time).

    For a request that had not ended when it was last read. None if it was not read at all. ``by``: see ``Core``.
    """
    core.listen()
    rely_s = reliance_times()
    status: Status | None = None
    while (status is None or not has_ended(status)) and (left := until - core.time()) > 0:
        announced = await core.notifications.wait([request_id], min(left, next(rely_s)))
        core.notifications.forget([request_id])
        if announced and caller.sees(tenant_of(announced[request_id])):
            status = status_of(request_id, unpack_entry(announced[request_id]))
        else:
            status = await core.read(request_id, caller=caller, by=by or core.by(until + LAST_READ_S))
    return status


async def wait_for_ends(
    core: Core,
    request_ids: Collection[bytes],
    until: float,
    *,
    read_first: Collection[bytes] = (),
    caller: Caller = STORE,
) -> dict[bytes, Status | Problem]:
    """The statuses of requests by id: once all have ended, or as they are ``until`` then (the event loop's time).

    ``read_first``: those of them that may have ended long ago, so that no notification will come.
    """
    core.listen()
    found: dict[bytes, Status | Problem] = {}
    missing = set(request_ids)

    async def read(ids: Sequence[bytes]) -> None:
        by = core.by(until + LAST_READ_S)
        for request_id, status in zip(ids, await core.retrying.read(ids, by, [caller] * len(ids)), strict=True):
            found[request_id] = status
            if isinstance(status, Problem) or has_ended(status):
                missing.discard(request_id)

    if read_first:
        await read(list(read_first))
    rely_s = reliance_times()
    while missing:
        left, ids = until - core.time(), list(missing)
        if left <= 0:
            await read(ids)
            break
        for request_id, record in (await core.notifications.wait(ids, min(left, next(rely_s)))).items():
            if not caller.sees(tenant_of(record)):
                continue
            found[request_id] = status_of(request_id, unpack_entry(record))
            missing.discard(request_id)
        core.notifications.forget(ids)
        if missing:
            await read(list(missing))
    return found


async def wait_for_answers(core: Core, answers: list[Answer]) -> list[Status | Problem]:
    """Wait until every accepted request of a chunk has ended; its status or problem in the place of each answer."""
    waiting = {answer.id for answer in answers if isinstance(answer, Accepted) and not answer.end}
    known = {answer.id for answer in answers if isinstance(answer, Known)}
    return statuses_for(answers, await wait_for_ends(core, waiting | known, math.inf, read_first=known))
