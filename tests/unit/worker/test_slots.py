"""What children tell their parent: each in a slot of its own, and never more than there is room for."""

import json

import pytest

from pipeline.breakers.calls import Breakers
from pipeline.worker import slots
from pipeline.worker.incarnation import Incarnation


@pytest.fixture
def shared() -> slots.Slots:
    return slots.Slots()


def described(incarnation: Incarnation) -> dict:
    return json.loads(incarnation.description())


def test_each_child_has_its_own_slot_and_what_is_freed_is_taken_again(shared: slots.Slots) -> None:
    for pid in range(1, slots.COUNT + 1):
        shared.take(pid * slots.COUNT).began(f"{pid}:1")  # all would begin at the same place
    assert sorted(slot.pid for slot in shared) == [pid * slots.COUNT for pid in range(1, slots.COUNT + 1)]
    with pytest.raises(RuntimeError, match="give it fewer"):
        shared.take(7)
    shared.forget(2 * slots.COUNT)
    shared.forget(2 * slots.COUNT)
    taken = shared.take(7)
    assert (taken.pid, taken.running, taken.registered, taken.running_s) == (7, "", False, 0.0)


def test_a_process_id_that_is_given_again_begins_with_nothing(shared: slots.Slots) -> None:
    before = shared.take(7)
    before.began("7:1")
    before.register()
    again = shared.take(7)
    assert (again.running, again.registered) == ("", False)
    assert len(list(shared)) == 1


@pytest.mark.parametrize("count", [1, 5, 20, 400])
@pytest.mark.parametrize("length", [5, 90, 3000])
def test_operators_see_as_many_breakers_as_fit_and_how_many_more_there_are(count: int, length: int) -> None:
    incarnation = Incarnation("scoring", "scoring", "cpu")
    breakers = Breakers(incarnation.children.take(7).report_breakers)
    for number in range(count):
        breakers.changed(f"model {number} {'m' * length}@1", "open", 10.0)
    seen = described(incarnation)["breakers"]
    assert seen
    assert all({"name", "state", "since", "pause_s"} <= breaker.keys() for breaker in seen)
    *named, last = seen
    if last["name"].startswith("and "):
        assert len(named) + int(last["name"].split()[1]) == count
        assert len(named) >= min(count - 1, 8), "those that fit are named"
    else:
        assert len(seen) == count


def test_five_open_breakers_are_all_seen() -> None:
    incarnation = Incarnation("scoring", "scoring", "cpu")
    breakers = Breakers(incarnation.children.take(7).report_breakers)
    names = [f"model a-model-with-a-rather-long-name-{number}@2026.10" for number in range(5)]
    for name in names:
        breakers.changed(name, "open", 30.0)
    assert [breaker["name"] for breaker in described(incarnation)["breakers"]] == names


def test_of_too_many_models_operators_see_how_many_more_are_loaded() -> None:
    incarnation = Incarnation("scoring", "scoring", "cpu")
    slot = incarnation.children.take(7)
    names = [f"model-{number}@1" for number in range(1000)]
    slot.report_models(names)
    *named, last = described(incarnation)["models"]
    assert named == names[: len(named)]
    assert last == f"and {1000 - len(named)} more"
    slot.report_models(names[:3])
    assert described(incarnation)["models"] == names[:3]


def test_of_two_children_operators_see_what_both_tell_until_one_is_gone() -> None:
    incarnation = Incarnation("scoring", "scoring", "cpu")
    for pid in (7, 8):
        slot = incarnation.children.take(pid)
        slot.report_models(["shared@1", f"only-{pid}@1"])
        slot.report_breakers([{"name": f"of {pid}", "state": "open", "since": 0.0, "pause_s": 1.0}])
    assert described(incarnation)["models"] == ["shared@1", "only-7@1", "only-8@1"]
    assert [breaker["name"] for breaker in described(incarnation)["breakers"]] == ["of 7", "of 8"]
    incarnation.children.forget(7)
    assert described(incarnation)["models"] == ["shared@1", "only-8@1"]


def test_the_worst_of_the_childrens_canaries_counts_and_none_of_a_child_that_is_gone(shared: slots.Slots) -> None:
    first = shared.take(7)
    first.canary_began()
    first.canary_ended(right=False)
    first.canary_began()
    second = shared.take(8)
    second.canary_began()
    second.canary_ended(right=True)
    assert shared.canary.running_s > 0
    shared.forget(7)
    assert (shared.canary.running_s, shared.canary.wrong) == (0.0, False)
    assert shared.canary.took_s is not None


def test_what_a_child_has_settled_counts_after_its_death(shared: slots.Slots) -> None:
    for pid in (7, 8):
        shared.take(pid).settled()
    shared.forget(7)
    shared.take(9).settled()
    assert shared.settled_batches == 3
