"""Streams: any number of requests submitted in chunks, in order, and no faster than their answers are taken.

``chunks``, here: lists of at most ``SCRIPT_LIMIT`` requests, as ``input_chunks`` makes them of a caller's iterable.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from pipeline.client.core import Answer, Core, statuses_for
from pipeline.client.input_chunks import SourceFailed
from pipeline.client.retrying import Retrying
from pipeline.client.waiting import wait_for_answers
from pipeline.contracts.envelope import ScoreRequest, ScoreRow, check_row
from pipeline.contracts.problems import Problem
from pipeline.contracts.status import Status
from pipeline.contracts.tenants import NAMELESS, Tenant
from pipeline.ledger.keys import SCRIPT_LIMIT
from pipeline.ledger.producers.submissions import Submission, submission_of
from pipeline.service.cancellation import abandon

Request = ScoreRequest | Mapping[str, Any]
"""One of many: a document as a row of ``POST /v1/scores/batch``, or one that is checked already."""
Chunks = AsyncGenerator[list[Request], None]


async def accept_chunks(core: Core, chunks: Chunks, *, tenant: Tenant = NAMELESS) -> AsyncGenerator[list[Answer], None]:
    """Submit chunk after chunk; for each, the ledger's answers in order.

    The next chunk is read, checked and packed while the one before is on its way, and sent once that is accepted: a
    stream's requests are accepted in its order. A source that has nothing yet keeps no answers back.
    """
    sending: asyncio.Task[list[Answer]] | None = None
    started: asyncio.Task[list[Answer]] | None = None
    reading = asyncio.create_task(_next(chunks))
    failure: Exception | None = None
    try:
        while True:
            await asyncio.wait({reading, sending or reading}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                assert sending is not None
                yield sending.result()
                sending = None
                continue
            try:
                chunk = reading.result()
            except Exception as error:  # noqa: BLE001 - the caller's; raised after the answers
                failure = error
                break
            if chunk is None:
                break
            reading = asyncio.create_task(_next(chunks))
            started = asyncio.create_task(_accept_chunk(core.retrying, chunk, sending, tenant))
            await asyncio.sleep(0)  # pack it before the answers to the last one are handled
            if sending is not None:
                yield await sending
            sending = started
        if sending is not None:
            yield await sending
        if failure is not None:
            raise failure
    finally:
        await abandon(reading, sending, started)
        await chunks.aclose()


async def submit_chunks(core: Core, chunks: Chunks) -> AsyncGenerator[list[Status | Problem], None]:
    """Submit chunk after chunk; for each, the statuses of its requests or the problems they were refused for."""
    async for answers in accept_chunks(core, chunks):
        yield statuses_for(answers, await core.statuses_of_known(answers))


async def score_chunks(core: Core, chunks: Chunks, *, window: int) -> AsyncGenerator[list[Status | Problem], None]:
    """Submit chunk after chunk and wait for each; at most about ``window`` requests are unfinished at once."""
    core.listen()
    accepted: asyncio.Queue[list[Answer] | None] = asyncio.Queue()
    room = asyncio.Semaphore(max(1, window // SCRIPT_LIMIT))

    async def submit() -> None:
        async with contextlib.aclosing(accept_chunks(core, chunks)) as accepting:
            async for answers in accepting:
                accepted.put_nowait(answers)
                await room.acquire()

    submitting = asyncio.create_task(submit())
    submitting.add_done_callback(lambda _: accepted.put_nowait(None))  # however it ends
    try:
        while (answers := await accepted.get()) is not None:
            yield await wait_for_answers(core, answers)
            room.release()
        await submitting
    finally:
        await abandon(submitting)


async def one_by_one(
    start: Callable[[], AsyncGenerator[list[Status | Problem], None]],
) -> AsyncIterator[Status | Problem]:
    """The answers of a stream of chunks; what the caller's source raised is raised as it was."""
    try:
        async for answers in start():
            for answer in answers:
                yield answer
    except SourceFailed as failed:
        raise failed.error from None


async def _next(chunks: AsyncIterator[list[Request]]) -> list[Request] | None:
    return await anext(chunks, None)


async def _accept_chunk(
    retrying: Retrying, requests: Sequence[Request], after: asyncio.Task[list[Answer]] | None, tenant: Tenant
) -> list[Answer]:
    answers: list[Any] = []
    submissions: list[Submission] = []
    for request in requests:
        try:
            row = request if isinstance(request, ScoreRequest) else check_row(request)
            key, no_cache = (row.idempotency_key, row.no_cache) if isinstance(row, ScoreRow) else (None, False)
            submissions.append(submission_of(row, key, tenant, no_cache=no_cache))
            answers.append(None)
        except Problem as problem:
            answers.append(problem)
    accepted = iter(await retrying.accept(submissions, after) if submissions else ())
    return [next(accepted) if answer is None else answer for answer in answers]
