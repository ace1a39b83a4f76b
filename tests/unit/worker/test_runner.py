"""The runner and its batches: how long a worker stays, what it claims next, what overlaps, and when it leaves."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.contracts.failures import ArtifactCorrupt, CudaFault, SoftLimit
from pipeline.contracts.lanes import Lane, ModelRef, parse_lane
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Completed, Ended, Header, Output, Progress, RetryLater, Work
from pipeline.ledger.workers.batch import Batch
from pipeline.settings import read_settings
from pipeline.worker import runner
from pipeline.worker.batches import Served, Unfit

REF = ModelRef("m", "1", "a" * 64)
LANE = parse_lane(REF.lane(Stage.PREPROCESS))
HEADER = Header("m", "1", bytes(32), "", 1, 60_000, 0, True)


class Clock:
    """Time that only the stage's work takes."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Ledger:
    """Claims that never run out, or hold ``left`` batches; remembers what the runner did, in order."""

    def __init__(self, left: int = 1_000_000) -> None:
        self.left = left
        self.claim_next: list[int] = []
        self.times_parked = 0
        self.successors = 0
        self.parked = False
        self.steps: list[str] = []
        self.claimed = 0
        self.held: set[str] = set()
        self.most_held = 0

    def claim(self, lane: Lane, limit: int, *, answers_bell: bool) -> Batch | None:
        self.limit = limit
        if not self.left:
            return None
        self.left -= 1
        self.claimed += 1
        field = f"1:{self.claimed}"
        self.steps.append(f"claim {self.claimed}")
        self.held.add(field)
        self.most_held = max(self.most_held, len(self.held))
        works = [Work(bytes(16), 0, HEADER, Progress(0), {}, b"") for _ in range(max(1, min(limit, 64)))]
        return Batch(lane, field, "w", 0, 0.0, works)

    def settle(
        self, batch: Batch, outcomes: Sequence[Any], *, claim_next: int, model_runs: int, idle: bool
    ) -> Batch | None:
        self.claim_next.append(claim_next)
        self.steps.append(f"settle {batch.field[2:]}" + (" idle" if idle else ""))
        self.held.remove(batch.field)
        self.outcomes = outcomes
        return self.claim(batch.lane, claim_next, answers_bell=False) if claim_next else None

    def park(self, lane: Lane, limit: int, seconds: float) -> Batch | Lane | None:
        self.times_parked += 1
        return None

    def ring_successor(self, lane: Lane) -> None:
        self.successors += 1


class Watch:
    """Knows which batch runs."""

    def __init__(self) -> None:
        self.runs = ""
        self.told = ""
        """The batch of which was said that it takes too long."""

    def began(self, field: str) -> None:
        assert self.runs in ("", field), "one at a time"
        self.runs = field

    def overran(self) -> bool:
        return self.runs != "" and self.runs == self.told

    def ended(self) -> None:
        self.runs = ""

    def settled(self) -> None:
        pass


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


class DeviceStage(Service):
    """The same on a device: what it is asked to do is remembered among the ledger's steps."""

    stage = Stage.SCORING

    def __init__(self, clock: Clock, ledger: Ledger, seconds: float = 0.1, fails: dict[int, Exception] | None = None):
        super().__init__(clock, seconds)
        self.ledger, self.fails, self.prepared = ledger, fails or {}, 0

    def overlaps(self, model: ModelRef) -> bool:
        return True

    def prepare(self, model: ModelRef, works: Sequence[Work]) -> "DeviceStage.Batch":
        self.prepared += 1
        return DeviceStage.Batch(self, self.prepared, works)

    class Batch:
        def __init__(self, of: "DeviceStage", number: int, works: Sequence[Work]) -> None:
            self.of, self.number, self.works = of, number, works
            of.ledger.steps.append(f"stage {number}")

        def launch(self) -> None:
            self.of.ledger.steps.append(f"launch {self.number}")

        def collect(self) -> Sequence[Output]:
            self.of.ledger.steps.append(f"collect {self.number}")
            if self.number in self.of.fails:
                raise self.of.fails[self.number]
            return self.of.perform(REF, self.works)


def clock_of(service: object) -> Callable[[], float]:
    """The time that a stage takes, if it has one of its own."""
    return getattr(service, "clock", time.monotonic)


def serve(service: Service, ledger: Ledger | None = None) -> tuple[Ledger, Served]:
    ledger = ledger or Ledger()
    settings = read_settings({"SCORELINE_LANE_SLICE_S": "0.5", "SCORELINE_BELL_S": "2"})
    return ledger, runner.Runner(service, ledger, None, settings, Watch(), clock=clock_of(service)).serve(LANE)  # type: ignore[arg-type]


def test_a_busy_lane_is_left_after_its_time() -> None:
    ledger, served = serve(Service(Clock(), 0.2))
    assert (served.batches, ledger.claim_next, ledger.times_parked) == (3, [64, 64, 0], 0)
    assert ledger.successors == 1, "the next request finds somebody ready"


def test_on_an_empty_lane_a_worker_parks_and_rings_no_successor() -> None:
    ledger, served = serve(Service(Clock(), 0.01), Ledger(left=2))
    assert (served.batches, ledger.times_parked, ledger.successors) == (2, 1, 0), "an idle stack rings nobody"


def test_the_steps_at_which_tests_kill_are_told() -> None:
    steps: list[str] = []
    service = Service(Clock(), 40)
    serving = runner.Runner(service, Ledger(), None, read_settings({}), Watch(), steps.append, clock=service.clock)  # type: ignore[arg-type]
    serving.serve(LANE)
    assert steps == ["after-claim", "after-settle", "before-ack"]


def test_after_a_long_batch_no_other_is_begun() -> None:
    ledger, served = serve(Service(Clock(), 40))
    assert (served.batches, ledger.claim_next, ledger.times_parked) == (1, [0], 0)


def test_after_an_interrupted_batch_the_process_ends() -> None:
    ledger = Ledger()
    with pytest.raises(Unfit, match="too long"):
        serve(Service(Clock(), 0.0, error=SoftLimit("too long")), ledger)
    assert (ledger.claim_next, ledger.held, ledger.times_parked, ledger.successors) == ([0], set(), 0, 0)
    assert all(isinstance(outcome, RetryLater) and outcome.attempts.suspect for outcome in ledger.outcomes)


def test_while_a_batch_computes_the_next_is_staged_and_the_one_before_settled() -> None:
    ledger = Ledger(left=4)
    serve(DeviceStage(Clock(), ledger), ledger)
    assert ledger.steps == [
        "claim 1", "stage 1", "launch 1", "claim 2", "stage 2", "collect 1",
        "launch 2", "settle 1", "claim 3", "stage 3", "collect 2",
        "launch 3", "settle 2", "claim 4", "stage 4", "collect 3",
        "launch 4", "settle 3", "collect 4", "settle 4 idle",
    ]  # fmt: skip
    assert ledger.most_held == 2, "the one that runs, and the one that is staged"


def test_a_model_that_has_to_be_loaded_first_takes_of_the_batchs_time() -> None:
    watch = Watch()
    told: list[tuple[str, bool]] = []

    class Loads(DeviceStage):
        def prepare(self, model: ModelRef, works: Sequence[Work]) -> DeviceStage.Batch:
            told.append((watch.runs, serving.performing))
            return super().prepare(model, works)

    ledger = Ledger(left=2)
    clock = Clock()
    serving = runner.Runner(Loads(clock, ledger), ledger, None, read_settings({}), watch, clock=clock)  # type: ignore[arg-type]
    serving.serve(LANE)
    assert told == [("1:1", True), ("1:1", False)], "the second is prepared while the first runs"


def test_what_computes_ahead_leaves_in_time_as_well() -> None:
    ledger = Ledger()
    serve(DeviceStage(Clock(), ledger, seconds=0.2), ledger)
    assert ledger.held == set()
    assert ledger.claim_next[-1] == 0
    assert ledger.claimed == 4


def test_a_batch_that_spoils_the_device_is_settled_and_the_staged_one_is_left_to_be_given_back() -> None:
    ledger = Ledger()
    with pytest.raises(Unfit, match="illegal"):
        serve(DeviceStage(Clock(), ledger, fails={2: CudaFault("illegal address")}), ledger)
    assert ledger.steps[-2:] == ["collect 2", "settle 2"]
    assert ledger.held == {"1:3"}
    assert all(isinstance(outcome, RetryLater) and outcome.attempts.suspect for outcome in ledger.outcomes)


def test_what_cannot_be_prepared_fails_when_its_turn_has_come() -> None:
    class Unprepared(DeviceStage):
        def prepare(self, model: ModelRef, works: Sequence[Work]) -> DeviceStage.Batch:
            if self.prepared:
                raise ArtifactCorrupt("not what was pinned")
            return super().prepare(model, works)

    ledger = Ledger(left=2)
    _, served = serve(Unprepared(Clock(), ledger), ledger)
    assert (served.batches, ledger.held) == (2, set())
    assert {type(outcome) for outcome in ledger.outcomes} == {Ended}


class PanicException(BaseException):
    """As pyo3 raises it when Rust code panics; it is no Exception."""


class Rows(Service):
    """Raises ``error`` for the rows that are told to, wherever they stand in a batch."""

    def __init__(self, error: BaseException, offending: Sequence[int]) -> None:
        self.error, self.offending = error, offending

    def batch_limit(self, model: ModelRef) -> int:
        return 8

    def perform(self, model: ModelRef, bodies: Sequence[Any]) -> Sequence[Output]:
        if set(self.offending) & set(bodies):
            raise self.error
        return [Output(body) for body in bodies]


class Numbered(Ledger):
    """One batch, whose rows are numbers."""

    def __init__(self) -> None:
        super().__init__(left=1)

    def claim(self, lane: Lane, limit: int, *, answers_bell: bool) -> Batch | None:
        batch = super().claim(lane, limit, answers_bell=answers_bell)
        if batch is not None:
            for number, work in enumerate(batch.works):
                work.body = number
        return batch


OF_A_LIBRARY = [PanicException("not a char boundary"), GeneratorExit(), asyncio.CancelledError(), SystemExit(0)]


@pytest.mark.parametrize("error", [*OF_A_LIBRARY, KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_what_is_no_exception_is_its_rows_failure_and_ends_the_process(error: BaseException) -> None:
    ledger = Numbered()
    with pytest.raises(Unfit, match=type(error).__name__):
        serve(Rows(error, [3]), ledger)
    assert [type(outcome) for outcome in ledger.outcomes] == [RetryLater if n == 3 else Completed for n in range(8)]
    charged = ledger.outcomes[3].attempts
    assert (charged.starts, charged.suspect, charged.errors[0].category) == (1, True, "crash")
    assert type(error).__name__ in charged.errors[0].error
    assert ledger.held == set(), "what is known is settled first"


def test_a_panic_that_does_not_come_again_ends_the_process_all_the_same() -> None:
    class Once(Rows):
        def perform(self, model: ModelRef, bodies: Sequence[Any]) -> Sequence[Output]:
            self.error, error = None, self.error  # type: ignore[assignment]
            if error:
                raise error
            return super().perform(model, bodies)

    ledger = Numbered()
    with pytest.raises(Unfit, match="PanicException"):
        serve(Once(PanicException("once"), []), ledger)
    assert {type(outcome) for outcome in ledger.outcomes} == {Completed}


def test_a_process_that_is_told_to_end_charges_nobody() -> None:
    """What the stage makes of the signal's SystemExit on its way out is no fault of a row."""
    for error in (SystemExit(1), RuntimeError("while it ended")):
        ledger = Numbered()
        serving = runner.Runner(Rows(error, [3]), ledger, None, read_settings({}), Watch(), stopping=lambda: True)  # type: ignore[arg-type]
        with pytest.raises(SystemExit):
            serving.serve(LANE)
        assert ledger.claim_next == [], "it is given back, uncharged"


@pytest.mark.parametrize("step", ["prepare", "launch", "collect"])
@pytest.mark.parametrize("error", [PanicException("x"), RuntimeError("x")], ids=["panic", "error"])
def test_each_step_of_a_device_may_fail(step: str, error: BaseException) -> None:
    class Breaks(DeviceStage):
        def prepare(self, model: ModelRef, works: Sequence[Work]) -> DeviceStage.Batch:
            self.fail("prepare", works)
            batch = super().prepare(model, works)
            launch, collect = batch.launch, batch.collect
            batch.launch = lambda: (self.fail("launch", works), launch())  # type: ignore[method-assign,assignment,func-returns-value]
            batch.collect = lambda: (self.fail("collect", works), collect())[1]  # type: ignore[method-assign,func-returns-value]
            return batch

        def fail(self, at: str, works: Sequence[Work]) -> None:
            if at == step and any(work.body == 3 for work in works):
                raise error

    ledger = Numbered()
    try:
        serve(Breaks(Clock(), ledger), ledger)
        ended = False
    except Unfit:
        ended = True
    assert ended == isinstance(error, PanicException)
    failed = [n for n, outcome in enumerate(ledger.outcomes) if not isinstance(outcome, Completed)]
    assert failed == [3]
    assert ledger.outcomes[3].attempts.starts == 1


def test_outputs_without_end_are_too_many() -> None:
    class Endless(Rows):
        def perform(self, model: ModelRef, bodies: Sequence[Any]) -> Sequence[Output]:
            return itertools.repeat(Output(1))  # type: ignore[return-value]

    ledger = Numbered()
    serve(Endless(RuntimeError(), []), ledger)
    assert {type(outcome) for outcome in ledger.outcomes} == {RetryLater}


def test_a_stage_that_cannot_say_how_many_it_wants_gets_one_at_a_time() -> None:
    class Mute(DeviceStage):
        def batch_limit(self, model: ModelRef) -> int:
            raise PanicException("no")

        def overlaps(self, model: ModelRef) -> bool:
            raise RuntimeError("no")

    ledger = Ledger(left=2)
    _, served = serve(Mute(Clock(), ledger), ledger)
    assert (served.batches, served.largest_batch, ledger.most_held) == (2, 1, 1)


def test_a_cache_that_cannot_be_filled_keeps_nothing_from_being_served() -> None:
    class Cache:
        def fill(self, works: Sequence[Work], outcomes: Sequence[Any]) -> None:
            raise RecursionError("too deep")

    service, ledger = Service(Clock(), 0.1), Ledger(left=2)
    lane = parse_lane(REF.lane(Stage.POSTPROCESS))
    serving = runner.Runner(service, ledger, Cache(), read_settings({}), Watch(), clock=clock_of(service))  # type: ignore[arg-type]
    assert serving.serve(lane).batches == 2


def test_a_soft_limit_told_between_batches_is_kept_for_the_one_it_was_meant_for() -> None:
    """The second batch computes while the first is settled: its time is over then, and the signal interrupts nobody."""
    watch = Watch()

    class Told(Ledger):
        def settle(self, batch: Batch, outcomes: Sequence[Any], **options: Any) -> Batch | None:
            if batch.field == "1:1":
                watch.told = "1:2"
            return super().settle(batch, outcomes, **options)

    ledger = Told(left=3)
    service = DeviceStage(Clock(), ledger)
    with pytest.raises(Unfit, match="soft time limit"):
        runner.Runner(service, ledger, None, read_settings({}), watch, clock=clock_of(service)).serve(LANE)  # type: ignore[arg-type]
    assert ledger.steps[-1] == "settle 2"
    assert {outcome.attempts.errors[0].category for outcome in ledger.outcomes} == {"hang"}


def test_a_store_that_is_away_when_the_process_must_end_does_not_keep_it_alive() -> None:
    class Away(Numbered):
        def settle(self, batch: Batch, outcomes: Sequence[Any], **options: Any) -> Batch | None:
            raise ConnectionError("away")

    with pytest.raises(Unfit, match="PanicException"):
        serve(Rows(PanicException("x"), [3]), Away())


@pytest.mark.parametrize(("asked", "claimed"), [(-1, 1), (0, 1), (1, 1), (128, 128), (5000, 128)])
def test_a_batch_is_never_larger_than_a_script_may_touch(asked: int, claimed: int) -> None:
    ledger, _ = serve(Service(Clock(), 40, limit=asked))
    assert ledger.limit == claimed
