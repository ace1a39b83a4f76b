"""The proof's checker is given histories with one thing wrong in each, and must find it."""

from dataclasses import replace
from typing import Any

import pytest

from chaos.checker import Commit, Expected, Sent, Verdict, check

RESULT = {"score": 0.25, "decision": "approve", "raw": 0.5}


def document(number: int, **fields: Any) -> dict[str, Any]:
    return {"request_id": f"id-{number}", "state": "succeeded", "result": RESULT, "error": None, "attempts": 1} | fields


def history(count: int = 5) -> tuple[list[Sent], list[Commit], dict[bytes, Expected]]:
    """Requests that all ended once, as they should."""
    sent = [
        Sent(b"%d" % n, "credit-default", {"n": n}, "accepted", f"id-{n}", [document(n), document(n)])
        for n in range(count)
    ]
    commits = [Commit(f"id-{n}", 0, b"%d" % n) for n in range(count)]
    return sent, commits, {one.key: Expected(RESULT) for one in sent}


def faults(verdict: Verdict) -> dict[str, int]:
    counts = {"lost": verdict.lost, "doubled": verdict.doubled, "stuck": verdict.stuck, "wrong": verdict.wrong}
    return {name: count for name, count in counts.items() if count}


def test_a_clean_history_is_clean() -> None:
    verdict = check(*history())
    assert (verdict.accepted, verdict.ended, verdict.clean, verdict.findings) == (5, 5, True, ())


@pytest.mark.parametrize("standing", [None, "not-found", "gone"])
def test_a_lost_request_is_found(standing: str | None) -> None:
    sent, commits, expected = history()
    sent[2].read, sent[2].standing = [], standing
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


@pytest.mark.parametrize("standing", ["queued", "scoring", "store-unavailable"])
def test_a_stuck_request_is_found(standing: str) -> None:
    sent, commits, expected = history()
    sent[0].read, sent[0].standing = [], standing
    assert faults(check(sent, commits[1:], expected)) == {"stuck": 1}


def test_what_is_left_in_the_ledger_is_found() -> None:
    assert faults(check(*history(), leftovers=["{p00}:q:scoring/m@1"])) == {"stuck": 1}


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


def test_poison_must_be_dead_and_nothing_else() -> None:
    sent, commits, expected = history()
    sent[0].poison, sent[0].read = True, [document(0, state="dead", result=None)]
    assert check(sent, commits, expected).clean
    sent[0].read = [document(0)]
    assert faults(check(sent, commits, expected)) == {"wrong": 1}


def test_an_unknown_one_may_have_ended_or_be_absent_but_not_ended_twice() -> None:
    sent, commits, expected = history()
    sent[0].answer, sent[0].request_id, sent[0].read = "unknown", None, []
    for seen in (commits, commits[1:]):
        verdict = check(sent, seen, expected)
        assert (verdict.unknown, verdict.clean) == (1, True)
    assert faults(check(sent, [*commits, Commit("id-0", 0, b"0")], expected)) == {"doubled": 1}
