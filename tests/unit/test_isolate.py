"""A batch that raises is halved until the offending rows stand alone."""

import math
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.failures import ArtifactMissing, NotNow, SoftLimit, StageFailure
from pipeline.contracts.work import Output
from pipeline.stage.isolation import isolate


class Stage:
    """Raises when an offending row is in the batch; counts its passes."""

    def __init__(self, offending: set[int]) -> None:
        self.offending, self.passes = offending, 0

    def perform(self, bodies: Sequence[int]) -> list[Output]:
        self.passes += 1
        if self.offending & set(bodies):
            raise RuntimeError("poison")
        return [Output(body) for body in bodies]


@given(st.integers(1, 128), st.data())
def test_only_the_offending_rows_fail_and_the_others_keep_their_places(size: int, data: st.DataObject) -> None:
    offending = data.draw(st.sets(st.integers(0, size - 1), max_size=5))
    answers = isolate(Stage(offending).perform, list(range(size)))
    for place, answer in enumerate(answers):
        if place in offending:
            assert isinstance(answer, RuntimeError)
        else:
            assert isinstance(answer, Output)
            assert answer.body == place


@pytest.mark.parametrize("size", [2, 7, 64, 128])
def test_one_offending_row_costs_at_most_two_log_n_extra_passes(size: int) -> None:
    for place in range(size):
        stage = Stage({place})
        isolate(stage.perform, list(range(size)))
        assert stage.passes - 1 <= 2 * math.ceil(math.log2(size))


def test_a_failure_that_is_not_about_a_row_is_not_searched_for() -> None:
    calls = []

    def perform(bodies: Sequence[int]) -> list[Output]:
        calls.append(len(bodies))
        raise ArtifactMissing("no such version")

    answers = isolate(perform, [1, 2, 3, 4])
    assert calls == [4]
    assert all(isinstance(answer, ArtifactMissing) for answer in answers)


def test_after_a_failure_that_ends_the_process_nothing_else_is_tried_in_it() -> None:
    calls = []

    def perform(rows: Sequence[int]) -> list[Output]:
        calls.append(list(rows))
        raise SoftLimit("too long") if len(rows) == 2 else RuntimeError("poison")

    answers = isolate(perform, [1, 2, 3, 4])
    assert calls == [[1, 2, 3, 4], [1, 2]]
    assert [type(answer) for answer in answers] == [SoftLimit, SoftLimit, NotNow, NotNow]


def test_a_stage_that_returns_too_few_outputs_has_failed() -> None:
    answers = isolate(lambda bodies: [Output(1)] if len(bodies) > 1 else [Output(bodies[0])], [5, 6])
    assert [getattr(answer, "body", None) for answer in answers] == [5, 6]
    answers = isolate(lambda bodies: [], [5])
    assert isinstance(answers[0], RuntimeError)


class Weird(StageFailure):
    """A failure that raises when it is asked what it is."""

    @property
    def ends_process(self) -> bool:  # type: ignore[override]
        raise ValueError("no")


class OddCategory(StageFailure):
    """Its category would be two words in a list of counters."""

    category = "two words"


class Nobody(RuntimeError):
    """Raises when it is asked for its class."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise ValueError("no")


@pytest.mark.parametrize("make", [Weird, OddCategory, Nobody, NotNow])
def test_a_failure_that_cannot_be_judged_by_what_it_says_is_an_ordinary_error(make: Callable[..., Exception]) -> None:
    error = make("x", math.nan) if make is NotNow else make("x")

    def perform(rows: Sequence[int]) -> list[Output]:
        if 2 in rows:
            raise error
        return [Output(row) for row in rows]

    for answers in (isolate(perform, [1, 2, 3]), isolate(lambda rows: [Output(1), error, Output(3)], [1, 2, 3])):
        assert [type(answer) for answer in answers] == [Output, RuntimeError, Output]
        assert make.__name__ in str(answers[1])


@pytest.mark.parametrize(
    "wrong",
    [None, "text", {"body": 1}, RuntimeError, Output(1, None), Output(1, (), [1])],  # type: ignore[arg-type]
)
def test_what_is_no_output_is_its_rows_failure(wrong: object) -> None:
    answers = isolate(lambda rows: [Output(1), wrong, Output(3)], [1, 2, 3])  # type: ignore[list-item]
    assert [type(answer) for answer in answers] == [Output, TypeError, Output]


@pytest.mark.parametrize("wrong", [None, 7, [Output(1)] * 3])
def test_a_stage_that_returns_no_outputs_or_too_many_has_failed(wrong: object) -> None:
    answers = isolate(lambda rows: wrong if 2 in rows else [Output(row) for row in rows], [1, 2])  # type: ignore[arg-type,return-value]
    assert type(answers[0]) is Output
    assert isinstance(answers[1], TypeError | RuntimeError)


def test_a_generator_is_as_good_as_a_list_and_may_raise_on_its_way() -> None:
    def perform(rows: Sequence[int]) -> Iterator[Output]:
        for row in rows:
            if row == 2:
                raise StopAsyncIteration
            yield Output(row)

    answers = isolate(perform, [1, 2, 3])  # type: ignore[arg-type]
    assert [type(answer) for answer in answers] == [Output, StopAsyncIteration, Output]


def test_an_empty_batch_runs_nothing() -> None:
    assert isolate(Stage(set()).perform, []) == []
