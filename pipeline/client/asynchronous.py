"""The asynchronous client: submit, read and wait, with round trips shared by all tasks of the event loop."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from pipeline.client.gathering import Gathering
from pipeline.contracts.envelope import DEFAULT_TIMEOUT_S, PriorityName, ScoreRequest, check_envelope
from pipeline.contracts.ids import from_text
from pipeline.contracts.problems import InvalidRequest, Problem
from pipeline.contracts.stages import ENDS, Priority
from pipeline.contracts.status import Status
from pipeline.ledger import keys
from pipeline.ledger.connection import connect_async
from pipeline.ledger.producing import Accepted, Endings, Producing, Submission
from pipeline.ledger.releases import ReleaseTable
from pipeline.settings import Settings, read_settings

Request = ScoreRequest | Mapping[str, Any]
READ_LIMIT = 512


def has_ended(status: Status) -> bool:
    """Whether the status is an end: it will not change any more, except by a replay."""
    return status["state"] in ENDS


class AsyncScoringClient:
    """Speaks to the store directly. One client serves any number of tasks of one event loop.

    Every method raises a ``Problem`` (``pipeline.contracts.problems``); StoreUnavailable when the store does not
    answer: what was sent then may or may not have been accepted.
    """

    def __init__(self, store_url: str | None = None, *, settings: Settings | None = None) -> None:
        settings = settings or read_settings()
        if store_url is not None:
            settings = settings.model_copy(update={"store_url": store_url})
        self.store = connect_async(settings)
        # The channel of endings is one blocking read: it has a connection of its own, without a time limit.
        self._listening = connect_async(settings.model_copy(update={"store_timeout_s": 3600}))
        self._producing = Producing(self.store, settings)
        self._endings = Endings(self._listening)
        self._accept: Gathering[Submission, Accepted] = Gathering(self._producing.accept, keys.SCRIPT_LIMIT)
        self._read: Gathering[bytes, Status] = Gathering(self._producing.read, READ_LIMIT)
        self._listens = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._endings.stop()
        await self.store.aclose()
        await self._listening.aclose()

    async def submit(
        self,
        model: str,
        features: Mapping[str, Any],
        *,
        priority: PriorityName = "normal",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        allow_degraded: bool = True,
    ) -> Status:
        """Hand in one request; its status once it is accepted. Poll for the answer by its ``request_id``."""
        return await self.submit_request(
            {
                "model": model,
                "features": features,
                "priority": priority,
                "timeout_s": timeout_s,
                "allow_degraded": allow_degraded,
            }
        )

    async def submit_request(self, request: Request) -> Status:
        """The same for a request as a document or a ScoreRequest."""
        return (await self._accept(_submission(request))).status()

    async def submit_many(
        self, requests: Iterable[Request] | AsyncIterable[Request], *, chunk: int = keys.SCRIPT_LIMIT
    ) -> AsyncIterator[Status | Problem]:
        """Hand in any number of requests; for each, in order, its status or the problem it was refused for.

        Streams: at most two chunks are held at a time, and the iterable is read no faster than the store accepts.
        """
        async for answers in self.submit_chunks(requests, chunk=chunk):
            for answer in answers:
                yield answer

    async def submit_chunks(
        self, requests: Iterable[Request] | AsyncIterable[Request], *, chunk: int = keys.SCRIPT_LIMIT
    ) -> AsyncGenerator[list[Status | Problem], None]:
        """As ``submit_many``, a chunk of answers at a time."""
        async for answers in self._accept_chunks(requests, chunk):
            yield [answer.status() if isinstance(answer, Accepted) else answer for answer in answers]

    async def _accept_chunks(
        self, requests: Iterable[Request] | AsyncIterable[Request], chunk: int
    ) -> AsyncGenerator[list[Accepted | Problem], None]:
        # The next chunk is read, checked and packed while the one before is in flight, and sent once that is accepted:
        # a stream's requests are accepted in its order.
        under_way: asyncio.Task[list[Accepted | Problem]] | None = None
        started: asyncio.Task[list[Accepted | Problem]] | None = None
        try:
            async for part in _parts(requests, min(chunk, keys.SCRIPT_LIMIT)):
                started = asyncio.create_task(self._submit_chunk(part, under_way))
                await asyncio.sleep(0)  # pack it before the answers to the last one are handled
                if under_way is not None:
                    yield await under_way
                under_way = started
            if under_way is not None:
                yield await under_way
        finally:
            for task in (under_way, started):
                if task is not None:
                    task.cancel()

    async def _submit_chunk(
        self, requests: Sequence[Request], after: asyncio.Task[list[Accepted | Problem]] | None
    ) -> list[Accepted | Problem]:
        answers: list[Any] = []
        submissions: list[Submission] = []
        for request in requests:
            try:
                submissions.append(_submission(request))
                answers.append(None)
            except Problem as problem:
                answers.append(problem)
        accepted = iter(await self._producing.accept(submissions, after) if submissions else ())
        return [next(accepted) if answer is None else answer for answer in answers]

    async def score_many(
        self, requests: Iterable[Request] | AsyncIterable[Request], *, window: int = 8192
    ) -> AsyncIterator[Status | Problem]:
        """Hand in any number of requests and wait for each end; in order. At most ``window`` are unfinished at once."""
        async for answers in self.score_chunks(requests, window=window):
            for answer in answers:
                yield answer

    async def score_chunks(
        self, requests: Iterable[Request] | AsyncIterable[Request], *, window: int = 8192
    ) -> AsyncGenerator[list[Status | Problem], None]:
        """As ``score_many``, a chunk of answers at a time."""
        await self._listen()
        pending: deque[list[Accepted | Problem]] = deque()
        held = 0
        async for answers in self._accept_chunks(requests, keys.SCRIPT_LIMIT):
            pending.append(answers)
            held += len(answers)
            while held > window:
                oldest = pending.popleft()
                held -= len(oldest)
                yield await self._finish(oldest)
        while pending:
            yield await self._finish(pending.popleft())

    async def _finish(self, answers: list[Accepted | Problem]) -> list[Status | Problem]:
        """Wait until every accepted request of a chunk has ended; their ends in the places of their answers."""
        ends: list[Any] = list(answers)
        places = {answer.id: place for place, answer in enumerate(answers) if isinstance(answer, Accepted)}
        while places:
            ids = list(places)
            await self._endings.wait(ids, self._endings.LOOK_S)
            self._endings.forget(ids)
            for request_id, status in zip(ids, await self._producing.read(ids), strict=True):
                if isinstance(status, Problem) or has_ended(status):
                    ends[places.pop(request_id)] = status
        return ends

    async def get(self, request_id: str) -> Status:
        """How a request stands; NotFound, Gone, InvalidRequest (malformed id)."""
        return await self._read(_id(request_id))

    async def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """How many requests stand, in order; NotFound or Gone in the place of those without a record."""
        ids = [_id(request_id) for request_id in request_ids]
        answers: list[Status | Problem] = []
        for start in range(0, len(ids), READ_LIMIT):
            answers += await self._producing.read(ids[start : start + READ_LIMIT])
        return answers

    async def wait(self, request_id: str, timeout_s: float = 30.0) -> Status:
        """The status once the request has ended, or as it stands when ``timeout_s`` have passed."""
        await self._listen()
        status = await self.get(request_id)
        return status if has_ended(status) else await self.wait_on(status, timeout_s)

    async def wait_on(self, status: Status, timeout_s: float) -> Status:
        """The same for a request whose unfinished status was just read or returned by ``submit``."""
        await self._listen()
        request_id = from_text(status["request_id"])
        until = time.monotonic() + timeout_s
        while not has_ended(status) and (left := until - time.monotonic()) > 0:
            await self._endings.wait([request_id], left)
            self._endings.forget([request_id])
            status = await self._read(request_id)
        return status

    async def score(
        self, model: str, features: Mapping[str, Any], *, timeout_s: float = 30.0, priority: PriorityName = "normal"
    ) -> Status:
        """Submit and wait: the end of the request, within its timeout."""
        await self._listen()
        status = await self.submit(model, features, timeout_s=timeout_s, priority=priority)
        # The sweeper ends what runs out of time: a little later than the deadline at most.
        return await self.wait_on(status, timeout_s + 5)

    async def releases(self, *, fresh: bool = True) -> ReleaseTable:
        """Which models and versions can be asked for."""
        return await self._producing.releases(fresh=fresh)

    async def _listen(self) -> None:
        if not self._listens:
            await self._endings.start()
            self._listens = True


def _submission(request: Request) -> Submission:
    checked = request if isinstance(request, ScoreRequest) else check_envelope(request)
    return Submission(
        checked.model,
        checked.features,
        Priority.of(checked.priority),
        round(checked.timeout_s * 1000),
        checked.allow_degraded,
    )


def _id(text: str) -> bytes:
    try:
        return from_text(text)
    except ValueError as error:
        raise InvalidRequest(str(error), errors=[{"pointer": "/request_id", "message": str(error)}]) from None


async def _parts(requests: Iterable[Request] | AsyncIterable[Request], size: int) -> AsyncIterator[list[Request]]:
    part: list[Request] = []
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            part.append(request)
            if len(part) == size:
                yield part
                part = []
    else:
        for request in requests:
            part.append(request)
            if len(part) == size:
                yield part
                part = []
    if part:
        yield part
