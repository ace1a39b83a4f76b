"""What a benchmark makes of its figures: worse than linear or not, shares of the floor, times out of logs."""

import pytest

from bench.growth import Step, table_of, worse_than_linear
from bench.rows import Goal, Row
from bench.start import log_times


@pytest.mark.parametrize(
    ("cpu_us", "worse"),
    [
        pytest.param(100, False, id="costs the same"),
        pytest.param(299, False, id="costs less than three times as much"),
        pytest.param(300, False, id="grows as the size does"),
        pytest.param(301, True, id="grows by more"),
    ],
)
def test_a_step_is_worse_than_linear_if_its_cost_grows_by_more_than_its_size(cpu_us: float, worse: bool) -> None:
    assert worse_than_linear(Step(10, 1000, 100), Step(30, 1000, cpu_us)) is worse


def test_each_step_is_compared_with_the_one_before() -> None:
    rows = table_of([Step(1, 4000, 100), Step(2, 3000, 150), Step(4, 500, 600)])
    assert [row["cost_factor"] for row in rows] == [None, 1.5, 4.0]
    assert [row["size_factor"] for row in rows] == [None, 2.0, 2.0]
    assert [row["worse_than_linear"] for row in rows] == [False, False, True]


def test_the_share_of_the_floor_is_taken_round_by_round() -> None:
    """A machine that halves its speed from one round to the next changes no ratio."""
    chain, floor, row = Row(rates=[10.0, 5.0, 10.0]), Row(rates=[1000.0, 500.0, 1000.0]), Row()
    for seconds in (2.0, 4.0, 1.0):
        row.add(1000, seconds, 0.1, [])
    document = row.document("submit_many", chain, floor, (Goal("x floor", 0.45), Goal("x chain", 80)), void=True)
    assert document["share_of_floor"] == 0.5
    assert document["ratio_to_chain"] == 50
    assert document["goals"] == [{"goal": "x floor >= 0.45", "met": True}, {"goal": "x chain >= 80", "met": None}]


def test_logs_tell_when_a_service_was_spawned_and_when_it_served() -> None:
    """The first of several lines counts; what is no JSON, and other programs, are passed over."""

    def serves(event: str) -> str:
        lines = ("a banner", *(f'{{"event": "{event}", "timestamp": "1970-01-01T00:00:0{n}.500000Z"}}' for n in (3, 4)))
        return "\n".join(lines)

    logs = {
        "supervisord": "2026-01-01 00:00:01,250 INFO spawned: 'api' with pid 7\n"
        "2026-01-01 00:00:01,500 INFO spawned: 'probe-api' with pid 8\n",
        "store": "7:M 01 Jan 2026 00:00:01.750 * Ready to accept connections tcp\n",
        "sweeper": serves("sweeper_leads"),
        "api": serves("Uvicorn running on http://127.0.0.1:1"),
        **dict.fromkeys(("preprocess", "scoring"), serves("worker ready.")),
        "postprocess": "",
    }
    times = log_times(logs)
    assert set(times) == {
        "api spawned",
        "store ready",
        "sweeper ready",
        "api ready",
        "preprocess ready",
        "scoring ready",
    }
    assert times["api ready"] == 3.5
    assert times["store ready"] - times["api spawned"] == 0.5
