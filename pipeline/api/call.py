"""Calls: the caller, the time in which to answer, and what was sent; parsed once for each HTTP call.

Every handler begins by parsing a ``Call``. The two hot routes are answered before any middleware (``app.HotPath``), so
this is the one place for what concerns every call: its key and tenant, its limits, its time.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from fastapi import Request

from pipeline.api.access import Access
from pipeline.api.bodies import read_json
from pipeline.breakers.calls import Breakers
from pipeline.client.core import Core
from pipeline.contracts.envelope import check_key
from pipeline.contracts.problems import InvalidRequest, StoreUnavailable
from pipeline.contracts.tenants import NAMELESS, Caller, Role
from pipeline.ledger.operators.dead_letters import DeadLetters
from pipeline.settings import Settings

Given = TypeVar("Given")
ANSWER_SHARE = 0.7
"""The share of ``store_timeout_s`` in which an HTTP call is answered once it was read: it may have waited in the socket
before, and the answer has to come within ``store_timeout_s`` all the same."""
OPEN = Caller(NAMELESS, Role.PRODUCER)
"""The caller of a route that needs no key."""


@dataclass(slots=True)
class Api:
    """What all calls of one API process share."""

    settings: Settings
    access: Access
    breakers: Breakers
    core: Core
    letters: DeadLetters
    waits: int = 0
    """How many calls wait for an end at this moment; at most ``max_waits`` may."""


@dataclass(slots=True)
class Call:
    """One HTTP call, parsed. Fields that its route does not take keep their defaults."""

    api: Api
    caller: Caller
    until: float
    """When it must be answered (the event loop's seconds), beyond what it asks to wait."""
    wait_s: float = 0.0
    """For how long it waits for an end."""
    key: str | None = None
    """Its idempotency key."""
    no_cache: bool = False
    """Whether to compute the answer again."""
    body: Any = None
    """Its JSON body."""

    @classmethod
    def of_open_route(cls, request: Request) -> Self:
        """A call of an open route."""
        api: Api = request.app.state.api
        return cls(api, OPEN, _answer_by(api.settings))

    @classmethod
    def by_operator(cls, request: Request) -> Self:
        """A call of an operators' route; Unauthorized, Forbidden."""
        api: Api = request.app.state.api
        return cls(api, api.access.operator(request), _answer_by(api.settings))

    @classmethod
    def by_producer(cls, request: Request, *, waits: bool = False) -> Self:
        """A call of a producers' route; Unauthorized. ``waits``: it may wait for an end; InvalidRequest."""
        api: Api = request.app.state.api
        caller = api.access.caller(request)
        return cls(api, caller, _answer_by(api.settings), _wait_seconds(request) if waits else 0.0)

    @classmethod
    async def with_body(cls, request: Request, *, keyed: bool = False) -> Self:
        """A call by a producer that submits; Unauthorized, InvalidRequest, BodyTooLarge, MalformedJson.

        ``keyed``: an idempotency key may come in its headers.
        """
        api: Api = request.app.state.api
        caller, wait_s = api.access.caller(request), _wait_seconds(request)
        key = _idempotency_key(request) if keyed else None
        body = await read_json(request, api.settings.max_body_bytes)
        return cls(api, caller, _answer_by(api.settings), wait_s, key, _no_cache(request), body)

    async def in_time(self, work: Awaitable[Given], *, and_wait: bool = False) -> Given:
        """The result of ``work``; StoreUnavailable if it is not there in time. Hot calls pass ``by``: cheaper.

        ``and_wait``: it may also take the time for which the call waits for an end.
        """
        try:
            async with asyncio.timeout_at(self.until + (self.wait_s if and_wait else 0)):
                return await work
        except TimeoutError:
            raise StoreUnavailable("the store did not answer in time") from None

    def may_wait(self) -> bool:
        """Whether it asks to wait for an end, and fewer than ``max_waits`` calls wait."""
        return self.wait_s > 0 and self.api.waits < self.api.settings.max_waits

    async def waited(self, work: Awaitable[Given]) -> Given:
        """The result of ``work``, with the call counted among those that wait."""
        self.api.waits += 1
        try:
            return await work
        finally:
            self.api.waits -= 1


def _answer_by(settings: Settings) -> float:
    return asyncio.get_running_loop().time() + ANSWER_SHARE * settings.store_timeout_s


def _idempotency_key(request: Request) -> str | None:
    """The header ``Idempotency-Key``; None without, InvalidRequest if it cannot be one."""
    key = request.headers.get("idempotency-key")
    try:
        return None if key is None else check_key(key)
    except InvalidRequest as wrong:
        message = "allowed: 1 to 255 visible ASCII characters"
        errors = [{"pointer": "/Idempotency-Key", "message": message}]
        raise InvalidRequest(f"the header Idempotency-Key is not valid; {message}", errors=errors) from wrong


def _no_cache(request: Request) -> bool:
    """Whether the header ``Cache-Control`` says ``no-cache``: compute the answer again."""
    directives = request.headers.get("cache-control", "").lower().split(",")
    return "no-cache" in map(str.strip, directives)


def _wait_seconds(request: Request) -> float:
    """The ``wait`` of the query, 0 to 30 seconds; InvalidRequest."""
    text = None
    for field in request.scope["query_string"].split(b"&"):  # a number needs no escapes, and their parser much CPU
        name, _, value = field.partition(b"=")
        if name == b"wait":
            text = value.decode("latin-1")
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 30:
        message = f"wait was {text[:40]!r}; allowed: a number of seconds from 0 to 30"
        raise InvalidRequest(message, errors=[{"pointer": "/wait", "message": message}])
    return seconds
