"""A network between each process and the store that can be cut, or made slow: ``python -m chaos.proxy NAME ...``.

A process of its own, with a listening port for each name. It is told on stdin, one JSON object a line:
``{"target": PORT}``, or ``{"name": NAME, "pass": bool, "delay_s": number}``. On stdout it says which ports it has, then
``done`` after each.

A cut is a cable pulled: nothing is forwarded in either direction and nothing is reset; what was sent meanwhile arrives
when the cut is over, as TCP would send it again - even from who has given up and gone. Only connecting differs from
that: it succeeds, and the first call then gets no answer.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from pipeline.service.entry_points import CloneEntryPoint, clone_environment, command

CHUNK = 1 << 16


class Way:
    """The network of one process."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.delay_s = 0.0

    def set(self, *, passing: bool, delay_s: float) -> None:
        """Cut it, or let it pass; ``delay_s`` is added to each round trip."""
        self.delay_s = delay_s
        if passing:
            self._open.set()
        else:
            self._open.clear()

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, delayed: bool) -> None:
        """Forward until the source ends. Order is kept; a delay holds nothing else back."""
        arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)
        loop = asyncio.get_running_loop()

        async def read() -> None:
            chunk = b"-"
            while chunk:
                try:
                    chunk = await source.read(CHUNK)
                except ConnectionError:
                    chunk = b""  # reset: what had come before it is delivered, once
                await arrived.put((loop.time() + (self.delay_s if delayed else 0.0), chunk))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, chunk = await arrived.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await self._open.wait()
                if not chunk:
                    break
                sink.write(chunk)
                await sink.drain()
            sink.write_eof()
        except (ConnectionError, OSError, RuntimeError):
            pass
        finally:
            reading.cancel()


class Proxy:
    """All ways to one target."""

    def __init__(self, names: Sequence[str]) -> None:
        self._ways = {name: Way() for name in names}
        self._target = 0
        self._servers: list[asyncio.Server] = []

    async def start(self) -> dict[str, int]:
        """Listen; the port of each name."""
        ports = {}
        for name, way in self._ways.items():

            async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way = way) -> None:
                await self._forward(reader, writer, way)

            server = await asyncio.start_server(connected, "127.0.0.1", 0)
            self._servers.append(server)
            ports[name] = server.sockets[0].getsockname()[1]
        return ports

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        try:
            try:
                from_store, to_store = await asyncio.open_connection("127.0.0.1", self._target)
            except OSError:
                return  # the store is down: so is this connection
            try:
                there = asyncio.create_task(way.pump(reader, to_store, delayed=False))
                back = asyncio.create_task(way.pump(from_store, writer, delayed=True))
                # Who goes first ends the connection, but what it has sent before is still delivered.
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                there.cancel()
                back.cancel()
            finally:
                to_store.close()
        finally:
            writer.close()

    def told(self, order: dict[str, Any]) -> None:
        """Do what one line of stdin says."""
        if "target" in order:
            self._target = order["target"]
        else:
            self._ways[order["name"]].set(passing=order["pass"], delay_s=order["delay_s"])


async def serve(names: Sequence[str]) -> None:
    """Serve until stdin ends."""
    proxy = Proxy(names)
    print(json.dumps(await proxy.start()), flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        proxy.told(json.loads(line))
        print("done", flush=True)


class ProxyProcess:
    """The proxy as its user sees it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command(CloneEntryPoint.CHAOS_PROXY, *names),
            env=clone_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.ports: dict[str, int] = json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def target(self, port: int) -> None:
        """Where all ways lead."""
        self._tell({"target": port})

    def cut(self, name: str) -> None:
        """Forward nothing."""
        self._tell({"name": name, "pass": False, "delay_s": 0.0})

    def slow(self, name: str, delay_s: float) -> None:
        """Add to each round trip."""
        self._tell({"name": name, "pass": True, "delay_s": delay_s})

    def mend(self, name: str) -> None:
        """Forward as if nothing had been."""
        self._tell({"name": name, "pass": True, "delay_s": 0.0})

    def _tell(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()  # it is so now


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(sys.argv[1:]))
