"""Recent results are given again: by the ledger itself, or from a cache elsewhere, which may be gone."""

from typing import Any

import pytest
import redis

from pipeline.contracts import cache_keys
from pipeline.contracts.releases import Release
from pipeline.contracts.stages import State
from pipeline.contracts.work import Completed, Ended, Output
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, idempotency
from pipeline.ledger.releases import publish
from pipeline.ledger.scripts import Scripts
from tests.support.caches import HERE_AND_ELSEWHERE, RESULT, SAME, elsewhere, forget_pointers, run_stages
from tests.support.ledger import FAILURE, Ledger, LedgerMaker


def submit(ledger: Ledger, model: str = "m", **fields: Any) -> Any:
    (answer,) = ledger.run(ledger.producing.accept([Submission(model, SAME, **fields)]))
    return answer


def was_there(ledger: Ledger, answer: Any) -> bool:
    """Whether it ended at once, with an answer that was there."""
    (status,) = ledger.read(answer.id)
    assert status["cached"] == (status["state"] == "succeeded")
    return status["cached"]


ELSEWHERE = pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)


@HERE_AND_ELSEWHERE
def test_a_result_is_given_again(cached: Ledger) -> None:
    ledger, first = cached, submit(cached)
    run_stages(ledger)
    forget_pointers(ledger)
    key = idempotency("", "k", "m", SAME, "normal", 1.0)
    again = submit(ledger, key=key)
    assert again.id != first.id
    status, original = ledger.read(again.id, first.id)
    assert (status["state"], status["result"], status["cached"], status["joined"]) == ("succeeded", RESULT, True, False)
    assert (original["cached"], original["result"], original["anomalies"]) == (False, RESULT, status["anomalies"])
    assert status["scored_by"] == "m@1"
    assert status["finished_at"] >= status["submitted_at"]
    assert ledger.leftovers() == set()
    assert 0 < ledger.client.pttl(f"{TAG}r:".encode() + again.id) <= ledger.settings.result_ttl * 1000
    counts = ledger.client.hgetall(f"{TAG}counts")
    assert (counts[b"accepted"], counts[b"succeeded"]) == (b"2", b"2")
    assert submit(ledger, key=key) == Known(again.id), "a key is older than the cache"
    if isinstance(again, Accepted):
        assert again.status() == status, "what was found elsewhere need not be read back"


@HERE_AND_ELSEWHERE
def test_another_version_of_model_or_preprocessing_knows_nothing_of_it(
    cached: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = cached, submit(cached)
    run_stages(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(cache_keys, "PREPROCESSING_VERSION", 2)
        assert not was_there(ledger, submit(ledger))
    newer = Release("m", "2", "b" * 64, "", {}, 60)
    ledger.run(publish(ledger.async_client, newer, make_current=True))
    assert not was_there(ledger, submit(ledger))
    assert was_there(ledger, submit(ledger, "m@1"))


@HERE_AND_ELSEWHERE
def test_no_cache_neither_reads_nor_fills(cached: Ledger) -> None:
    ledger, _ = cached, submit(cached, no_cache=True)
    run_stages(ledger)
    assert not was_there(ledger, submit(ledger))
    run_stages(ledger)
    assert not was_there(ledger, submit(ledger, no_cache=True))
    assert was_there(ledger, submit(ledger))


@pytest.mark.parametrize("state", [State.DEAD, State.INVALID])
@HERE_AND_ELSEWHERE
def test_failures_are_not_kept(cached: Ledger, state: State) -> None:
    ledger, _ = cached, submit(cached)
    run_stages(ledger, Ended(state, FAILURE))
    assert not was_there(ledger, submit(ledger))


@HERE_AND_ELSEWHERE
def test_a_degraded_answer_is_not_kept(cached: Ledger) -> None:
    """Neither that of one request nor that of a flight; its own producers get it, and it says what it is."""
    ledger, alone = cached, submit(cached)
    run_stages(ledger, scored_by="small@1")
    first, member = submit(ledger), submit(ledger)
    run_stages(ledger, scored_by="small@1")
    for status, joined in zip(ledger.read(alone.id, first.id, member.id), (False, False, True), strict=True):
        assert (status["state"], status["degraded"], status["scored_by"]) == ("succeeded", True, "small@1")
        assert (status["result"], status["cached"], status["joined"]) == (RESULT, False, joined)
    again = submit(ledger)
    assert not was_there(ledger, again)
    run_stages(ledger)
    (status,) = ledger.read(again.id)
    assert (status["degraded"], status["scored_by"]) == (False, "m@1")
    assert was_there(ledger, submit(ledger))


@HERE_AND_ELSEWHERE
def test_what_a_model_does_not_let_be_kept_is_not(cached: Ledger) -> None:
    ledger, release = cached, Release("m", "2", "b" * 64, "", {})
    ledger.run(publish(ledger.async_client, release, make_current=True))
    ledger.model = release.ref
    submit(ledger)
    run_stages(ledger)
    assert not was_there(ledger, submit(ledger))


def test_it_is_kept_as_long_as_its_model_says(ledger: Ledger) -> None:
    submit(ledger)
    run_stages(ledger)
    (key,) = ledger.client.keys(f"{TAG}f:*")
    assert 50_000 < ledger.client.pttl(key) <= 60_000


@ELSEWHERE
def test_with_a_cache_elsewhere_the_ledger_remembers_two_seconds(valkey: str, make_ledger: LedgerMaker) -> None:
    ledger = elsewhere(valkey, make_ledger)
    submit(ledger)
    run_stages(ledger)
    (key,) = ledger.client.keys(f"{TAG}f:*")
    assert 0 < ledger.client.pttl(key) <= 2000
    (key,) = redis.Redis.from_url(ledger.settings.cache_url or "").keys(f"{TAG}x:*")
    assert 50_000 < redis.Redis.from_url(ledger.settings.cache_url or "").pttl(key) <= 60_000


def test_what_the_ledger_keeps_is_bounded(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(cache_max_bytes="2000")  # ten pointers
    for _ in range(5):
        ledger.accept(4)
        run_stages(ledger)
    lives = sorted(ledger.client.pttl(key) > 2000 for key in ledger.client.keys(f"{TAG}f:*"))
    assert sum(lives) == 8, "a batch more would be too much"
    ledger.turn_clock(121)  # two periods on, what was counted has expired
    ledger.accept(4)
    run_stages(ledger)
    assert sum(ledger.client.pttl(key) > 2000 for key in ledger.client.keys(f"{TAG}f:*")) == 12


def test_the_cache_yields_first_when_memory_is_short(ledger: Ledger) -> None:
    assert ledger.sweeping.lead("one", shortage="memory_low").leads
    submit(ledger)
    run_stages(ledger)
    (key,) = ledger.client.keys(f"{TAG}f:*")
    assert ledger.client.pttl(key) <= 2000


# A cache elsewhere


@pytest.fixture
def far(valkey: str, make_ledger: LedgerMaker) -> Ledger:
    return elsewhere(valkey, make_ledger, cache_max_bytes="20000")


@pytest.fixture
def cache(far: Ledger) -> redis.Redis:
    client = redis.Redis.from_url(far.settings.cache_url or "")
    client.flushdb()
    return client


@ELSEWHERE
def test_it_is_bounded_in_bytes_and_drops_what_expires_first(far: Ledger, cache: redis.Redis) -> None:
    for _ in range(30):
        far.accept(4)
        run_stages(far)
    used, index, sizes = int(cache.hget(f"{TAG}xs", "")), cache.zrange(f"{TAG}xi", 0, -1), cache.hgetall(f"{TAG}xs")  # type: ignore[arg-type]
    assert 17_000 < used <= 20_000
    assert used == int(sizes.pop(b"")) == sum(map(int, sizes.values()))
    assert set(sizes) == set(index)
    assert {f"{TAG}x:".encode() + key for key in index} == set(cache.keys(f"{TAG}x:*"))
    forget_pointers(far)
    last = far.run(far.producing.accept([Submission("m", {"n": 119}), Submission("m", {"n": 0})]))
    assert [was_there(far, answer) for answer in last] == [True, False]


@ELSEWHERE
def test_what_has_expired_makes_room(far: Ledger, cache: redis.Redis) -> None:
    far.accept(10)
    run_stages(far)
    cache.incrby(f"{TAG}offset", 61_000)
    far.accept(1)
    run_stages(far)
    assert len(cache.keys(f"{TAG}x:*")) == 1


@ELSEWHERE
def test_its_count_of_bytes_does_not_drift(far: Ledger, cache: redis.Redis) -> None:
    """Entries that have expired in the server are still counted when they are filled again."""
    scripts, cache_keys = Scripts(cache), [n.to_bytes(16, "big") for n in range(640)]
    for size in (100, 300, 100):
        for start in range(0, 640, 128):
            pairs = [part for key in cache_keys[start : start + 128] for part in (key, b"v" * size)]
            assert scripts.cache_fill(args=[1 << 30, 60_000, *pairs]) == 128
        assert int(cache.hget(f"{TAG}xs", "")) == 640 * (size + 250)  # type: ignore[arg-type]
        for key in cache.keys(f"{TAG}x:*"):
            cache.delete(key)
        cache.incrby(f"{TAG}offset", 61_000)


@ELSEWHERE
@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x94\x01\x02\x03\x04", b"\x01"])
def test_what_it_cannot_read_is_not_there(far: Ledger, cache: redis.Redis, garbage: bytes) -> None:
    submit(far)
    run_stages(far)
    forget_pointers(far)
    (key,) = cache.keys(f"{TAG}x:*")
    cache.set(key, garbage)
    assert not was_there(far, submit(far))


@ELSEWHERE
def test_results_need_not_be_json_objects(far: Ledger, cache: redis.Redis) -> None:
    submit(far)
    run_stages(far, Completed(Output({1: "one"})))
    forget_pointers(far)
    assert submit(far).status()["result"] == {1: "one"}


@ELSEWHERE
def test_a_result_that_cannot_be_kept_stops_nobody(far: Ledger, cache: redis.Redis) -> None:
    submit(far)
    run_stages(far, Completed(Output({"a": object()})))
    assert cache.keys(f"{TAG}x:*") == []
