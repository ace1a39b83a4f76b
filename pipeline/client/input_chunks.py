"""Reading a caller's requests: in chunks of whatever is there, never faster than they are taken.

A source may be slow (a file, a query, another system's queue). What it has given so far goes out as soon as the store
can take it; nothing waits for a chunk to fill up.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")


class SourceFailed(Exception):
    """The caller's iterable raised ``error``, whatever that is.

    It is wrapped because a task that raises SystemExit or KeyboardInterrupt stops the event loop, and one that raises
    CancelledError looks cancelled.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


async def chunks_of(source: Iterable[Item] | AsyncIterable[Item], size: int) -> AsyncGenerator[list[Item], None]:
    """The source in chunks of at most ``size`` items; SourceFailed if it raises.

    A synchronous iterable is read in the event loop: it must not block.
    """
    chunks = _chunks_of_async(source, size) if isinstance(source, AsyncIterable) else _chunks_of_sync(source, size)
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            yield chunk


async def _chunks_of_sync(source: Iterable[Item], size: int) -> AsyncGenerator[list[Item], None]:
    items, failed, ended = iter(source), None, False
    while not ended:
        chunk: list[Item] = []
        try:
            for item in islice(items, size):
                chunk.append(item)
            ended = len(chunk) < size
        except BaseException as error:  # noqa: BLE001 - raised again where the chunks are taken
            failed, ended = SourceFailed(error), True
        if chunk:
            yield chunk
    if failed is not None:
        raise failed


async def _chunks_of_async(source: AsyncIterable[Item], size: int) -> AsyncGenerator[list[Item], None]:
    buffer = _Buffer[Item](size)

    async def read() -> None:
        try:
            async for item in source:
                buffer.add(item)
                while buffer.full:
                    await buffer.room.wait()
        except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
            buffer.end(SourceFailed(error))
        else:
            buffer.end(None)

    reader = asyncio.create_task(read())
    try:
        async for chunk in buffer.chunks():
            yield chunk
    finally:
        reader.cancel()


async def chunks_read_in_thread(source: Iterable[Item], size: int) -> AsyncGenerator[list[Item], None]:
    """The chunks of an iterable that may block: it is read in a thread of its own. SourceFailed if it raises."""
    buffer = _Buffer[Item](size)

    def read() -> None:
        error: BaseException | None = None
        try:
            for item in source:
                buffer.add(item)
                if not buffer.wait_for_room():
                    return
        except BaseException as raised:  # noqa: BLE001 - raised again in the caller's thread
            error = SourceFailed(raised)
        buffer.end(error)

    threading.Thread(target=read, name="scoring-client-source", daemon=True).start()
    try:
        async for chunk in buffer.chunks():
            yield chunk
    finally:
        buffer.leave()


class _Buffer(Generic[Item]):
    """Items on their way from a reader, in this event loop or in a thread, to a taker in this event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: list[Item] = []
        self._ended = self._left = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.room = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether the reader must wait: on ``room``, or in ``wait_for_room``."""
        return len(self._items) >= self._size

    def add(self, item: Item) -> None:
        """Add an item."""
        with self._changed:
            self._items.append(item)
            first = len(self._items) == 1
        if first:
            self._wake_taker()

    def end(self, error: BaseException | None) -> None:
        """No more items come; ``error`` is raised once those that came are taken."""
        with self._changed:
            self._ended, self._error = True, error
        self._wake_taker()

    def wait_for_room(self) -> bool:
        """Block a reading thread while the buffer is full; False if nothing is taken any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or not self.full)
            return not self._left

    def leave(self) -> None:
        """Take no more: the reader may end."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

    async def chunks(self) -> AsyncGenerator[list[Item], None]:
        """Chunk after chunk: whatever is there by then."""
        while True:
            await self._news.wait()
            self._news.clear()
            with self._changed:
                chunk, self._items = self._items, []
                ended = self._ended
                self._changed.notify_all()
            self.room.set()
            self.room.clear()
            if chunk:
                yield chunk
            if ended:
                if self._error is not None:
                    raise self._error
                return

    def _wake_taker(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits
            self._loop.call_soon_threadsafe(self._news.set)
