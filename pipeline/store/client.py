"""redis-py's clients, without what they do around every call: pool locks, telemetry, retries, a task for each write.

Without it a `PING` in an event loop costs 54 us of CPU instead of 105, a script called in a thread 16 instead of 67: a
small batch's own work is not much more. Connecting, time limits, parsing and errors stay redis-py's, and so do
pipelines and subscriptions.

A connection outlives what its server is: after a failover the old primary goes on as a replica, and refuses every write
for as long as it is asked. So a connection whose server says such a thing is closed (``Moved``), with all others of its
client: the next call connects to the server that the address names by then.
"""

import asyncio
import os
import threading
from typing import Any
from weakref import WeakSet

import hiredis
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import NoPermissionError, RedisError, ResponseError

WITHOUT_PRIMARY = ("READONLY", "MASTERDOWN", "UNBLOCKED", "NOREPLICAS", "CLUSTERDOWN")
"""First words of errors that are about the server, not about the call: it takes no writes now. Nothing was done.

LOADING, NOAUTH and WRONGPASS are connection errors of redis-py's already, which closes the connection.
"""


class Moved(StoreConnectionError):
    """The server takes no writes: the primary may be another by now. The connection is closed."""


IN_SCRIPT = ("ACL failure in script", "The user executing the script")
"""How Valkey and Redis begin a refusal of rights within a script: it has no code of its own there."""


def _plain(error: ResponseError) -> RedisError:
    """What an error of the server means: ``Moved``, NoPermissionError, or what it was."""
    code = error.status_code or str(error).split(" ", 1)[0]
    if code in WITHOUT_PRIMARY:
        text = str(error).removeprefix(code).strip()
        return Moved(f"the server takes no writes ({code} {text}); the next call connects again")
    if str(error).startswith(IN_SCRIPT):
        return NoPermissionError(str(error), status_code="NOPERM")
    return error


class Packer:
    """Packs commands in C, and at once: redis-py's own looks at each of a script's hundreds of arguments first."""

    def pack(self, command: str | bytes, *arguments: Any) -> list[bytes]:
        """The command as it is sent."""
        # `SCRIPT LOAD` is two arguments to the server.
        return [hiredis.pack_command((*command.split(), *arguments))]


class _Following:
    """A synchronous connection that is closed when its server is not the primary any more."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # No CLIENT SETINFO: a user need not be allowed to send it.
        super().__init__(*arguments, **options | {"driver_info": None})

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """The next reply."""
        try:
            return super().read_response(*arguments, **options)  # type: ignore[misc]
        except ResponseError as error:
            plain = _plain(error)
            if isinstance(plain, Moved):
                self.disconnect()  # type: ignore[attr-defined]
            raise plain from None


class FollowingConnection(_Following, redis.Connection):
    """Over TCP."""


class FollowingTlsConnection(_Following, redis.SSLConnection):
    """Over TLS."""


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
        except NoPermissionError:  # another server, or rights that were taken away: its user may be known there
            connection.disconnect()
            raise
        except ResponseError:
            self._own.connection = connection
            raise
        except BaseException as error:  # whatever comes in between: its reply must not be taken for another call's
            connection.disconnect()
            if isinstance(error, Moved):
                self.connection_pool.disconnect(inuse_connections=False)
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
        # Not by the pool's own way, which allows a hundred in all: it counts what it made, not what is left of that.
        pool = self.connection_pool
        return pool.connection_class(**pool.connection_kwargs)

    def close(self) -> None:
        """Close this thread's connection, and those of pipelines."""
        connection, self._own.connection = getattr(self._own, "connection", None), None
        if connection is not None:
            connection.disconnect()
        self.connection_pool.close()


class _Direct:
    """An asynchronous connection that packs in C, and does not wait until what it writes has left.

    Who waits for the reply has a time limit, and nothing else is sent meanwhile. It is closed when its server is not
    the primary any more.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"driver_info": None})  # as above

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """The command as it is sent."""
        return Packer().pack(*arguments)

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Write a command, or many; connect before, if need be."""
        if not self.is_connected:  # type: ignore[attr-defined]
            await self.connect_check_health(check_health=False)  # type: ignore[attr-defined]
        if check_health:
            await self.check_health()  # type: ignore[attr-defined]
        assert self._writer is not None  # type: ignore[attr-defined]
        self._writer.writelines([command] if isinstance(command, bytes) else command)  # type: ignore[attr-defined]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """The next reply."""
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc]
        except ResponseError as error:
            plain = _plain(error)
            if isinstance(plain, Moved):
                await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise plain from None


class DirectConnection(_Direct, redis.asyncio.Connection):
    """Over TCP."""


class DirectTlsConnection(_Direct, redis.asyncio.SSLConnection):
    """Over TLS."""


class DirectAsyncClient(redis.asyncio.Redis):
    """An asynchronous client. Calls beyond ``connections`` at once wait for one, for ``patience_s`` at most."""

    def __init__(self, *, connections: int, patience_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._idle: list[Any] = []
        self._moves = 0
        self._channels: WeakSet[Any] = WeakSet()
        self._places = asyncio.Semaphore(connections)
        self._patience_s = patience_s

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Send one command and wait for its reply."""
        if self._places.locked():
            await self._wait_for_place()
        else:
            await self._places.acquire()
        try:
            moves, connection = self._moves, await self._take()
            try:
                await connection.send_command(*arguments)
                reply = await self.parse_response(connection, arguments[0], **options)
            except NoPermissionError:  # as above, also below
                await connection.disconnect(nowait=True)
                raise
            except ResponseError:
                self._idle.append(connection)
                raise
            except BaseException as error:
                await connection.disconnect(nowait=True)
                if isinstance(error, Moved):
                    await self._leave_server()
                raise
            if moves == self._moves:
                self._idle.append(connection)
            else:
                await connection.disconnect(nowait=True)
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

    def pubsub(self, **options: Any) -> Any:
        """A subscription. It is interrupted when the primary is another: nothing is published by a replica alone."""
        channel = super().pubsub(**options)
        self._channels.add(channel)
        return channel

    async def _leave_server(self) -> None:
        """Close every connection: those that only read, or listen, are never told that their server has changed."""
        self._moves += 1
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)
        await self.connection_pool.disconnect(inuse_connections=False)
        for channel in list(self._channels):
            if channel.connection is not None:
                await channel.connection.disconnect(nowait=True)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections."""
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)
        await super().aclose(close_connection_pool is not False)
