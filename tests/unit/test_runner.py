"""The runner: how long it stays, what it claims next, and when it leaves."""

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline import runner
from pipeline.contracts.failures import SoftLimit
from pipeline.contracts.lanes import Lane, ModelRef, parse_lane
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Carry, Header, Output, Work
from pipeline.ledger.claiming import Batch
from pipeline.settings import read_settings

REF = ModelRef("m", "1", "a" * 64)
LANE = parse_lane(REF.lane(Stage.PREPROCESS))
HEADER = Header("m", "1", bytes(32), "", 1, 60_000, 0, True)


class Clock:
    """Time that only the stage's work takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(runner.time, "monotonic", lambda: self.now)


class Ledger:
    """Claims that never run out; remembers what the runner asked for."""

    def __init__(self) -> None:
        self.claim_next: list[int] = []
        self.lingered = 0
        self.lingers = False

    def claim(self, lane: Lane, limit: int, *, answers_bell: bool) -> Batch:
        self.limit = limit
        works = [Work(bytes(16), 0, HEADER, Carry(0), {}, b"")]
        return Batch(lane, "1:1", "w", 0, 0.0, works)

    def settle(self, batch: Batch, outcomes: Sequence[Any], *, claim_next: int, model_runs: int) -> Batch | None:
        self.claim_next.append(claim_next)
        return self.claim(batch.lane, claim_next, answers_bell=False) if claim_next else None

    def begin(self, batch: Batch) -> None:
        pass

    def linger(self, lane: Lane, limit: int, seconds: float) -> Batch | Lane | None:
        self.lingered += 1
        return None


class Service:
    """Takes ``seconds`` for every batch."""

    stage = Stage.PREPROCESS

    def __init__(self, clock: Clock, seconds: float, limit: int = 64, error: Exception | None = None) -> None:
        self.clock, self.seconds, self.limit, self.error = clock, seconds, limit, error

    def batch_limit(self, model: ModelRef) -> int:
        return self.limit

    def perform(self, model: ModelRef, bodies: Sequence[Any]) -> Sequence[Output]:
        self.clock.now += self.seconds
        if self.error:
            raise self.error
        return [Output(b"") for _ in bodies]


def serve(service: Service) -> tuple[Ledger, runner.Served]:
    ledger = Ledger()
    settings = read_settings({"SCORELINE_STAY_S": "0.5", "SCORELINE_JOB_S": "2"})
    return ledger, runner.Runner(service, ledger, None, settings).serve(LANE)  # type: ignore[arg-type]


def test_a_busy_lane_is_left_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, served = serve(Service(Clock(monkeypatch), 0.2))
    assert (served.batches, ledger.claim_next, ledger.lingered) == (3, [64, 64, 0], 0)


def test_the_steps_at_which_tests_kill_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    service = Service(Clock(monkeypatch), 40)
    runner.Runner(service, Ledger(), None, read_settings({}), steps.append).serve(LANE)  # type: ignore[arg-type]
    assert steps == ["after-claim", "after-settle", "before-ack"]


def test_after_a_long_batch_no_other_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, served = serve(Service(Clock(monkeypatch), 40))
    assert (served.batches, ledger.claim_next, ledger.lingered) == (1, [0], 0)


def test_after_an_interrupted_batch_the_job_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, served = serve(Service(Clock(monkeypatch), 0.0, error=SoftLimit("too long")))
    assert (served.batches, ledger.claim_next, ledger.lingered) == (1, [0], 0)


@pytest.mark.parametrize(("asked", "claimed"), [(-1, 1), (0, 1), (1, 1), (128, 128), (5000, 128)])
def test_a_batch_is_never_larger_than_a_script_may_touch(
    monkeypatch: pytest.MonkeyPatch, asked: int, claimed: int
) -> None:
    ledger, _ = serve(Service(Clock(monkeypatch), 40, limit=asked))
    assert ledger.limit == claimed
