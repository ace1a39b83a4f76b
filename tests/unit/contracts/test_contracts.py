"""Ids, lanes, scores, envelopes and records: what is written is what is read."""

import math
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.attempts import Attempt, Attempts
from pipeline.contracts.envelope import check_envelope, pointer
from pipeline.contracts.ids import accepted_ms, from_text, random_tails, rfc3339, to_text
from pipeline.contracts.lanes import ModelRef, parse_lane
from pipeline.contracts.problems import InvalidRequest
from pipeline.contracts.stages import Priority, Stage, State, deadline_of, waiting_score
from pipeline.contracts.work import Header, Progress
from pipeline.ledger.records import (
    ACCEPTED,
    End,
    Entry,
    end_of,
    pack_attempts,
    pack_entry,
    pack_features,
    pack_prefix,
    unpack_attempts,
    unpack_entry,
)
from pipeline.ledger.status_documents import status_of

HEADER = Header("credit-default", "1", b"\x01" * 32, "", 1, 60_000, 0, True)
FRONT = pack_prefix(HEADER)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_ids_are_uuids_of_version_seven_and_unlike() -> None:
    stamp = (1_800_000_000_123).to_bytes(6, "big")
    ids = [stamp + tail for tail in random_tails(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    for request_id in ids:
        parsed = uuid.UUID(bytes=request_id)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert to_text(request_id) == str(parsed)
        assert from_text(str(parsed)) == from_text(str(parsed).upper()) == request_id
        assert accepted_ms(request_id) == 1_800_000_000_123


@pytest.mark.parametrize(
    "text", ["", "x", "85952cad-0b66-4b1c-beef-3d0a3046b12c", "{01890000-0000-7000-8000-000000000000}"]
)
def test_anything_else_is_not_an_id(text: str) -> None:
    with pytest.raises(ValueError, match="is not a request id"):
        from_text(text)


def test_times_are_rfc3339_in_utc_with_milliseconds() -> None:
    assert rfc3339(1_800_000_000_007.9) == "2027-01-15T08:00:00.007Z"
    assert rfc3339(None) is None


@given(st.sampled_from(Priority), st.sampled_from(Priority), st.integers(0, 2**42), st.integers(0, 2**42))
def test_waiting_scores_order_by_priority_then_deadline_and_are_exact_doubles(
    one: Priority, other: Priority, deadline: int, later: int
) -> None:
    score = waiting_score(one, deadline)
    assert float(score) == score
    assert deadline_of(score) == deadline
    assert (score < waiting_score(other, later)) == ((one, deadline) < (other, later))


def test_lanes_name_stage_pool_and_version() -> None:
    ref = ModelRef("credit-default", "1.2", "a" * 64, "gpu")
    assert ref.lane(Stage.PREPROCESS) == f"preprocess/credit-default@1.2#{'a' * 64}"
    lane = parse_lane(ref.lane(Stage.SCORING))
    assert (lane.queue, lane.stage, lane.model) == ("scoring.gpu", Stage.SCORING, ref)
    assert lane.label == "scoring.gpu/credit-default@1.2"
    with pytest.raises(ValueError, match="is not a lane"):
        parse_lane("scoring")


@pytest.mark.parametrize(
    ("change", "places"),
    [
        ({"model": 5}, ["/model"]),
        ({"model": "../etc"}, ["/model"]),
        ({"features": None}, ["/features"]),
        ({"timeout_s": math.inf}, ["/timeout_s"]),
        ({"timeout_s": True}, ["/timeout_s"]),
        ({"timeout_s": 86_401, "priority": 1}, ["/priority", "/timeout_s"]),
        ({"allow_degraded": "no"}, ["/allow_degraded"]),
    ],
)
def test_an_envelope_is_refused_with_pointers(change: dict, places: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_envelope({"model": "credit-default", "features": {}} | change)
    assert [error["pointer"] for error in caught.value.errors or []] == places


def test_pointers_are_escaped() -> None:
    assert pointer(("a/b", "c~d", 0)) == "/a~1b/c~0d/0"


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_features_come_back_as_they_were(features: dict) -> None:
    entry = unpack_entry(FRONT + pack_features(features))
    assert (entry.kind, entry.header, entry.body, entry.ended) == (ACCEPTED, HEADER, features, False)


def test_numbers_beyond_64_bits_become_floats_and_foreign_values_are_refused() -> None:
    body = unpack_entry(FRONT + pack_features({"a": 2**70, "b": -(10**400)})).body
    assert body == {"a": 2.0**70, "b": -math.inf}
    for value in ({1, 2}, object(), "\ud800"):
        with pytest.raises(InvalidRequest, match="cannot be stored"):
            pack_features({"a": value})


def test_nesting_is_bounded() -> None:
    deep: list = []
    for _ in range(31):
        deep = [deep]
    pack_features({"a": deep})
    with pytest.raises(InvalidRequest, match="nested"):
        pack_features({"a": [[deep]]})


def test_attempts_come_back_as_they_were() -> None:
    attempts = Attempts(2, 1, True, (Attempt(1, 5, "scoring", 'say "x"\n', "SIGKILL"), Attempt(2, 6, "scoring", "é")))
    assert unpack_attempts(pack_attempts(attempts)) == attempts
    assert unpack_attempts(None) == Attempts()


def test_a_status_document_has_every_key_at_every_step() -> None:
    request_id = (1_800_000_000_000).to_bytes(6, "big") + random_tails(1)[0]
    accepted = Entry(ACCEPTED, HEADER, Progress(0), {}, FRONT)
    output = unpack_entry(pack_entry("preprocess", FRONT, Progress(5.0, (("preprocess", 1, 2),)), b""))
    ended = unpack_entry(end_of(State.SUCCEEDED, FRONT, Progress(0), End(1_800_000_001_000, {"score": 1}, None, 1)))
    queued = status_of(request_id, accepted)
    begun = status_of(request_id, accepted, waits_first=False)
    scoring = status_of(request_id, accepted, latest=output)
    done = status_of(request_id, ended)
    assert [document["state"] for document in (queued, begun, scoring, done)] == [
        "queued", "preprocessing", "scoring", "succeeded",
    ]  # fmt: skip
    assert set(queued) == set(begun) == set(scoring) == set(done)
    assert scoring["timings"] == {"preprocess": {"waited_ms": 1, "worked_ms": 2}}
    assert (queued["finished_at"], done["finished_at"]) == (None, "2027-01-15T08:00:01.000Z")
