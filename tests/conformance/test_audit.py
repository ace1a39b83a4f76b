"""The proof's log: everything that befalls a batch, in order, while the proof runs, and nothing otherwise."""

from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.recovery import release_claims
from tests.support.ledger import Ledger


def logged(ledger: Ledger) -> list[dict[bytes, bytes]]:
    return [entry for _, entry in ledger.client.xrange(keys.EVENTS)]


def test_claims_settles_releases_and_ends_are_logged_a_batch_each(ledger: Ledger) -> None:
    ledger.client.set(keys.AUDIT, "1")
    ids = ledger.accept(3)
    worker = ledger.worker("w1")
    for stage in Stage:
        batch = ledger.claim(worker, stage)
        if stage is Stage.SCORING:
            release_claims(ledger.scripts, "w1", charge="loss", reason="it vanished")
            batch = ledger.claim(worker, stage)
        ledger.complete(worker, batch)
    registered, *log = logged(ledger)
    assert (registered[b"what"], registered[b"incarnation"]) == (b"registered", b"w1")
    each = [(entry[b"what"], entry.get(b"charge")) for entry in log]
    claimed, settled, released = (b"claimed", None), (b"settled", None), (b"released", b"loss")
    assert each == [
        *(claimed, settled),
        *(claimed, released, claimed, settled),
        *(claimed, (b"ended", None), settled),
    ]
    first, end = log[0], log[-2]
    assert first[b"ids"] == b"".join(ids)
    assert (first[b"incarnation"], first[b"lane"]) == (b"w1", ledger.lane().name.encode())
    assert log[1][b"field"] == first[b"field"]
    assert {request_id: end[request_id] for request_id in ids} == {
        request_id: ledger.client.get(keys.record(request_id)) for request_id in ids
    }


def test_a_batch_that_was_never_begun_is_released_without_a_charge(ledger: Ledger) -> None:
    ledger.client.set(keys.AUDIT, "1")
    ledger.accept()
    ledger.claim(ledger.worker("w1"))
    release_claims(ledger.scripts, "w1", charge="start", running="another")
    assert logged(ledger)[-1][b"charge"] == b"none"


def test_nothing_is_logged_unless_the_proof_runs(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept()
    for stage in Stage:
        ledger.complete(worker, ledger.claim(worker, stage))
    assert not ledger.client.exists(keys.EVENTS)
