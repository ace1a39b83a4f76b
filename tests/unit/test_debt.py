"""Claims that could not be given back in an outage are owed: paid once it is over, before anything is claimed."""

import threading

import pytest
from redis.exceptions import ConnectionError as StoreConnectionError

from tasks.child import Debt


class Store:
    """Gives claims back, or is away."""

    def __init__(self) -> None:
        self.away = True
        self.given_back = 0
        self.paid = threading.Event()

    def give_back(self) -> int:
        if self.away:
            raise StoreConnectionError("away")
        self.given_back += 1
        self.paid.set()
        return 1


def test_what_an_outage_left_owed_is_paid_when_it_is_over_and_once() -> None:
    store = Store()
    debt = Debt(store)  # type: ignore[arg-type]
    debt.owe()
    with pytest.raises(StoreConnectionError):
        debt.pay()  # so nothing else is claimed meanwhile
    store.away = False
    assert store.paid.wait(30), "it is paid without a call"
    debt.pay()
    assert store.given_back == 1


def test_whatever_keeps_it_from_being_paid_it_is_tried_again() -> None:
    """The thread that pays must not end unnoticed."""

    class Odd(Store):
        def give_back(self) -> int:
            if not self.away:
                self.away = True
                raise LookupError("unexpected")
            self.paid.set()
            return 1

    store = Odd()
    store.away = False
    debt = Debt(store)  # type: ignore[arg-type]
    with pytest.raises(LookupError):
        debt.owe()
    store.away = False
    threading.Thread(target=debt._pay_when_possible, daemon=True).start()
    assert store.paid.wait(30)


def test_without_an_outage_it_is_paid_at_once() -> None:
    store = Store()
    store.away = False
    debt = Debt(store)  # type: ignore[arg-type]
    debt.pay()
    assert store.given_back == 0, "nothing is owed"
    debt.owe()
    assert store.given_back == 1
