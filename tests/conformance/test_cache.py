"""The cache: what has been computed lately is given again, and its absence costs nothing but speed."""

from typing import Any

import pytest

from pipeline.contracts import cache_keys
from pipeline.contracts.stages import Stage, State
from pipeline.contracts.work import Completed, Ended, Outcome, Output
from pipeline.ledger.cache import CacheFiller
from pipeline.ledger.keys import TAG
from pipeline.ledger.parcels import Accepted, Known, Submission, idempotency
from pipeline.ledger.releases import Release, publish
from tests.conformance.conftest import FAILURE, Ledger, LedgerMaker

SAME = {"n": -1}
RESULT = {"score": 0.25, "decision": "approve"}


def score(ledger: Ledger, filler: CacheFiller, outcome: Outcome | None = None) -> None:
    """Let what waits pass all stages, and the last one fill the cache."""
    worker = ledger.worker()
    for stage in Stage:
        batch = ledger.claim(worker, stage)
        if batch is None:
            continue
        outcomes: list[Outcome] = [Completed(Output(b"body"))] * len(batch.works)
        if stage is Stage.POSTPROCESS:
            outcomes = [outcome or Completed(Output(RESULT, [{"feature": "n", "kind": "outlier"}]))] * len(batch.works)
        ledger.settle(worker, batch, outcomes)
        if stage is Stage.POSTPROCESS:
            filler.fill(batch.works, outcomes)


@pytest.fixture
def filler(ledger: Ledger) -> CacheFiller:
    return CacheFiller(ledger.client, ledger.settings)


def submit(ledger: Ledger, **fields: Any) -> Any:
    (answer,) = ledger.run(ledger.producing.accept([Submission("m", SAME, **fields)]))
    return answer


def forget_landed(ledger: Ledger) -> None:
    """Two seconds pass: whoever asks now finds an answer in the cache or nowhere."""
    for key in ledger.client.keys(f"{TAG}f:*"):
        ledger.client.delete(key)


def entries(ledger: Ledger) -> int:
    return len(ledger.client.keys(f"{TAG}x:*"))


def test_a_result_is_given_again(ledger: Ledger, filler: CacheFiller) -> None:
    first = submit(ledger)
    score(ledger, filler)
    forget_landed(ledger)
    key = idempotency("", "k", "m", SAME, "normal", 1.0)
    again = submit(ledger, key=key)
    assert isinstance(again, Accepted)
    status, (stored, original) = again.status(), ledger.read(again.id, first.id)
    assert stored == status
    assert (status["state"], status["result"], status["cached"], status["joined"]) == ("succeeded", RESULT, True, False)
    assert (original["cached"], original["result"], original["anomalies"]) == (False, RESULT, status["anomalies"])
    assert (status["scored_by"], status["attempts"], status["timings"]) == ("m@1", 0, {})
    assert status["finished_at"] == status["submitted_at"]
    assert ledger.leftovers() == set()
    assert 0 < ledger.client.pttl(f"{TAG}r:".encode() + again.id) <= ledger.settings.result_ttl * 1000
    counts = ledger.client.hgetall(f"{TAG}counts")
    assert (counts[b"accepted"], counts[b"succeeded"]) == (b"2", b"2")
    assert submit(ledger, key=key) == Known(again.id), "a key is older than the cache"


def test_it_is_kept_as_long_as_its_model_says(ledger: Ledger, filler: CacheFiller) -> None:
    submit(ledger)
    score(ledger, filler)
    (key,) = ledger.client.keys(f"{TAG}x:*")
    assert 50_000 < ledger.client.pttl(key) <= 60_000


def test_another_version_of_model_or_preprocessing_knows_nothing_of_it(
    ledger: Ledger, filler: CacheFiller, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(ledger)
    score(ledger, filler)
    forget_landed(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(cache_keys, "PREPROCESSING_VERSION", 2)
        assert submit(ledger).end is None
    forget_landed(ledger)
    newer = Release("m", "2", "b" * 64, "", {}, 60)
    ledger.run(publish(ledger.async_client, newer, make_current=True))
    assert submit(ledger).end is None
    assert ledger.run(ledger.producing.accept([Submission("m@1", SAME)]))[0].end is not None


def test_no_cache_neither_reads_nor_fills(ledger: Ledger, filler: CacheFiller) -> None:
    submit(ledger, no_cache=True)
    score(ledger, filler)
    assert entries(ledger) == 0
    submit(ledger)
    score(ledger, filler)
    assert entries(ledger) == 1
    assert submit(ledger, no_cache=True).end is None


@pytest.mark.parametrize("state", [State.DEAD, State.INVALID])
def test_failures_are_not_kept(ledger: Ledger, filler: CacheFiller, state: State) -> None:
    submit(ledger)
    score(ledger, filler, Ended(state, FAILURE))
    assert entries(ledger) == 0


def test_what_a_model_does_not_let_be_kept_is_not(ledger: Ledger, filler: CacheFiller) -> None:
    release = Release("m", "2", "b" * 64, "", {})
    ledger.run(publish(ledger.async_client, release, make_current=True))
    ledger.model = release.ref
    submit(ledger)
    score(ledger, filler)
    assert entries(ledger) == 0


def test_it_is_bounded_in_bytes_and_drops_what_expires_first(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(cache_max_bytes="20000")
    filler = CacheFiller(ledger.client, ledger.settings)
    for _ in range(30):
        ledger.accept(4)
        score(ledger, filler)
    used, index = int(ledger.client.get(f"{TAG}xb")), ledger.client.zrange(f"{TAG}xi", 0, -1)
    assert 17_000 < used <= 20_000
    sizes = ledger.client.hgetall(f"{TAG}xs")
    assert used == sum(map(int, sizes.values()))
    assert set(sizes) == set(index)
    assert {f"{TAG}x:".encode() + key for key in index} == set(ledger.client.keys(f"{TAG}x:*"))
    forget_landed(ledger)
    last = ledger.run(ledger.producing.accept([Submission("m", {"n": 119}), Submission("m", {"n": 0})]))
    assert [answer.end is not None for answer in last] == [True, False]


def test_what_has_expired_makes_room(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(cache_max_bytes="5000")
    filler = CacheFiller(ledger.client, ledger.settings)
    ledger.accept(10)
    score(ledger, filler)
    ledger.turn_clock(61)
    ledger.accept(1)
    score(ledger, filler)
    assert entries(ledger) == 1


def test_a_batch_larger_than_the_bound_is_not_kept(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(cache_max_bytes="100")
    ledger.accept(10)
    score(ledger, CacheFiller(ledger.client, ledger.settings))
    assert entries(ledger) == 0


def test_the_cache_yields_first_when_memory_is_short(ledger: Ledger, filler: CacheFiller) -> None:
    assert ledger.sweeping.lead("one", shortage="lean")
    submit(ledger)
    score(ledger, filler)
    assert entries(ledger) == 0
    assert ledger.sweeping.lead("one")
    submit(ledger, timeout_ms=1000, no_cache=True)
    ledger.accept(1)
    score(ledger, filler)
    assert entries(ledger) == 1


def test_its_count_of_bytes_does_not_drift(ledger: Ledger) -> None:
    """Entries that have expired in the server are still counted when they are filled anew."""
    cache_keys = [n.to_bytes(16, "big") for n in range(640)]
    for size in (100, 300, 100):
        for start in range(0, 640, 128):
            pairs = [part for key in cache_keys[start : start + 128] for part in (key, b"v" * size)]
            assert ledger.scripts.fill(args=[1 << 30, 60_000, *pairs]) == 128
        assert int(ledger.client.get(f"{TAG}xb")) == 640 * (size + 250)
        for key in ledger.client.keys(f"{TAG}x:*"):
            ledger.client.delete(key)
        ledger.turn_clock(61)


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x94\x01\x02\x03\x04", b"\x01"])
def test_what_it_cannot_read_is_not_there(ledger: Ledger, filler: CacheFiller, garbage: bytes) -> None:
    submit(ledger)
    score(ledger, filler)
    forget_landed(ledger)
    (key,) = ledger.client.keys(f"{TAG}x:*")
    ledger.client.set(key, garbage)
    assert submit(ledger).end is None


def test_results_need_not_be_json_objects(ledger: Ledger, filler: CacheFiller) -> None:
    submit(ledger)
    score(ledger, filler, Completed(Output({1: "one"})))
    forget_landed(ledger)
    assert submit(ledger).status()["result"] == {1: "one"}


def test_a_result_that_cannot_be_kept_stops_nobody(ledger: Ledger, filler: CacheFiller) -> None:
    submit(ledger)
    score(ledger, filler, Completed(Output({"a": object()})))
    assert entries(ledger) == 0
