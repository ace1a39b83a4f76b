"""How long a fault was felt is read from the ledger's log."""

from chaos.events import Claimed, Ended, Event, Registered, Released, Settled
from chaos.injections import Injection
from chaos.recovery import Recovery, gaps_without_child, log_of, recovery

LANE = "scoring/m@1"
ONE, TWO, THREE = (bytes([n]) * 16 for n in (1, 2, 3))


def claimed(at: int, worker: str, field: str, *ids: bytes, lane: str = LANE) -> Claimed:
    return Claimed(at, worker, field, lane, ids)


def felt(injection: Injection, *events: Event) -> Recovery:
    return recovery(injection, log_of(events))


def test_it_lasts_until_the_last_struck_request_begins_again() -> None:
    events = (
        claimed(900, "a", "1:1", ONE, TWO),
        claimed(950, "b", "2:1", THREE),
        Released(3000, "a", "1:1", "loss"),
        claimed(3001, "b", "2:2", ONE),
        Settled(3002, "b", "2:1"),
        claimed(3500, "b", "2:3", TWO),
    )
    assert felt(Injection("kill-worker", 1000, ["a"]), *events) == Recovery(2.5, 2, 2)
    assert felt(Injection("kill-worker", 1000, ["b"]), *events[:-2]) == Recovery(2.001, 1, 0), "open to the log's end"


def test_what_ended_is_under_way_no_longer() -> None:
    events = (claimed(900, "a", "1:1", ONE), Released(2000, "a", "1:1", "start"), Ended(2500, {ONE: b""}))
    assert felt(Injection("kill-child", 1000, ["a"]), *events) == Recovery(1.5, 1, 0)


def test_what_a_stopped_settle_has_ended_is_under_way_no_longer() -> None:
    """Its claim stands until it is released: nobody begins what is in it again."""
    events = (claimed(900, "a", "1:1", ONE), Ended(1200, {ONE: b""}), Released(4000, "a", "1:1", "none"))
    assert felt(Injection("abort-script", 1000, ["a"]), *events) == Recovery(0.2, 1, 0)


def test_those_sent_along_feel_it_from_their_acceptance_to_their_end() -> None:
    early, late = (at.to_bytes(6, "big") + bytes(10) for at in (1000, 1500))
    injection = Injection("oom", 400, ending=[early, late])
    assert felt(injection, Ended(3000, {early: b""}), Ended(3100, {late: b""})) == Recovery(2.0, 0, 0)
    assert felt(injection, Ended(3000, {early: b""}), Settled(9000, "a", "1:1")) == Recovery(7.5, 0, 0), "no end seen"


def test_what_was_settled_was_not_struck() -> None:
    events = (claimed(900, "a", "1:1", ONE), Settled(1001, "a", "1:1"), claimed(1002, "a", "1:2", TWO))
    assert felt(Injection("pause", 1000, ["a"]), *events, Settled(6000, "a", "1:2")) == Recovery(0.0, 0, 0)


def test_a_child_alone_is_struck_by_its_own_fields() -> None:
    events = (
        claimed(900, "a", "1:1", ONE),
        claimed(900, "a", "12:1", TWO),
        Released(1200, "a", "1:1", "start"),
        claimed(1300, "a", "12:2", ONE),
    )
    assert felt(Injection("kill-child", 1000, ["a"], pid=1), *events) == Recovery(0.3, 1, 1)


def test_lanes_are_out_for_the_longest_time_without_a_claim() -> None:
    def served(*times: int) -> list[Event]:
        return [claimed(at, "a", f"1:{at}", ONE) for at in times]

    other = claimed(4000, "a", "1:0", lane="other")
    injection = Injection("drop-bells", 1000, lanes=[LANE])
    assert felt(injection, *served(900, 2100, 2500), other).seconds == 1.5, "and nothing more to the end of the log"
    assert felt(injection, *served(900, 1100, 2600, 3000, 4000), other).seconds == 1.5, "it was held for a while"
    assert felt(injection, *served(900, 2100, 4000, 6100, 9900)).seconds == 2.1, "later gaps do not count"


def test_what_was_measured_on_the_spot_counts_as_well() -> None:
    assert felt(Injection("kill-api", 1000, took_s=2.0)) == Recovery(2.0, 0, 0)


def test_poison_affects_the_batches_it_was_in_from_when_they_were_claimed() -> None:
    events = (
        claimed(1000, "a", "1:1", ONE, TWO),
        Released(1500, "a", "1:1", "start"),
        claimed(1600, "b", "2:1", TWO),
        Settled(1700, "b", "2:1"),
        claimed(2000, "b", "2:2", ONE),
        Released(2500, "b", "2:2", "start"),
        Ended(2600, {ONE: b""}),
        Registered(4500, "a"),
    )
    assert felt(Injection("poison", 900, poison=ONE), *events) == Recovery(1.0, 3, 2)
    assert gaps_without_child(ONE, log_of(events)) == [3.5, 2.5], "b has had no child since"
