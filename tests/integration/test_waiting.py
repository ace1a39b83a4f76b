"""Thousands who wait at one API process: real connections, no thread for any of them."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import psutil
import pytest

from pipeline.contracts.releases import Release
from pipeline.ledger.releases import publish
from pipeline.settings import read_settings
from pipeline.store.connection import connect_async
from tests.support.processes import api_over

WAITERS = 3000
ROWS = 1000


@pytest.fixture
def api(valkey: str) -> Iterator[tuple[str, psutil.Process]]:
    """An API over a store of its own, for which nobody works: what it accepts waits until it is cancelled."""
    url = valkey.removesuffix("/0") + "/3"

    async def publish_model() -> None:
        store = connect_async(read_settings({"SCORELINE_STORE_URL": url}))
        await publish(store, Release("m", "1", "a" * 64, "", {"properties": {}}), make_current=True)
        await store.aclose()

    asyncio.run(publish_model())
    for base, process in api_over(url):
        yield base, psutil.Process(process.pid)


async def call(http: aiohttp.ClientSession, method: str, path: str, **options: Any) -> Any:
    async with http.request(method, path, **options) as answer:
        assert answer.status in (200, 202), await answer.text()
        return await answer.json() if answer.content_type == "application/json" else await answer.text()


async def submit(http: aiohttp.ClientSession) -> list[str]:
    ids = []
    for first in range(0, WAITERS, ROWS):
        rows = [{"model": "m", "features": {"n": first + n}} for n in range(ROWS)]
        answer = await call(http, "POST", "/v1/scores/batch", json={"requests": rows})
        ids += [row["score"]["request_id"] for row in answer["results"]]
    return ids


async def all_wait(http: aiohttp.ClientSession) -> None:
    while True:
        waits = re.search(r"^scoreline_waits (\d+)", await call(http, "GET", "/metrics"), re.MULTILINE)
        assert waits
        if int(waits[1]) == WAITERS:
            return


def test_thousands_wait_without_a_thread_each_and_all_are_told(api: tuple[str, psutil.Process]) -> None:
    base, process = api

    async def run() -> None:
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(60)
        async with aiohttp.ClientSession(base, connector=connector, timeout=timeout) as http:
            ids = await submit(http)
            before = process.num_threads()
            waiting = [asyncio.create_task(call(http, "GET", f"/v1/scores/{one}?wait=30")) for one in ids]
            await all_wait(http)
            assert process.num_threads() <= before + 1
            for first in range(0, WAITERS, 100):
                await asyncio.gather(*(call(http, "DELETE", f"/v1/scores/{one}") for one in ids[first : first + 100]))
            answers = await asyncio.gather(*waiting)
            assert {answer["state"] for answer in answers} == {"cancelled"}
            assert [answer["request_id"] for answer in answers] == ids

    asyncio.run(run())
