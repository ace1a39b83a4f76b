"""redis-py's clients, without what they do around every call: pool locks, telemetry, retries, a task for each write.

Without it a `PING` in an event loop costs 54 us of CPU instead of 105, a script called in a thread 16 instead of 67: a
small batch's own work is not much more. Connecting, time limits, parsing and errors stay redis-py's, and so do
pipelines and subscriptions.
"""

import asyncio
import os
import threading
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import RedisError, ResponseError


class Packer:
    """Packs commands in C, and at once: redis-py's own looks at each of a script's hundreds of arguments first."""

    def pack(self, command: str | bytes, *arguments: Any) -> list[bytes]:
        """The command as it is sent."""
        # `SCRIPT LOAD` is two arguments to the server.
        return [hiredis.pack_command((*command.split(), *arguments))]


class DirectClient(redis.Redis):
    """A synchronous client with one connection for each thread."""

    def __init__(self, **options: Any) -> None:
        self._own = threading.local()
        super().__init__(**options)

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Send one command and wait for its reply."""
        connection = self._take()
        try:
            connection.send_command(*arguments)
            reply = self.parse_response(connection, arguments[0], **options)
        except ResponseError:
            self._own.connection = connection
            raise
        except BaseException:  # whatever comes in between: its reply must not be taken for another call's
            connection.disconnect()
            raise
        self._own.connection = connection
        return reply

    def _take(self) -> Any:
        """This thread's connection; another one where it has none, is a fork, or was left by the server meanwhile."""
        connection, self._own.connection = getattr(self._own, "connection", None), None
        if connection is not None and connection.pid == os.getpid():
            try:
                if not connection.can_read():
                    return connection
            except (RedisError, OSError):
                pass
            connection.disconnect()
        return self.connection_pool.make_connection()

    def close(self) -> None:
        """Close this thread's connection, and those of pipelines."""
        connection, self._own.connection = getattr(self._own, "connection", None), None
        if connection is not None:
            connection.disconnect()
        self.connection_pool.close()


class DirectConnection(redis.asyncio.Connection):
    """An asynchronous connection that packs in C, and does not wait until what it writes has left.

    Who waits for the reply has a time limit, and nothing else is sent meanwhile.
    """

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """The command as it is sent."""
        return Packer().pack(*arguments)

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Write a command, or many; connect before, if need be."""
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()
        assert self._writer is not None
        self._writer.writelines([command] if isinstance(command, bytes) else command)


class DirectAsyncClient(redis.asyncio.Redis):
    """An asynchronous client. Calls beyond ``connections`` at once wait for one, for ``patience_s`` at most."""

    def __init__(self, *, connections: int, patience_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._idle: list[Any] = []
        self._places = asyncio.Semaphore(connections)
        self._patience_s = patience_s

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Send one command and wait for its reply."""
        if self._places.locked():
            await self._wait_for_place()
        else:
            await self._places.acquire()
        try:
            connection = await self._take()
            try:
                await connection.send_command(*arguments)
                reply = await self.parse_response(connection, arguments[0], **options)
            except ResponseError:
                self._idle.append(connection)
                raise
            except BaseException:  # as above
                await connection.disconnect(nowait=True)
                raise
            self._idle.append(connection)
            return reply
        finally:
            self._places.release()

    async def _wait_for_place(self) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise StoreConnectionError(f"no connection was free for {self._patience_s:g} s") from None

    async def _take(self) -> Any:
        """A connection: one that was used before, unless the server has left it meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            try:
                if not await connection.can_read():
                    return connection
            except (RedisError, OSError):
                pass
            await connection.disconnect(nowait=True)
        return self.connection_pool.make_connection()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections."""
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)
        await super().aclose(close_connection_pool is not False)
