"""What a child does with what escapes the runner: it gives back, or it ends and leaves it to its parent to charge."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as StoreConnectionError

from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.ledger.workers.claims import Fenced
from pipeline.worker.batches import Served, Unfit
from tasks import child

LANE = ModelRef("m", "1", "a" * 64).lane(Stage.PREPROCESS)


class Ended(Exception):
    """The process would have ended with this code."""


class Odd(BaseException):
    """No Exception."""


@pytest.fixture
def owed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often claims were given back, uncharged."""
    given_back: list[str] = []

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    debt = SimpleNamespace(pay=lambda: None, owe=lambda: given_back.append("all"))
    holds = SimpleNamespace(catch_soft_limit=lambda: None, debt=debt)
    monkeypatch.setattr(child, "_child", holds)
    return given_back


def serve(error: BaseException) -> Any:
    def raises(_: object) -> None:
        raise error

    child._child.runner = SimpleNamespace(serve=raises)  # type: ignore[union-attr]
    return child.answer(LANE)


@pytest.mark.parametrize("error", [StoreConnectionError("away"), OSError("away"), TimeoutError("away")])
def test_an_outage_charges_nobody(owed: list[str], error: Exception) -> None:
    with pytest.raises(type(error)):
        serve(error)
    assert owed == ["all"]


@pytest.mark.parametrize("error", [Unfit("it panicked"), RuntimeError("who knows"), Odd("no"), SystemExit(0)])
def test_an_error_that_nobody_knows_ends_the_process_and_its_parent_charges(
    owed: list[str], error: BaseException
) -> None:
    """Given back uncharged, the same requests would bring it about again, for ever."""
    with pytest.raises(Ended, match=str(os.EX_SOFTWARE)):
        serve(error)
    assert owed == []


def test_a_child_that_is_told_to_end_gives_back_uncharged(owed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "terminate_handler_fired", lambda: True)
    with pytest.raises(SystemExit):
        serve(SystemExit(0))
    assert owed == ["all"]


def test_a_fenced_child_just_returns(owed: list[str]) -> None:
    assert serve(Fenced("w1")) == Served()
    assert owed == []


def test_a_bell_of_no_lane_harms_nobody(owed: list[str]) -> None:
    with pytest.raises(ValueError, match=r"lane|nonsense"):
        child.answer("nonsense")
    assert owed == []
