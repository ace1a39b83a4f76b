"""Ledgers with a cache of results: their own, or one elsewhere."""

import pytest

from pipeline.breakers.calls import Breakers
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Completed, Outcome, Output
from pipeline.ledger.keys import TAG
from pipeline.ledger.result_cache import CacheFiller
from tests.support.ledger import Ledger, LedgerMaker

SAME = {"n": -1}


RESULT = {"score": 0.25, "decision": "approve"}


def run_stages(ledger: Ledger, outcome: Outcome | None = None, *, scored_by: str = "") -> None:
    """Let what waits pass all stages, as a worker with a cache elsewhere would, if there is one.

    ``scored_by``: the model that answers at scoring in place of the pinned one.
    """
    worker, url = ledger.worker(), ledger.settings.cache_url
    for stage in Stage:
        batch = ledger.claim(worker, stage)
        if batch is None:
            continue
        fallback = scored_by if stage is Stage.SCORING else ""
        outcomes: list[Outcome] = [Completed(Output(b"body", scored_by=fallback))] * len(batch.works)
        if stage is Stage.POSTPROCESS:
            outcomes = [outcome or Completed(Output(RESULT, [{"feature": "n", "kind": "outlier"}]))] * len(batch.works)
        ledger.settle(worker, batch, outcomes)
        if url and stage is Stage.POSTPROCESS:
            CacheFiller(url, ledger.settings, Breakers()).fill(batch.works, outcomes)


HERE_AND_ELSEWHERE = pytest.mark.parametrize(
    ("make_ledger", "cache_elsewhere"),
    [("fakeredis", False), ("valkey", False), ("valkey", True)],
    indirect=["make_ledger"],
)


def elsewhere(valkey: str, make_ledger: LedgerMaker, **environment: str) -> Ledger:
    return make_ledger(cache_url=valkey.removesuffix("/0") + "/1", **environment)


def forget_pointers(ledger: Ledger) -> None:
    """With a cache elsewhere: two seconds pass."""
    if ledger.settings.cache_url:
        for key in ledger.client.keys(f"{TAG}f:*"):
            ledger.client.delete(key)
