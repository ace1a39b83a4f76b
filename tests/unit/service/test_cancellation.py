"""Abandoned tasks end, whatever becomes of their first cancellation."""

import asyncio

from pipeline.service.cancellation import abandon


def test_a_task_that_loses_its_first_cancellation_ends_all_the_same() -> None:
    # As asyncio.wait_for does in Python 3.11 when what it waits for is done as the cancellation arrives.
    async def run() -> bool:
        async def loses_the_first() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.Event().wait()

        task = asyncio.create_task(loses_the_first())
        await asyncio.sleep(0)
        await asyncio.wait_for(abandon(task, None), 30)
        return task.cancelled()

    assert asyncio.run(run())


def test_errors_of_abandoned_tasks_are_nobodys() -> None:
    told: list[object] = []

    async def run() -> None:
        async def fails() -> None:
            raise ValueError

        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        failed = asyncio.create_task(fails())
        await asyncio.wait([failed])
        await abandon(failed)
        del failed

    asyncio.run(run())
    assert not told
