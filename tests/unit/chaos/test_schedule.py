"""The schedule: the seed alone decides it, every fault has its turn soon, and what hits everything runs alone."""

import asyncio
import itertools
import random

import pytest

from chaos.schedule import FAULTS, GROUPS, FaultLock, Plan


def first(seed: int, count: int = 40) -> dict[str, list[str]]:
    plan = Plan(list(FAULTS), random.Random(seed))
    return {group: list(itertools.islice(plan.of(group), count)) for group in GROUPS}


def test_the_same_seed_gives_the_same_schedule_and_another_another() -> None:
    assert first(1) == first(1)
    assert first(1) != first(2)


@pytest.mark.parametrize("seed", range(5))
def test_each_fault_has_its_turn_early_and_hits_only_what_it_can(seed: int) -> None:
    dealt = first(seed)
    early = {fault for faults in dealt.values() for fault in faults[:9]}  # eight hit scoring alone
    assert early == set(FAULTS)
    for group, faults in dealt.items():
        assert all(group in FAULTS[fault][2] for fault in faults)


def test_what_is_to_be_spread_is_dealt_to_all_groups_alike() -> None:
    plan = Plan(list(FAULTS), random.Random(3))
    dealt = {group: list(itertools.islice(plan.of(group), 60)) for group in GROUPS}
    rounds = {group: faults.count("abort-script") for group, faults in dealt.items()}
    assert set(FAULTS["abort-script"][2]) == set(GROUPS)
    assert min(rounds.values()) > 0
    alone = Plan(["abort-script"], random.Random(3))
    counted = dict.fromkeys(GROUPS, 0)
    for group in GROUPS:
        next(alone.of(group))
        counted[group] = len(alone._dealt[group]) + 1
    assert max(counted.values()) - min(counted.values()) <= 2


def test_a_group_that_no_chosen_fault_can_hit_has_none() -> None:
    plan = Plan(["kill-api"], random.Random(1))
    assert list(plan.of("store")) == []
    assert list(itertools.islice(plan.of("api"), 3)) == ["kill-api"] * 3


def test_what_hits_everything_runs_alone() -> None:
    async def run() -> list[str]:
        lock, told, begun, end = FaultLock(), [], asyncio.Event(), asyncio.Event()

        async def single(name: str) -> None:
            async with lock.shared("kill-api"):
                told.append(f"{name} begins")
                begun.set()
                await end.wait()
                told.append(f"{name} ends")

        async def alone() -> None:
            async with lock.exclusive():
                told.append("all")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(single("one"))
            await begun.wait()
            tasks.create_task(alone())
            await asyncio.sleep(0)
            tasks.create_task(single("late"))  # it waits until the other is over
            await asyncio.sleep(0)
            end.set()
        return told

    assert asyncio.run(run()) == ["one begins", "one ends", "all", "late begins", "late ends"]
