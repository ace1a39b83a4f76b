"""What the driver says of a GPU, and what follows from it: healthy, suspect, sick."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import pytest

from pipeline.testing.stub_nvml import StubNvml
from pipeline.worker.devices.health import CANARY_LIMIT_S, Canary, Health, State
from pipeline.worker.devices.nvml import Gpu, GpuLost, NoDriver, Reading, Remapped, find

WHOLE = {
    "name": "Stub 80GB", "uuid": "GPU-1", "memory": [8 << 30, 80 << 30], "utilisation": 40, "temperature": 51,
    "throttle": 0, "ecc": 2, "remapped": [1, 0, 0, 0], "recovery_action": 0, "xids": [],
}  # fmt: skip
Say = Callable[..., None]


@pytest.fixture
def say(tmp_path: Path) -> Iterator[Say]:
    """Have the driver say something of one GPU after the other."""
    file = tmp_path / "nvml.json"
    before = pynvml.nvmlLib
    StubNvml(file).install()

    def write(*gpus: dict[str, Any]) -> None:
        file.write_text(json.dumps({"gpus": gpus}))

    yield write
    pynvml.nvmlLib = before
    pynvml._nvmlGetFunctionPointer_cache.clear()


def test_without_a_driver_that_is_said() -> None:
    with pytest.raises(NoDriver, match="no NVIDIA driver"):
        find()


def test_all_gpus_are_found(say: Say) -> None:
    say(WHOLE, WHOLE | {"uuid": "GPU-2"})
    assert [(gpu.index, gpu.uuid, gpu.name) for gpu in find()] == [(0, "GPU-1", "Stub 80GB"), (1, "GPU-2", "Stub 80GB")]


def test_a_reading_has_all_that_the_driver_knows(say: Say) -> None:
    say(WHOLE | {"throttle": 4 | 64, "recovery_action": 4, "xids": [79, 13]})
    gpu = Gpu(0)
    assert gpu.read() == Reading(
        memory_used=8 << 30, memory_total=80 << 30, utilisation=40, temperature=51,
        throttled=("power cap", "thermal, by hardware"), ecc_errors=2, remapped=Remapped(1, 0, False, False),
        recovery_action="drain and reset", xids=(79, 13),
    )  # fmt: skip
    assert gpu.read().xids == (), "each is told once"


def test_what_a_device_does_not_support_is_left_out(say: Say) -> None:
    say({})
    assert Gpu(0).read() == Reading()


def test_a_device_that_has_gone_says_so(say: Say) -> None:
    say(WHOLE)
    gpu = Gpu(0)
    say(WHOLE | {"lost": True})
    with pytest.raises(GpuLost):
        gpu.read()
    with pytest.raises(GpuLost):
        Gpu(3)


FINE = Reading(recovery_action="none", ecc_errors=0, remapped=Remapped(0, 0, False, False))


@pytest.mark.parametrize(
    ("seen", "state", "reason"),
    [
        (FINE, State.HEALTHY, ""),
        (Reading(), State.HEALTHY, ""),
        (None, State.HEALTHY, ""),
        (replace(FINE, xids=(13, 31, 43)), State.HEALTHY, ""),
        (replace(FINE, throttled=("power cap",)), State.HEALTHY, ""),
        (replace(FINE, xids=(79,)), State.SICK, "Xid 79"),
        (replace(FINE, xids=(94,)), State.SUSPECT, "Xid 94"),
        (replace(FINE, recovery_action="drain and reset"), State.SICK, "to do: drain and reset"),
        (replace(FINE, recovery_action="drain peer-to-peer traffic"), State.SUSPECT, "to do: drain"),
        (replace(FINE, remapped=Remapped(0, 9, True, False)), State.SUSPECT, "next reset"),
        (replace(FINE, remapped=Remapped(0, 9, True, True)), State.SICK, "no spare rows"),
        (replace(FINE, throttled=("thermal, by hardware",)), State.SUSPECT, "slowed down"),
    ],
)
def test_the_verdict_follows_from_what_is_seen(seen: Reading | None, state: State, reason: str) -> None:
    verdict = Health().judge(seen, Canary(0.001), 0.0)
    assert verdict.state is state
    assert reason in "; ".join(verdict.reasons)
    assert bool(verdict.reasons) == bool(reason)


def test_an_error_of_the_driver_is_remembered() -> None:
    health = Health()
    health.judge(replace(FINE, xids=(79,)), Canary(), 0.0)
    assert health.judge(FINE, Canary(), 1.0).state is State.SICK


def test_memory_errors_count_from_when_it_was_first_looked_at() -> None:
    health = Health()
    assert health.judge(replace(FINE, ecc_errors=5), Canary(), 0.0).state is State.HEALTHY
    assert health.judge(replace(FINE, ecc_errors=5), Canary(), 1.0).state is State.HEALTHY
    assert health.judge(replace(FINE, ecc_errors=6), Canary(), 2.0).state is State.SICK


@pytest.mark.parametrize(
    ("canary", "state"),
    [
        (Canary(0.5), State.HEALTHY),
        (Canary(None, CANARY_LIMIT_S - 1), State.HEALTHY),
        (Canary(0.001, CANARY_LIMIT_S + 1), State.SICK),
        (Canary(0.001, wrong=True), State.SICK),
    ],
)
def test_the_canary_knows_its_answer_and_how_long_it_takes(canary: Canary, state: State) -> None:
    assert Health().judge(FINE, canary, 0.0).state is state


def test_three_deaths_in_a_minute_with_nothing_settled_make_it_suspect() -> None:
    health = Health()
    for now in (0.0, 20.0):
        health.child_died(now)
    assert health.judge(FINE, Canary(), 20.0).state is State.HEALTHY
    health.child_died(59.0)
    assert health.judge(FINE, Canary(), 59.0).state is State.SUSPECT
    assert health.judge(FINE, Canary(), 61.0).state is State.HEALTHY, "and it passes"
    health.child_died(61.0)
    health.settled()
    health.child_died(62.0)
    assert health.judge(FINE, Canary(), 62.0).state is State.HEALTHY


def test_a_device_that_cannot_be_read_is_sick() -> None:
    assert Health().judge(None, Canary(), 0.0, lost="GPU is lost").reasons == ("GPU is lost",)
