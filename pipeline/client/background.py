"""An event loop in a thread of its own, for calls from other threads."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pipeline.service.cancellation import abandon

Result = TypeVar("Result")


class Background:
    """Runs coroutines until ``leave``; then ``finish``, after which no task of the loop lives on.

    The owner makes sure that nothing is started after ``leave``: a caller that waited for it would wait for ever.
    """

    def __init__(self, finish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._finish = finish
        self._left = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="scoring-client", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._loop.close()
            raise

    def start(self, call: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        """Run a coroutine; from any thread."""
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def is_current_thread(self) -> bool:
        """Whether this is the loop's own thread, which must not wait for itself."""
        return threading.get_ident() == self._thread.ident

    def leave(self) -> None:
        """Have it end; from any thread, any number of times."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._left.set)

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def leave_to_parent(self) -> None:
        """In a forked process: keep the collector from unregistering what the kernel watches for the parent's loop."""
        self._loop.is_closed = lambda: True  # type: ignore[method-assign]

    def _live(self) -> None:
        life = self._loop.create_task(self._until_left())
        try:
            while not life.done():
                # Tasks that raise these stop the loop. Their callers get them from the future.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    self._loop.run_until_complete(life)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _until_left(self) -> None:
        await self._left.wait()
        try:
            await self._finish()
        finally:
            await abandon(*asyncio.all_tasks() - {asyncio.current_task()})
