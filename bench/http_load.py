"""HTTP load from the same cores, by a bare HTTP/1.1 client, so that its own cost counts little."""

import asyncio
import time
from collections.abc import Iterator

import httptools
import orjson


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._done: asyncio.Future[tuple[int, bytes]] | None = None
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._done is not None
        self._done.set_result((self._parser.get_status_code(), b"".join(self._body)))
        self._body = []
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionError("the server closed the connection"))

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        self._done = asyncio.get_running_loop().create_future()
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)  # type: ignore[attr-defined]
        return await self._done


async def load(port: int, path: str, bodies: Iterator[dict], connections: int) -> tuple[list[float], float]:
    """Posts every body over so many connections, each waited for; returns each latency (ms), and seconds in all."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    opened = [(await loop.create_connection(_Connection, "127.0.0.1", port))[1] for _ in range(connections)]

    async def send(connection: _Connection) -> None:
        for sent in bodies:
            began = time.perf_counter()
            status, body = await connection.post(path, orjson.dumps(sent))
            answer = orjson.loads(body)
            ends = [row["score"] for row in answer["results"]] if "results" in answer else [answer]
            if status != 200 or any(end["state"] != "succeeded" for end in ends):
                raise RuntimeError(f"HTTP {status}: {body[:300]!r}")
            latencies.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(send(connection) for connection in opened))
    seconds = time.perf_counter() - began
    for connection in opened:
        connection._transport.close()
    return latencies, seconds
