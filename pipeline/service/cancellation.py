"""Abandoning tasks: cancelling them until they have ended."""

import asyncio
from typing import Any

AGAIN_S = 1.0
"""A task that has not ended so long after being cancelled is cancelled again."""


async def abandon(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel what is not done, wait for its end, and see to it that nobody is told of errors that nobody waits for.

    Once is not enough. Up to Python 3.11 ``asyncio.wait_for``, through which redis-py writes its commands, returns
    what it waited for if that came at the instant of the cancellation, which is lost: its task goes on.
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
