"""The count of stock Celery's run is given histories of which one knows what became of each request."""

from chaos.stock.notes import Note
from chaos.stock.verdict import BrokerState, Kill, Sent, judge

STAGES = ("preprocess", "scoring", "postprocess")


def run(request: int, at: float, pid: int = 1, stages: tuple[str, ...] = STAGES) -> list[Note]:
    """A request that goes through its stages, a tenth of a second each."""
    notes = []
    for place, stage in enumerate(stages):
        begins = at + place * 0.1
        notes += [Note(begins, "start", stage, request, pid), Note(begins + 0.05, "end", stage, request, pid)]
    return notes


def sent(count: int) -> list[Sent]:
    return [Sent(request, float(request), accepted=True) for request in range(count)]


def ordered(*histories: list[Note]) -> list[Note]:
    return sorted((note for history in histories for note in history), key=lambda note: note.at)


def test_a_quiet_run_has_everything_ended() -> None:
    row = judge(sent(3), ordered(run(0, 0), run(1, 1), run(2, 2)), [], BrokerState())
    assert (row["accepted"], row["ended"], row["late"], row["twice"], row["run_again"]) == (3, 3, 0, 0, 0)
    assert (row["returning"], row["failed"], row["nowhere"]) == ({"queued": 0, "unacked": 0}, {}, 0)
    assert row["seconds"]["max"] == 0.25


def test_every_accepted_request_is_in_exactly_one_place() -> None:
    broker = BrokerState(
        queued=frozenset({1, 2}), unacked=frozenset({2, 0}), failed={0: "X", 1: "X", 2: "X", 3: "WorkerLostError"}
    )
    row = judge(sent(5), run(0, 0), [], broker)
    assert row["ended"] == 1
    assert row["returning"] == {"queued": 1, "unacked": 1}
    assert row["failed"] == {"WorkerLostError": 1}
    assert row["nowhere"] == 1
    assert row["held_though_ended"] == 1


def test_a_request_that_was_not_accepted_is_not_missed() -> None:
    row = judge([Sent(0, 0, accepted=False)], [], [], BrokerState())
    assert (row["sent"], row["accepted"], row["unknown"], row["nowhere"]) == (1, 0, 1, 0)


def test_a_last_task_that_ran_twice_and_a_stage_that_did_are_found() -> None:
    again = run(0, 9, stages=("postprocess",))
    row = judge(sent(2), ordered(run(0, 0), run(1, 1, stages=("preprocess",)), run(1, 2), again), [], BrokerState())
    assert (row["ended"], row["twice"], row["run_again"]) == (2, 1, 2)


def test_late_is_five_seconds_after_it_was_sent() -> None:
    row = judge(sent(2), ordered(run(0, 4.7), run(1, 5.8)), [], BrokerState())
    assert (row["ended"], row["late"]) == (2, 1)


def test_a_kill_affects_what_its_process_was_running_until_that_has_ended() -> None:
    killed = [*run(0, 0, pid=7, stages=("preprocess",)), Note(0.5, "start", "scoring", 0, 7)]
    idle = run(1, 0, pid=8, stages=("preprocess",))
    later = run(0, 6, pid=9, stages=("scoring", "postprocess"))
    kills = [Kill("child", 1.0, frozenset({7, 8})), Kill("child", 20.0, frozenset({9}))]
    row = judge([Sent(n, 0.0, accepted=True) for n in range(2)], ordered(killed, idle, later), kills, BrokerState())
    child = row["kills"]["child"]
    assert (child["count"], child["affected"], child["back"]) == (2, 1, 1)
    assert child["seconds"]["max"] == 5.15


def test_the_stores_death_affects_what_is_under_way() -> None:
    row = judge(sent(4), ordered(run(0, 0), run(1, 1), run(2, 7)), [Kill("store", 2.5)], BrokerState())
    store = row["kills"]["store"]
    assert (store["affected"], store["back"], row["nowhere"]) == (1, 1, 1)


def test_a_request_counts_with_the_first_kill_that_struck_it() -> None:
    kills = [Kill("store", 0.5), Kill("store", 3.0), Kill("worker", 1.0, frozenset({4}))]
    row = judge(sent(1), [Note(0.2, "start", "preprocess", 0, 4)], kills, BrokerState())
    assert [(kind, row["kills"][kind]["affected"]) for kind in ("store", "worker")] == [("store", 1), ("worker", 0)]
