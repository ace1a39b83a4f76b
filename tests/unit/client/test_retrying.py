"""Retrying: what was accepted stays accepted, is never accepted twice, and each chunk of a stream has its own time."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from pipeline.client.coalescing import Coalescer
from pipeline.client.retrying import Retrying
from pipeline.contracts.problems import InvalidRequest, Overloaded, Problem, StoreUnavailable
from pipeline.ledger.producers.submissions import Known, Submission, SubmissionBatch

FULL, AWAY = Overloaded("full"), StoreUnavailable("away")
FULL.retry_after_s = AWAY.retry_after_s = 0.01  # type: ignore[assignment]
Answers = list[Known | Problem]


class Ledger:
    """Gives the next of some outcomes to each batch that is sent, and keeps the batches."""

    def __init__(self, *outcomes: Answers | Exception | None) -> None:
        self._outcomes = list(outcomes)
        self.sent: list[SubmissionBatch] = []
        self.prepared = asyncio.Event()

    async def prepare(self, batch: SubmissionBatch) -> None:
        self.prepared.set()

    async def send(self, batch: SubmissionBatch) -> Answers:
        self.sent.append(batch)
        outcome = self._outcomes.pop(0)
        if outcome is None:
            await asyncio.Event().wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[return-value]


def submissions(count: int) -> Sequence[Submission]:
    return [Submission("m", {"n": number}) for number in range(count)]


def known(number: int) -> Known:
    return Known(bytes([number]) * 16)


def run(ledger: Callable[[], Ledger], use: Callable[[Retrying, Ledger], object], retry_for_s: float = 30) -> object:
    async def check() -> object:
        made = ledger()
        return await asyncio.wait_for(use(Retrying(made, retry_for_s, 0.2), made), 60)  # type: ignore[arg-type]

    return asyncio.run(check())


def test_an_outage_sends_the_same_batch_again_and_a_refusal_a_new_one_of_those_refused() -> None:
    async def use(retrying: Retrying, ledger: Ledger) -> None:
        assert await retrying.accept(submissions(3)) == [known(1), known(2), known(3)]
        first, again, second, third = ledger.sent
        assert (first, len(first.submissions)) == (again, 3)
        assert second.submissions == third.submissions == [first.submissions[1]]
        assert len({first.dedup_token, second.dedup_token, third.dedup_token}) == 3

    run(lambda: Ledger(AWAY, [known(1), FULL, known(3)], [FULL], [known(2)]), use)


@pytest.mark.parametrize("silent", [True, False])
def test_what_was_accepted_stays_so_if_an_outage_follows_while_others_are_sent_again(silent: bool) -> None:
    async def use(retrying: Retrying, ledger: Ledger) -> None:
        one, refused, invalid = await retrying.accept(submissions(3))
        assert one == known(1)
        assert isinstance(refused, StoreUnavailable)
        assert isinstance(invalid, InvalidRequest)

    answers: Answers = [known(1), FULL, InvalidRequest("no")]
    run(lambda: Ledger(answers, *[None if silent else AWAY] * 99), use, retry_for_s=1)


def test_a_request_that_may_have_been_accepted_is_never_sent_as_another() -> None:
    """It was refused first, then sent again, and the outcome of that is unknown."""

    async def use(retrying: Retrying, ledger: Ledger) -> None:
        coalescer: Coalescer[Submission, Known] = Coalescer(retrying.accept_once, 10)  # type: ignore[arg-type]
        now = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable):  # there would be time left for another
            await retrying.after_refusal(FULL, lambda: coalescer(submissions(1)[0], now + 0.5), now + 30)
        assert len({batch.dedup_token for batch in ledger.sent}) == 1

    run(lambda: Ledger(*[AWAY] * 999), use, retry_for_s=1)


def test_the_time_of_a_chunk_begins_when_the_one_before_is_done() -> None:
    async def use(retrying: Retrying, ledger: Ledger) -> None:
        before = asyncio.get_running_loop().create_future()
        chunk = asyncio.create_task(retrying.accept(submissions(1), before))
        await ledger.prepared.wait()
        await asyncio.wait([chunk], timeout=0.5)  # longer than the chunk may take
        assert not ledger.sent
        before.set_result(None)
        assert await chunk == [known(1)]

    run(lambda: Ledger([known(1)]), use, retry_for_s=0)


@pytest.mark.parametrize("retry_for_s", [0, 0.3])
def test_a_call_that_is_not_answered_ends_in_its_time(retry_for_s: float) -> None:
    async def use(retrying: Retrying, ledger: Ledger) -> None:
        with pytest.raises(StoreUnavailable):
            await retrying.accept_once(submissions(1), retrying.by())
        assert len(ledger.sent) == 1

    run(lambda: Ledger(None), use, retry_for_s)


def test_closing_ends_calls_and_pauses() -> None:
    async def use(retrying: Retrying, ledger: Ledger) -> None:
        calls = [asyncio.create_task(retrying.accept(submissions(1))) for _ in range(2)]
        while len(ledger.sent) < 2:
            await asyncio.sleep(0)
        await retrying.close()
        for call in calls:
            with pytest.raises(RuntimeError, match="closed"):
                await call
        with pytest.raises(RuntimeError, match="closed"):
            await retrying.read([], retrying.by())
        sent = len(ledger.sent)
        await asyncio.sleep(0)
        assert len(ledger.sent) == sent

    slow = StoreUnavailable("away")
    slow.retry_after_s = 60
    run(lambda: Ledger(None, slow), use)
