"""Who answers: the model or its fallback, and who waits."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.breakers.window import LEAST, Breaker
from pipeline.contracts.attempts import Attempt, Attempts
from pipeline.contracts.failures import ArtifactCorrupt, CudaFault, NotNow, NumericFailure, OutOfMemory
from pipeline.contracts.work import Header, Output, Progress, Work
from scoring import serving
from scoring.model import LoadedModel
from scoring.serving import Missing, Serving

NOW = 1_800_000_000_000


class Model(LoadedModel):
    """Gives back the number that it is given; fails as it is told."""

    def __init__(self, name: str, fails: Callable[[Sequence[Any]], Any] = lambda _: None, warm_s: float = 0.0) -> None:
        self.name, self.fails, self.warm_s = name, fails, warm_s
        self.runs: list[list[Any]] = []

    def run(self, bodies: Sequence[Any]) -> list[Any]:
        self.runs.append(list(bodies))
        error = self.fails(bodies)
        if error:
            raise error
        return [OutOfMemory("too large") if body == "large" else body for body in bodies]


class Computed:
    """A computation that does nothing before it is collected."""

    took_s = 0.0

    def __init__(self, model: Model, bodies: Sequence[Any]) -> None:
        self.model, self.bodies = model, bodies

    def launch(self) -> None:
        pass

    def collect(self) -> list[Any]:
        return self.model.run(self.bodies)


@pytest.fixture(autouse=True)
def computation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "Computation", Computed)


def work(body: Any, *, degrades: bool = True, category: str = "", left_s: float = math.inf, starts: int = 0) -> Work:
    header = Header("m", "1", bytes(32), "", 1, 60_000, 0, degrades)
    errors = (Attempt(1, NOW, "scoring", "what happened", None, category),) if category else ()
    return Work(bytes(16), 0, header, Progress(0), body, b"", Attempts(starts, errors=errors), left_s=left_s)


def served(model: Model | Missing, fallback: Model | None = None, **options: Any) -> Serving:
    return Serving(model, fallback, Breaker(lambda *_: None), **options)


def answers(of: Serving, *works: Work) -> list[Any]:
    batch = of.prepare(works)
    batch.launch()
    return batch.collect()


def by(output: Any) -> tuple[Any, str]:
    assert isinstance(output, Output), output
    return output.body, output.scored_by


def broken(_: Any) -> Exception:
    return RuntimeError("broken")


def test_a_sound_model_answers_itself() -> None:
    main, small = Model("m@1"), Model("s@1")
    found = answers(served(main, small), work(0.25), work(0.5))
    assert [by(answer) for answer in found] == [(0.25, ""), (0.5, "")]
    assert small.runs == []


def test_what_is_no_number_fails_alone() -> None:
    found = answers(served(Model("m@1"), Model("s@1")), work(0.25), work(math.nan))
    assert by(found[0]) == (0.25, "")
    assert isinstance(found[1], NumericFailure)


def test_a_row_that_does_not_fit_goes_to_the_fallback_if_it_may() -> None:
    small = Model("s@1")
    small.run = lambda bodies: [0.75 for _ in bodies]  # type: ignore[method-assign]
    found = answers(served(Model("m@1"), small), work(0.25), work("large"), work("large", degrades=False))
    assert by(found[0]) == (0.25, "")
    assert by(found[1]) == ([0.75, "s@1"], "s@1")
    assert isinstance(found[2], OutOfMemory)


def test_without_a_fallback_it_is_the_rows_failure() -> None:
    found = answers(served(Model("m@1")), work("large"))
    assert isinstance(found[0], OutOfMemory)


@pytest.mark.parametrize(("category", "instead"), [("hang", True), ("unknown", False), ("crash", False)])
def test_a_request_whose_last_attempt_hung_goes_to_the_fallback(category: str, instead: bool) -> None:
    found = answers(served(Model("m@1"), Model("s@1")), work(0.5, category=category))
    assert by(found[0]) == (([0.5, "s@1"], "s@1") if instead else (0.5, ""))
    found = answers(served(Model("m@1"), Model("s@1")), work(0.5, category=category, degrades=False))
    assert by(found[0]) == (0.5, "")


def test_who_would_be_late_goes_to_the_fallback() -> None:
    of = served(Model("m@1", warm_s=2.0), Model("s@1"))
    found = answers(of, work(0.1, left_s=1.5), work(0.2, left_s=30), work(0.3, left_s=1.5, degrades=False))
    assert [by(answer) for answer in found] == [([0.1, "s@1"], "s@1"), (0.2, ""), (0.3, "")]


def test_how_long_a_batch_takes_is_learned() -> None:
    of = served(Model("m@1", warm_s=1.0), Model("s@1"))
    for _ in range(100):
        answers(of, work(0.5))
    assert of.usual_s < 0.01


def test_a_broken_model_is_replaced_by_its_fallback_from_the_batch_that_proves_it() -> None:
    main, small = Model("m@1", broken), Model("s@1")
    of = served(main, small)
    for _ in range(LEAST - 1):
        assert isinstance(answers(of, work(0.5))[0], RuntimeError)
    assert by(answers(of, work(0.5))[0]) == ([0.5, "s@1"], "s@1"), "trying again is known to be of no use"
    runs = len(main.runs)
    found = answers(of, work(0.5), work(0.25, degrades=False))
    assert by(found[0]) == ([0.5, "s@1"], "s@1")
    assert isinstance(found[1], NotNow)
    assert len(main.runs) == runs, "it is left alone"


def test_one_bad_row_among_good_ones_does_not_open_the_breaker() -> None:
    main = Model("m@1", lambda bodies: RuntimeError("poison") if -1 in bodies else None)
    of = served(main, Model("s@1"))
    for _ in range(20):
        found = answers(of, *(work(float(number)) for number in range(63)), work(-1))
        assert isinstance(found[-1], RuntimeError)
        assert all(isinstance(answer, Output) for answer in found[:-1])
    assert not of.breaker.is_open


def test_who_has_failed_before_proves_nothing_by_failing_again() -> None:
    of = served(Model("m@1", broken), Model("s@1"))
    for _ in range(20):
        answers(of, work(0.5, starts=1, category="unknown"))
    assert not of.breaker.is_open


def test_a_model_that_hangs_is_learned_of_from_the_requests_that_hung_in_it() -> None:
    """The process in which it hung is gone."""
    of = served(Model("m@1"), Model("s@1"))
    for incident in range(LEAST):
        hung = [work(0.5, category="hang", starts=1) for _ in range(8)]
        for one in hung:
            one.attempts = Attempts(1, errors=(one.attempts.errors[0]._replace(at=NOW + incident),))
        answers(of, *hung)
    assert of.breaker.is_open


def test_a_model_that_is_too_slow_is_left_alone() -> None:
    of = served(Model("m@1"), Model("s@1"), slow_s=0.0)
    for _ in range(LEAST):
        answers(of, work(0.5))
    assert of.breaker.is_open


def test_a_model_that_cannot_run_here_is_stood_in_for() -> None:
    of = served(Missing("needs a GPU", for_good=False), Model("s@1"))
    found = answers(of, work(0.5), work(0.5, degrades=False))
    assert by(found[0]) == ([0.5, "s@1"], "s@1")
    assert isinstance(found[1], NotNow)
    found = answers(served(Missing("its warm-up failed", for_good=True), Model("s@1")), work(0.5, degrades=False))
    assert isinstance(found[0], ArtifactCorrupt)


def test_a_model_without_a_fallback_is_judged_by_its_attempts_alone() -> None:
    of = served(Model("m@1", broken))
    for _ in range(2 * LEAST):
        assert isinstance(answers(of, work(0.5))[0], RuntimeError)


def test_after_a_fault_that_spoils_the_device_nothing_else_runs_on_it() -> None:
    main, small = Model("m@1", lambda _: CudaFault("illegal address")), Model("s@1")
    found = answers(served(main, small), work(0.5), work(0.25, category="hang"))
    assert isinstance(found[0], CudaFault)
    assert isinstance(found[1], NotNow)
    assert small.runs == []


def test_if_the_fallback_fails_too_the_models_failure_is_told() -> None:
    small = Model("s@1", broken)
    found = answers(served(Model("m@1"), small), work("large"))
    assert isinstance(found[0], OutOfMemory)
