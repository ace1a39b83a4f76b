"""A batch that raises is halved until the guilty rows stand alone."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.failures import ArtifactMissing, NotNow, SoftLimit
from pipeline.contracts.work import Output
from pipeline.isolation import isolate


class Stage:
    """Raises when a guilty row is in the batch; counts its passes."""

    def __init__(self, guilty: set[int]) -> None:
        self.guilty, self.passes = guilty, 0

    def perform(self, bodies: Sequence[int]) -> list[Output]:
        self.passes += 1
        if self.guilty & set(bodies):
            raise RuntimeError("poison")
        return [Output(body) for body in bodies]


@given(st.integers(1, 128), st.data())
def test_only_the_guilty_rows_fail_and_the_others_keep_their_places(size: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, size - 1), max_size=5))
    answers = isolate(Stage(guilty).perform, list(range(size)))
    for place, answer in enumerate(answers):
        if place in guilty:
            assert isinstance(answer, RuntimeError)
        else:
            assert isinstance(answer, Output)
            assert answer.body == place


@pytest.mark.parametrize("size", [2, 7, 64, 128])
def test_one_guilty_row_costs_at_most_two_log_n_extra_passes(size: int) -> None:
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


def test_an_empty_batch_runs_nothing() -> None:
    assert isolate(Stage(set()).perform, []) == []
