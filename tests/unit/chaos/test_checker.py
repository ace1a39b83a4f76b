"""The proof's checker is given histories with one thing wrong in each, and must find it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from chaos.checker import TOLD, Claims, Commit, Expected, Sent, Verdict, Witness, check
from chaos.events import Claimed, Event, Released, Settled
from chaos.load import answer_of
from pipeline.contracts.ids import to_text

RESULT = {"score": 0.25, "decision": "approve", "raw": 0.5}


def document(number: int, **fields: Any) -> bytes:
    plain = {"request_id": f"id-{number}", "state": "succeeded", "result": RESULT, "error": None, "attempts": 1}
    plain |= {"degraded": False, "scored_by": "credit-default@1"}
    return json.dumps(plain | fields, sort_keys=True).encode()


def history(count: int = 5) -> tuple[list[Sent], list[Commit], dict[bytes, Expected]]:
    """Requests that all ended once, as they should."""
    sent = [
        Sent(b"%d" % n, "credit-default", b"{}", "accepted", f"id-{n}", [document(n), document(n)])
        for n in range(count)
    ]
    commits = [Commit(f"id-{n}", 0, b"%d" % n, result=RESULT) for n in range(count)]
    return sent, commits, {one.key: Expected(RESULT) for one in sent}


def faults(verdict: Verdict) -> dict[str, int]:
    counts = {"lost": verdict.lost, "doubled": verdict.doubled, "stuck": verdict.stuck, "wrong": verdict.wrong}
    counts |= {"hung": verdict.hung, "unmet": verdict.unmet}
    return {name: count for name, count in counts.items() if count}


def test_a_clean_history_is_clean() -> None:
    verdict = check(*history())
    assert (verdict.accepted, verdict.ended, verdict.clean, verdict.findings) == (5, 5, True, ())


@pytest.mark.parametrize("last_state", [None, "not-found", "gone"])
def test_a_lost_request_is_found(last_state: str | None) -> None:
    sent, commits, expected = history()
    sent[2].read, sent[2].last_state = [], last_state
    verdict = check(sent, commits, expected)
    assert faults(verdict) == {"lost": 1}
    assert "id-2" in verdict.findings[0]


def test_an_end_that_was_never_committed_is_found() -> None:
    sent, commits, expected = history()
    assert faults(check(sent, commits[:-1], expected)) == {"lost": 1}


def test_a_doubled_commit_is_found() -> None:
    sent, commits, expected = history()
    assert faults(check(sent, [*commits, commits[3]], expected)) == {"doubled": 1}
    assert faults(check(sent, [*commits, Commit("id-3", 1, b"3")], expected)) == {}, "a replay is another generation"


def test_a_request_accepted_twice_under_one_key_is_found() -> None:
    sent, commits, expected = history()
    assert faults(check(sent, [*commits, Commit("id-9", 0, b"3")], expected)) == {"doubled": 1}


@pytest.mark.parametrize("last_state", ["queued", "scoring", "store-unavailable"])
def test_a_stuck_request_is_found(last_state: str) -> None:
    sent, commits, expected = history()
    sent[0].read, sent[0].last_state = [], last_state
    assert faults(check(sent, commits[1:], expected)) == {"stuck": 1}


def test_what_is_left_in_the_ledger_is_found() -> None:
    assert faults(check(*history(), witness=Witness(leftovers=["{p00}:q:scoring/m@1"]))) == {"stuck": 1}


def test_an_end_that_changed_is_found() -> None:
    sent, commits, expected = history()
    sent[1].read[1] = document(1, attempts=2)
    assert faults(check(sent, commits, expected)) == {"wrong": 1}


@pytest.mark.parametrize(
    "end",
    [
        {"result": RESULT | {"score": 0.250002}},
        {"result": RESULT | {"decision": "decline"}},
        {"result": RESULT | {"score": None}},
        {"state": "dead", "result": None, "error": {"message": "boom"}},
        {"state": "expired", "result": None, "error": {"message": "late"}},
    ],
)
def test_a_wrong_end_is_found(end: dict[str, Any]) -> None:
    sent, commits, expected = history()
    sent[4].read = [document(4, **end)]
    assert faults(check(sent, commits, expected)) == {"wrong": 1}


def test_a_score_within_a_millionth_is_right_and_so_is_either_decision_at_a_band() -> None:
    sent, commits, expected = history()
    sent[4].read = [document(4, result=RESULT | {"score": 0.2500005, "decision": "review"})]
    assert faults(check(sent, commits, expected)) == {"wrong": 1}
    expected[b"4"] = replace(expected[b"4"], near_band=True)
    assert check(sent, commits, expected).clean


CRASHED = {"error": "the process died under it (SIGKILL)", "signal": "SIGKILL", "category": "crash"}
OVERRAN = {"error": "ran longer than the hard limit", "signal": None, "category": "hang"}
OTHERWISE = {"error": "boom", "signal": None, "category": "unknown"}
FAILED = [(poison, OTHERWISE | {"category": told}) for poison, (told,) in TOLD.items()]


@pytest.mark.parametrize(("poison", "attempt"), [("crash", CRASHED), ("hang", OVERRAN), *FAILED])
def test_poison_must_be_dead_and_nothing_else(poison: Any, attempt: dict[str, Any]) -> None:
    sent, commits, expected = history()
    witness = Witness(letters={"id-0": [attempt] * 3})
    sent[0].poison, sent[0].read = poison, [document(0, state="dead", result=None, scored_by=None)]
    assert check(sent, commits, expected, witness=witness).clean
    sent[0].read = [document(0)]
    assert faults(check(sent, commits, expected, witness=witness)) == {"wrong": 1}


@pytest.mark.parametrize("letter", [[], [CRASHED, OVERRAN], [OTHERWISE]])
def test_a_letter_that_does_not_name_the_signal_is_found(letter: list[dict[str, Any]]) -> None:
    sent, commits, expected = history()
    sent[0].poison, sent[0].read = "crash", [document(0, state="dead", result=None, scored_by=None)]
    assert faults(check(sent, commits, expected, witness=Witness(letters={"id-0": letter}))) == {"wrong": 1}


INSTEAD = {"score": 0.75, "decision": "decline", "raw": 0.7}
BY_ANOTHER = {"result": INSTEAD, "degraded": True, "scored_by": "plain@1"}


@pytest.mark.parametrize("poison", ["", "raise"])
def test_a_degraded_answer_must_be_the_fallbacks(poison: Any) -> None:
    sent, commits, expected = history()
    sent[0].poison = poison
    expected[b"0"] = Expected(None if poison else RESULT, instead=Expected(INSTEAD, name="plain@1"))
    sent[0].read = [document(0, **BY_ANOTHER)]
    assert check(sent, commits, expected).clean
    for wrong in (BY_ANOTHER | {"result": RESULT}, BY_ANOTHER | {"degraded": False}):
        sent[0].read = [document(0, **wrong)]
        assert faults(check(sent, commits, expected)) == {"wrong": 1}
    sent[0].read, sent[0].degrades = [document(0, **BY_ANOTHER)], False
    assert faults(check(sent, commits, expected)) == {"wrong": 1}, "it wanted no other's answer"


def test_the_result_of_a_request_whose_acceptance_nobody_heard_is_checked_in_its_commit() -> None:
    sent, commits, expected = history()
    sent[0].answer, sent[0].request_id, sent[0].read = "unknown", None, []
    assert check(sent, commits, expected).clean
    for wrong in (replace(commits[0], result=RESULT | {"score": 0.9}), replace(commits[0], state="dead")):
        assert faults(check(sent, [wrong, *commits[1:]], expected)) == {"wrong": 1}


def test_one_that_was_refused_must_not_have_been_accepted() -> None:
    sent, commits, expected = history()
    sent[0].answer, sent[0].request_id, sent[0].read, sent[0].last_state = "refused", None, [], "store-full"
    assert check(sent, commits[1:], expected).clean
    verdict = check(sent, commits, expected)
    assert faults(verdict) == {"wrong": 1}
    assert "was refused (store-full)" in verdict.findings[0]


@pytest.mark.parametrize(
    ("slug", "answer"),
    [("", "accepted"), ("store-unavailable", "unknown"), ("failed", "unknown"), ("store-full", "refused")],
)
def test_an_answer_is_a_refusal_only_if_it_says_so(slug: str, answer: str) -> None:
    assert answer_of(slug) == answer


def test_a_call_that_took_too_long_and_a_fault_without_its_answer_are_found() -> None:
    witness = Witness(hung=["POST /v1/scores took 9 s"], unmet=["hang: no stacks in the log"])
    assert faults(check(*history(), witness=witness)) == {"hung": 1, "unmet": 1}


ONE, TWO, POISON = (bytes([n]) * 16 for n in (1, 2, 3))


def claimed(field: str, *ids: bytes) -> Claimed:
    return Claimed(0, "w" * 32, field, "scoring/m@1", ids)


def released(field: str, charge: str = "loss") -> Released:
    return Released(0, "w" * 32, field, charge)


def settled(field: str) -> Settled:
    return Settled(0, "w" * 32, field)


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ([claimed("1:1", ONE), settled("1:1"), claimed("1:2", TWO), released("1:2")], {}),
        ([claimed("1:1", ONE), released("1:1"), settled("1:1")], {"doubled": 1}),
        ([claimed("1:1", ONE), settled("1:1"), released("1:1")], {"doubled": 1}),
        ([claimed("1:1", ONE), settled("1:1"), settled("1:1")], {"doubled": 1}),
        ([claimed("1:1", ONE), settled("1:1"), claimed("1:1", TWO), settled("1:1")], {"doubled": 1}),
        ([settled("1:1")], {"doubled": 1}),
        ([claimed("1:1", ONE)], {"stuck": 1}),
    ],
)
def test_each_claim_is_settled_or_released_once(events: list[Event], found: dict[str, int]) -> None:
    assert faults(check(*history(), claims=Claims(events))) == found


def test_others_pay_for_a_poison_once_at_most() -> None:
    sent, commits, expected = history()
    sent.append(Sent(b"p", "chaos-probe", b"{}", "unknown", to_text(POISON), poison="crash"))
    once = [claimed("1:1", ONE, POISON), released("1:1", "start"), claimed("1:2", ONE), released("1:2", "start")]
    assert check(sent, commits, expected, Claims(once)).clean
    uncharged = [claimed("1:3", ONE, POISON), released("1:3", "none")]
    assert check(sent, commits, expected, Claims(once + uncharged)).clean
    twice = [claimed("1:4", ONE, POISON), released("1:4", "start")]
    assert faults(check(sent, commits, expected, Claims(once + twice))) == {"wrong": 1}


def test_an_unknown_one_may_have_ended_or_be_absent_but_not_ended_twice() -> None:
    sent, commits, expected = history()
    sent[0].answer, sent[0].request_id, sent[0].read = "unknown", None, []
    for seen in (commits, commits[1:]):
        verdict = check(sent, seen, expected)
        assert (verdict.unknown, verdict.clean) == (1, True)
    assert faults(check(sent, [*commits, Commit("id-0", 0, b"0", result=RESULT)], expected)) == {"doubled": 1}
