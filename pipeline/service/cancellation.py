"""Cancelling asyncio tasks until they have ended."""

import asyncio
from typing import Any

AGAIN_S = 1.0
"""How long after being cancelled a task that has not ended is cancelled again."""


async def abandon(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancels the tasks that are not done and waits until they have ended. Their errors are dropped, not logged.

    Cancelling once is not enough. Up to Python 3.11 ``asyncio.wait_for``, through which redis-py writes its commands,
    returns what it waited for if that arrived at the instant of the cancellation; the cancellation is lost, and the
    task goes on.
    """
    begun = {task for task in tasks if task is not None}
    left = {task for task in begun if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    for task in begun:
        if not task.cancelled():
            task.exception()  # reading it keeps asyncio from logging it
