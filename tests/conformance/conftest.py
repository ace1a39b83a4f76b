"""What the conformance suite shares: a ledger, and one whose cache of results is here or elsewhere."""

import pytest

from tests.support.caches import elsewhere
from tests.support.ledger import Ledger, LedgerMaker


@pytest.fixture
def ledger(make_ledger: LedgerMaker) -> Ledger:
    return make_ledger()


@pytest.fixture
def cached(cache_elsewhere: bool, valkey: str, make_ledger: LedgerMaker) -> Ledger:
    """A ledger that finds its own answers, or one with a cache elsewhere (another database)."""
    return elsewhere(valkey, make_ledger) if cache_elsewhere else make_ledger()
