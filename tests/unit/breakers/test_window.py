"""A model's breaker: when it opens, who tries again, and what it is told of the past."""

import pytest

from pipeline.breakers.window import LEAST, LONGEST_PAUSE_S, PAUSE_S, WINDOW, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Told:
    """A breaker, with a clock to turn, and the states that it told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.states: list[tuple[str, float]] = []
        self.breaker = Breaker(lambda state, pause_s: self.states.append((state, pause_s)), self.clock)

    def record(self, *verdicts: bool) -> None:
        for good in verdicts:
            self.breaker.record(good=good)


@pytest.fixture
def told() -> Told:
    return Told()


def test_failures_among_successes_leave_it_closed(told: Told) -> None:
    told.record(*[True, True, False] * WINDOW)
    assert told.breaker.admits()
    assert told.states == []


def test_it_opens_when_half_of_the_latest_batches_failed_and_no_sooner(told: Told) -> None:
    told.record(*[True] * WINDOW)
    told.record(*[False] * (WINDOW // 2 - 1))
    assert told.breaker.admits()
    told.record(False)
    assert not told.breaker.admits()
    assert told.states == [("open", PAUSE_S)]


def test_few_failures_prove_nothing(told: Told) -> None:
    told.record(*[False] * (LEAST - 1))
    assert told.breaker.admits()
    told.record(False)
    assert not told.breaker.admits()


def test_failures_of_long_ago_do_not_count(told: Told) -> None:
    told.record(*[False] * (LEAST - 1))
    told.clock.now += 3600
    told.record(False)
    assert told.breaker.admits()


def test_after_the_pause_one_batch_tries_and_closes_it(told: Told) -> None:
    told.record(*[False] * LEAST)
    told.clock.now += PAUSE_S - 0.1
    assert not told.breaker.admits()
    told.clock.now += 0.2
    assert told.breaker.admits()
    assert not told.breaker.admits(), "one"
    assert told.breaker.is_open
    told.record(True)
    assert told.breaker.admits()
    assert not told.breaker.is_open
    told.record(*[False] * (LEAST - 1))
    assert told.breaker.admits(), "what was before is forgotten"
    assert [state for state, _ in told.states] == ["open", "half-open", "closed"]


def test_each_trial_that_fails_doubles_the_pause_up_to_the_longest(told: Told) -> None:
    told.record(*[False] * LEAST)
    pauses = []
    for _ in range(8):
        told.clock.now += LONGEST_PAUSE_S + 1
        assert told.breaker.admits()
        told.record(False)
        pauses.append(told.states[-1][1])
    assert pauses == [10, 20, 40, 60, 60, 60, 60, 60]
    told.clock.now += LONGEST_PAUSE_S + 1
    assert told.breaker.admits()
    told.record(True)
    told.record(*[False] * LEAST)
    assert told.states[-1] == ("open", PAUSE_S)


def test_a_trial_of_which_nothing_is_heard_is_followed_by_another(told: Told) -> None:
    told.record(*[False] * LEAST)
    told.clock.now += PAUSE_S + 1
    assert told.breaker.admits()
    told.clock.now += PAUSE_S + 1
    assert told.breaker.admits()


def test_one_incident_counts_once_however_many_requests_tell_of_it(told: Told) -> None:
    for incident in (1, 1, 1, 2, 2, 1, 2):
        told.breaker.blame(incident)
    assert told.breaker.admits()
    told.breaker.blame(3)
    assert not told.breaker.admits()


def test_who_waits_is_told_how_long(told: Told) -> None:
    told.record(*[False] * LEAST)
    told.clock.now += 2
    assert told.breaker.pause_s == pytest.approx(PAUSE_S - 2)
    told.clock.now += 10
    assert told.breaker.pause_s == 1
