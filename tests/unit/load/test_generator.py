"""The open loop of ``scoreline load``: arrivals do not wait for answers, and what becomes of each is counted once."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from pipeline.cli.load import summary
from pipeline.contracts.status import Status
from pipeline.load.generator import LoadGenerator, Refused, Tally, Times

TIMES = {"submitted_at": "2026-01-01T00:00:00.000Z", "finished_at": "2026-01-01T00:00:00.250Z"}
QUEUED = cast(Status, {"request_id": "1", "state": "queued", "finished_at": None})
SUCCEEDED = cast(Status, {"request_id": "1", "state": "succeeded", **TIMES})


class Scripted:
    """A target whose answers a test decides."""

    def __init__(self, submit: Callable[[int], Status | Refused], end: Status | Refused) -> None:
        self._submit = submit
        self._end = end
        self.sent = 0
        self.going = asyncio.Event()
        self.going.set()

    async def submit(self, features: Mapping[str, Any]) -> Status | Refused:
        self.sent += 1
        answer = self._submit(self.sent)
        await self.going.wait()
        return answer

    async def end(self, status: Status, seconds: float) -> Status | Refused:
        return self._end


def offered(target: Scripted, rate: float, timeout_s: float = 10) -> LoadGenerator:
    return LoadGenerator(target, itertools.repeat({}), rate=rate, timeout_s=timeout_s, seed=1)


def run(target: Scripted, rate: float = 2000, seconds: float = 0.1) -> Tally:
    return asyncio.run(offered(target, rate).run(seconds))


def test_each_request_is_counted_once() -> None:
    refused = Refused("overloaded", "")
    tally = run(Scripted(lambda n: (refused, SUCCEEDED, QUEUED)[n % 3], SUCCEEDED))
    assert tally.offered == tally.accepted + tally.refused["overloaded"] > 100
    assert tally.ended == {"succeeded": tally.accepted}
    assert tally.good == tally.in_time == tally.accepted
    assert (tally.lost, tally.unfinished) == (0, 0)
    assert tally.latency.milliseconds()["max"] == 250


@pytest.mark.parametrize("slug", ["not-found", "gone"])
def test_an_accepted_request_without_a_record_is_lost(slug: str) -> None:
    tally = run(Scripted(lambda _: QUEUED, Refused(slug, "")))
    assert tally.lost == tally.accepted > 100
    assert tally.unfinished == 0


def test_an_end_after_the_deadline_is_not_good() -> None:
    target = Scripted(lambda _: SUCCEEDED, SUCCEEDED)
    tally = asyncio.run(offered(target, 2000, timeout_s=0.2).run(0.1))
    assert tally.ended["succeeded"] == tally.accepted > 100
    assert (tally.in_time, tally.good) == (0, 0)


def test_arrivals_do_not_wait_for_answers() -> None:
    async def check() -> None:
        target = Scripted(lambda _: SUCCEEDED, SUCCEEDED)
        target.going.clear()
        running = asyncio.create_task(offered(target, 2000).run(0.1))
        while target.sent < 100:
            await asyncio.sleep(0.001)
        target.going.set()
        assert (await running).accepted == target.sent

    asyncio.run(check())


def test_told_to_stop_it_waits_for_what_was_accepted_and_told_again_it_leaves() -> None:
    async def check() -> None:
        target = Scripted(lambda _: QUEUED, QUEUED)
        generator = offered(target, 2000)
        running = asyncio.create_task(generator.run(600))
        while generator.tally.accepted < 100:
            await asyncio.sleep(0.001)
        generator.stop()
        while generator.tally.accepted < generator.tally.offered:
            await asyncio.sleep(0.001)
        sent = target.sent
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not running.done()
        assert target.sent == sent
        generator.stop()
        tally = await running
        assert tally.unfinished == tally.accepted == sent

    asyncio.run(check())


def test_what_was_not_answered_is_unknown_and_no_refusal() -> None:
    answers = (Refused("store-unavailable", ""), Refused("no-answer", ""), Refused("overloaded", ""))
    tally = run(Scripted(lambda n: answers[n % 3], SUCCEEDED))
    document = summary(tally)
    assert document["refused"] == {"overloaded": tally.refused["overloaded"]}
    assert document["unknown"] == tally.offered - tally.refused["overloaded"] > 50
    assert (document["accepted"], document["p99_within_deadline"], document["goodput_per_s"]) == (0, None, 0)


def test_a_fault_of_the_generator_ends_the_run_with_it() -> None:
    def fail(_: int) -> Status:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Scripted(fail, SUCCEEDED), seconds=600)


def test_percentiles_are_right_to_a_percent() -> None:
    times = Times()
    for milliseconds in range(1, 1001):
        times.add(milliseconds / 1000)
    assert times.milliseconds() == pytest.approx({"p50": 500, "p99": 990, "max": 1000}, rel=0.011)
    assert Times().milliseconds() == {"p50": None, "p99": None, "max": None}
